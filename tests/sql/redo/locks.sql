-- Rows under contention; `churn` runs in several sessions at once.
create table contended(id int primary key, v int, w text) with (fillfactor=60);
insert into contended select g, 0, 'w' from generate_series(1, 60) g;
create table referring(id int references contended);
create table replaced(id int primary key);
insert into replaced select g * 7 from upto(3000) g;
create procedure churn() language plpgsql as $$
begin
  for i in 1..(400 * current_setting('redo.percent')::int / 100) loop
    begin
      if random() < 0.25 then perform 1 from contended where id = 1 + (random() * 60)::int for key share;
      elsif random() < 0.4 then perform 1 from contended where id = 1 + (random() * 60)::int for share;
      elsif random() < 0.5 then perform 1 from contended where id = 1 + (random() * 60)::int for no key update;
      elsif random() < 0.8 then
        update contended set v = v + 1, w = repeat('q', (random() * 200)::int) where id = 1 + (random() * 60)::int;
      elsif random() < 0.5 then insert into referring values (1 + (random() * 60)::int);
      else
        delete from replaced where id in (select id from replaced order by random() limit 3);
        insert into replaced values ((random() * 1000000)::int) on conflict do nothing;
      end if;
      if random() < 0.1 then raise exception 'rolled back'; end if;
    exception when others then null;
    end;
    if random() < 0.4 then commit; end if;
  end loop;
end $$;
