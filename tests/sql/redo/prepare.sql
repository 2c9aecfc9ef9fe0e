-- What the other scripts share.
-- upto(n): 1 to n, or the share of n that the setting redo.percent asks for.
create function upto(n int) returns setof int language sql stable as $$
  select generate_series(1, greatest(n * current_setting('redo.percent')::int / 100, 1));
$$;
