-- BRIN: summaries that grow and move, revmap extension, ranges without summary.
create table br1(id int, t text, ts timestamp);
create index br1_a on br1 using brin(id) with (pages_per_range=1, autosummarize=on);
create index br1_t on br1 using brin(t) with (pages_per_range=1);
create index br1_m on br1 using brin(ts timestamp_minmax_multi_ops, id int4_bloom_ops) with (pages_per_range=2);
insert into br1 select g, repeat(md5((g%1000)::text),1+g%10), now()::timestamp+g*interval '1 s' from upto(15000) g;
select brin_summarize_new_values('br1_a'), brin_summarize_new_values('br1_t'), brin_summarize_new_values('br1_m');
insert into br1 select -g, repeat('z',1+g%200), now()::timestamp-g*interval '1 s' from upto(6000) g;
vacuum br1;
delete from br1 where id%3=0;
vacuum br1;
insert into br1 select -g, repeat(chr(97+(g/200)%26),1+(g%900)), now()::timestamp-g*interval '1 s' from upto(6000) g;
insert into br1 select g, repeat(chr(122),1+(g%1900)), now()::timestamp-g*interval '1 s' from upto(3000) g;
do $$ begin for b in 0..120 by 3 loop perform brin_desummarize_range('br1_a',b); perform brin_desummarize_range('br1_t',b); perform brin_desummarize_range('br1_m',b); end loop; end $$;
vacuum br1;
select brin_summarize_range('br1_a',5), brin_summarize_new_values('br1_a'), brin_summarize_new_values('br1_t');
update br1 set t=t||'x' where id%5=0;
vacuum br1;
-- growing values: BRIN UPDATE
create table br2(i int, t text) with (fillfactor=10);
alter table br2 alter t set storage plain;
create index br2_t on br2 using brin(t) with (pages_per_range=1);
insert into br2 select g,'m' from upto(2000) g;
vacuum br2;
select brin_summarize_new_values('br2_t');
do $$ begin for k in 1..10 loop update br2 set t = repeat('n',k*60)||i where i%20=k; commit; end loop; end $$; vacuum br2;
-- revmap extension: > 1360 ranges
create table br3(i int, pad text) with (fillfactor=10);
alter table br3 alter pad set storage plain;
create index br3_i on br3 using brin(i) with (pages_per_range=1);
insert into br3 select g, repeat('p',700) from upto(3200) g;
vacuum br3;
insert into br3 select g, repeat('p',700) from upto(3200) g;
select brin_summarize_new_values('br3_i');
do $$ begin for b in 0..4000 by 7 loop perform brin_desummarize_range('br3_i',b); end loop; end $$; select brin_summarize_new_values('br3_i');
checkpoint;
insert into br3 select -g, repeat('p',700) from generate_series(1,100) g;
update br3 set i=i-10000 where i%50=0;
