-- Generic records, as the bloom index writes them.
create extension if not exists bloom;
create table bl(a int,b int,c text);
create index on bl using bloom(a,b,c);
insert into bl select g,g%10,md5(g::text) from upto(3000) g;
delete from bl where a%3=0;
vacuum bl;
insert into bl select g,g%10,md5(g::text) from upto(1000) g;
