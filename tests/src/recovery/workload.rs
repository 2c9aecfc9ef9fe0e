//! Random SQL on small tables that between them have every kind of index.
//!
//! The steps a seed gives are always the same; what a step does to pages also depends on the
//! server (transaction ids, hash seeds, what is in its buffers).

use crate::postgres::Cluster;
use anyhow::{Context as _, Result};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use std::path::PathBuf;
use tokio_postgres::Client;
use types::PgMajor;

/// Tables with random indexes.
const TABLES: usize = 4;
/// Most indexes on one of them.
const MOST_INDEXES: usize = 8;
/// Most prepared transactions left open.
const MOST_PREPARED: usize = 5;
/// Most rows one step inserts.
const MOST_ROWS: u32 = 400;

/// What can stand behind `CREATE INDEX name ON table`.
const INDEXES: [&str; 24] = [
    "(a)",
    "(k, a DESC) WITH (fillfactor = 60)",
    "(f) WHERE f < 0.7",
    "(a) INCLUDE (f) WITH (deduplicate_items = off)",
    "((a % 5), id)",
    "((a % 5))",
    "USING hash (a)",
    "USING hash (k) WITH (fillfactor = 20)",
    "USING hash ((a % 3))",
    "USING gin (arr) WITH (fastupdate = off)",
    "USING gin (arr) WITH (fastupdate = on, gin_pending_list_limit = 64)",
    "USING gin (tsv)",
    "USING gist (p)",
    "USING gist (r)",
    "USING gist (tsv)",
    "USING spgist (p)",
    "USING spgist (p kd_point_ops)",
    "USING spgist (k)",
    "USING spgist (r)",
    "USING brin (ts, a, k) WITH (pages_per_range = 1)",
    "USING brin (a int4_minmax_multi_ops, k text_bloom_ops) WITH (pages_per_range = 2)",
    "USING brin (r) WITH (pages_per_range = 1, autosummarize = off)",
    "USING brin (pad) WITH (pages_per_range = 1)",
    "USING bloom (a, k)",
];

#[derive(Debug)]
struct Index {
    name: String,
    table: usize,
    definition: &'static str,
}

/// A workload under way.
#[derive(Debug)]
pub struct Workload {
    rng: StdRng,
    indexes: Vec<Index>,
    /// Names of prepared transactions.
    prepared: Vec<String>,
    /// Makes names distinct.
    counter: u32,
    bloom: bool,
    databases: bool,
    scratch: PathBuf,
}

impl Workload {
    /// A workload that takes its decisions from `rng`.
    pub fn new(rng: StdRng) -> Workload {
        Workload {
            rng,
            indexes: Vec::new(),
            prepared: Vec::new(),
            counter: 0,
            bloom: false,
            databases: true,
            scratch: PathBuf::new(),
        }
    }

    /// Leaves out CREATE DATABASE, whose copies of whole directories are in no page's records.
    pub fn in_one_database(mut self) -> Workload {
        self.databases = false;
        self
    }

    /// Makes the tables and one index of each kind.
    pub async fn prepare(&mut self, cluster: &Cluster) -> Result<()> {
        self.scratch = cluster.scratch("rows")?;
        let extensions = cluster.install().extensions()?;
        self.bloom = extensions.iter().any(|e| e == "bloom");
        let client = self.session(cluster).await?;
        let mut sql = String::from(
            "CREATE FUNCTION filler(i int, n int) RETURNS text LANGUAGE sql AS
               $$ SELECT string_agg(md5(i::text || ':' || x::text), '') FROM generate_series(1, n) x $$;
             CREATE TABLE prepared_rows (id bigserial PRIMARY KEY, v text);
             CREATE INDEX ON prepared_rows USING hash (v);
             CREATE TABLE parts (k int, v text) PARTITION BY LIST (k);
             CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
             CREATE TABLE parts_1 PARTITION OF parts DEFAULT;
             CREATE TABLE keyed (k int PRIMARY KEY, n int);
             CREATE TABLE many (id bigserial PRIMARY KEY, arr int[]);
             CREATE INDEX ON many USING gin (arr) WITH (fastupdate = off);
             CREATE SEQUENCE counter;
             CREATE UNLOGGED TABLE fleeting (x int PRIMARY KEY);
             INSERT INTO fleeting SELECT generate_series(1, 500);",
        );
        if self.bloom {
            sql.push_str("CREATE EXTENSION bloom;");
        }
        for t in 0..TABLES {
            let fillfactor = self.rng.random_range(40..=100);
            sql.push_str(&format!(
                "CREATE TABLE t{t} (id bigserial, a int, k text, f float8, arr int[], p point, r int4range,
                   ts timestamp, tsv tsvector, pad text) WITH (fillfactor = {fillfactor});"
            ));
            if self.rng.random_bool(0.5) {
                sql.push_str(&format!("ALTER TABLE t{t} ALTER pad SET STORAGE EXTERNAL;"));
            }
        }
        client.batch_execute(&sql).await?;
        for t in 0..TABLES {
            let insert = self.insert(t);
            client.batch_execute(&insert).await?;
        }
        let mut kinds = INDEXES;
        kinds.shuffle(&mut self.rng);
        for (i, definition) in kinds.into_iter().enumerate() {
            if let Some(create) = self.create_index(i % TABLES, definition, "") {
                client.batch_execute(&create).await.context(create)?;
            }
        }
        Ok(())
    }

    /// Runs that many steps.
    pub async fn run(&mut self, cluster: &Cluster, steps: u32) -> Result<()> {
        let client = self.session(cluster).await?;
        for step in 0..steps {
            self.step(cluster, &client)
                .await
                .with_context(|| format!("step {step}"))?;
        }
        Ok(())
    }

    /// A session whose `random()` follows the seed.
    async fn session(&mut self, cluster: &Cluster) -> Result<Client> {
        let client = cluster.client("postgres").await?;
        let seed: f64 = self.rng.random();
        client
            .batch_execute(&format!(
                "SET client_min_messages = error; SELECT setseed({seed})"
            ))
            .await?;
        Ok(client)
    }

    async fn step(&mut self, cluster: &Cluster, client: &Client) -> Result<()> {
        let t = self.rng.random_range(0..TABLES);
        let statements = match self.rng.random_range(0..100) {
            0..23 => vec![self.insert(t)],
            23..26 => self.many(),
            26..31 => self.copy(t),
            31..42 => vec![self.update(t)],
            42..50 => vec![self.delete(t)],
            50..58 => vec![self.vacuum(t)],
            58..64 => self.read(t),
            64..68 => self.another_index(t),
            68..72 => self.rewrite_index(),
            72..74 => self.drop_index(),
            74..78 => self.index_upkeep(),
            78..82 => self.savepoints(t),
            82..85 => return self.two_phase(client).await,
            85..88 => return self.row_locks(cluster).await,
            88..90 => self.truncate(t),
            90..92 => self.rewrite_table(t),
            92..94 => self.tables_come_and_go(),
            94..96 => self.keyed(),
            96..98 => vec!["CHECKPOINT".to_owned()],
            98 => self.catalogs(),
            _ if self.databases => return self.database(cluster, client).await,
            _ => Vec::new(),
        };
        for sql in statements {
            client.batch_execute(&sql).await.context(sql)?;
        }
        Ok(())
    }

    fn rows(&mut self) -> u32 {
        // Mostly few, sometimes many.
        let most = *[5, 50, MOST_ROWS].choose(&mut self.rng).unwrap_or(&5);
        self.rng.random_range(1..=most)
    }

    fn name(&mut self, prefix: &str) -> String {
        self.counter += 1;
        format!("{prefix}{}", self.counter)
    }

    /// Rows of table `t` but its id.
    fn select(&mut self) -> String {
        let n = self.rows();
        let base = self.rng.random_range(0..1000);
        let pick = |rng: &mut StdRng, of: &[&'static str]| *of.choose(rng).unwrap_or(&"NULL");
        let a = pick(
            &mut self.rng,
            &[
                "g",
                "-g",
                "(random() * 20)::int",
                "(random() * 1e6)::int",
                "7",
                "NULL",
            ],
        );
        let k = pick(
            &mut self.rng,
            &[
                "'k' || g % 7",
                "filler(g, 1 + g % 6)",
                "repeat(chr(97 + g % 20), g % 120)",
                "'pre/' || g % 13 || '/' || (random() * 1000)::int",
                "md5(g::text)",
                "NULL",
            ],
        );
        let p = pick(
            &mut self.rng,
            &[
                "point(random() * 100, random() * 100)",
                "point(g % 10, g % 10)",
                "point(g, g)",
                "NULL",
            ],
        );
        let r = pick(
            &mut self.rng,
            &[
                "int4range((random() * 100)::int, 100 + (random() * 1000)::int)",
                "int4range(g, g + 5)",
                "'empty'",
            ],
        );
        let pad = pick(
            &mut self.rng,
            &[
                "NULL",
                "'x'",
                "repeat('y', g % 300)",
                "repeat(md5(g::text), 1 + g % 7)",
                "filler(g, 20)",
            ],
        );
        format!(
            "SELECT {a}, {k}, random(), array[g % 3, g % 50, (random() * 300)::int], {p}, {r}, timestamp '2026-01-01' + g * interval '1 min',
               to_tsvector('simple', 'w' || g % 17 || ' v' || (random() * 100)::int), {pad} FROM generate_series({base}, {}) g",
            base + n
        )
    }

    fn insert(&mut self, t: usize) -> String {
        format!(
            "INSERT INTO t{t} (a, k, f, arr, p, r, ts, tsv, pad) {}",
            self.select()
        )
    }

    /// Enough rows of one key for posting trees and for trees that lose and regain levels.
    fn many(&mut self) -> Vec<String> {
        let n = self.rng.random_range(1000..=4000);
        let some = format!(
            "DELETE FROM many WHERE id % 20 BETWEEN {0} AND {0} + 12",
            self.rng.random_range(0..8)
        );
        let middle = "DELETE FROM many m USING (SELECT min(id) AS low, max(id) AS high FROM many) b
             WHERE m.id > b.low + (b.high - b.low) * 0.1 AND m.id < b.low + (b.high - b.low) * 0.9";
        let most = "DELETE FROM many WHERE id < (SELECT max(id) FROM many) - 20";
        let delete = [some.as_str(), middle, most];
        let delete = delete.choose(&mut self.rng).copied().unwrap_or(most);
        vec![
            format!("INSERT INTO many (arr) SELECT array[1, g % 7] FROM generate_series(1, {n}) g"),
            delete.to_owned(),
            "VACUUM (INDEX_CLEANUP ON) many".to_owned(),
            "VACUUM (INDEX_CLEANUP ON) many".to_owned(),
        ]
    }

    /// Several tuples to a record, also into an empty table, frozen.
    fn copy(&mut self, t: usize) -> Vec<String> {
        let name = self.name("copy");
        let file = self.scratch.join(name);
        let columns = "(a, k, f, arr, p, r, ts, tsv, pad)";
        let out = format!("COPY ({}) TO '{}'", self.select(), file.display());
        let copy = format!("COPY t{t} {columns} FROM '{}'", file.display());
        let load = match self.rng.random_range(0..4) {
            0 => format!("BEGIN; TRUNCATE t{t}; {copy} WITH (FREEZE); COMMIT"),
            1 => format!("BEGIN; {copy}; ROLLBACK"),
            _ => copy,
        };
        vec![out, load]
    }

    fn update(&mut self, t: usize) -> String {
        let what = [
            "f = f + 0.1",
            "a = a + 1",
            "k = k || 'u'",
            "pad = repeat('z', (random() * 100)::int)",
            "pad = filler(a, 30)",
            "p = point(random() * 100, random() * 100), r = int4range(1, 2 + (random() * 50)::int)",
            "arr = arr || (random() * 99)::int",
            "id = id",
        ];
        let what = what.choose(&mut self.rng).unwrap_or(&"id = id");
        let share = [0.005, 0.05, 0.3].choose(&mut self.rng).unwrap_or(&0.01);
        // Wide keys would not fit into an index.
        format!("UPDATE t{t} SET {what} WHERE random() < {share} AND length(coalesce(k, '')) < 180")
    }

    fn delete(&mut self, t: usize) -> String {
        let which = match self.rng.random_range(0..6) {
            0 => "random() < 0.02".to_owned(),
            1 => "random() < 0.3".to_owned(),
            2 => format!("id % 7 = {}", self.rng.random_range(0..7)),
            3 => format!("a BETWEEN {0} AND {0} + 200", self.rng.random_range(0..800)),
            // The end of the table, which vacuum can then cut off.
            4 => format!(
                "(ctid::text::point)[0] > (SELECT max((ctid::text::point)[0]) * 0.6 FROM t{t})"
            ),
            _ => format!("k IN (SELECT k FROM t{t} LIMIT 50)"),
        };
        format!("DELETE FROM t{t} WHERE {which}")
    }

    fn vacuum(&mut self, t: usize) -> String {
        let options = [
            "INDEX_CLEANUP ON",
            "INDEX_CLEANUP ON",
            "INDEX_CLEANUP ON, FREEZE",
            "INDEX_CLEANUP OFF",
            "DISABLE_PAGE_SKIPPING",
            "ANALYZE",
        ];
        let options = options.choose(&mut self.rng).unwrap_or(&"ANALYZE");
        format!("VACUUM ({options}) t{t}")
    }

    /// Prunes pages and finds dead index entries, which later inserts remove.
    fn read(&mut self, t: usize) -> Vec<String> {
        let mut all = vec!["SET enable_seqscan = off; SET enable_bitmapscan = off".to_owned()];
        for condition in [
            "a >= -1000000",
            "a = 7",
            "k = 'k3'",
            "k LIKE 'pre%'",
            "p <@ box(point(-1, -1), point(1000, 1000))",
            "r && int4range(1, 1000)",
        ] {
            if self.rng.random_bool(0.6) {
                let read =
                    format!("SELECT count(*) FROM (SELECT 1 FROM t{t} WHERE {condition}) x;");
                all.push(read.repeat(2));
            }
        }
        all.push("RESET enable_seqscan; RESET enable_bitmapscan".to_owned());
        all.push(format!("SELECT count(*) FROM t{t}"));
        all
    }

    /// `None` if the table has enough indexes or the server lacks the access method.
    fn create_index(&mut self, t: usize, definition: &'static str, how: &str) -> Option<String> {
        let there = self.indexes.iter().filter(|i| i.table == t).count();
        if there >= MOST_INDEXES || (definition.contains("bloom (") && !self.bloom) {
            return None;
        }
        let name = self.name("x");
        let create = format!("CREATE INDEX {how} {name} ON t{t} {definition}");
        self.indexes.push(Index {
            name,
            table: t,
            definition,
        });
        Some(create)
    }

    fn another_index(&mut self, t: usize) -> Vec<String> {
        let definition = INDEXES.choose(&mut self.rng).copied().unwrap_or("(a)");
        let how = if self.rng.random_bool(0.3) {
            "CONCURRENTLY"
        } else {
            ""
        };
        self.create_index(t, definition, how).into_iter().collect()
    }

    fn drop_index(&mut self) -> Vec<String> {
        if self.indexes.len() <= INDEXES.len() / 2 {
            return Vec::new();
        }
        let which = self.rng.random_range(0..self.indexes.len());
        vec![format!(
            "DROP INDEX {}",
            self.indexes.swap_remove(which).name
        )]
    }

    fn rewrite_index(&mut self) -> Vec<String> {
        let Some(index) = self.indexes.choose(&mut self.rng) else {
            return Vec::new();
        };
        let name = &index.name;
        let how = [
            format!("REINDEX INDEX {name}"),
            format!("REINDEX INDEX CONCURRENTLY {name}"),
            format!("BEGIN; REINDEX INDEX {name}; ROLLBACK"),
        ];
        how.choose(&mut self.rng).cloned().into_iter().collect()
    }

    /// What some access methods offer beside vacuum.
    fn index_upkeep(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for index in &self.indexes {
            let name = &index.name;
            if index.definition.contains("gin") && self.rng.random_bool(0.5) {
                all.push(format!("SELECT gin_clean_pending_list('{name}')"));
            }
            if index.definition.contains("brin") {
                let block = self.rng.random_range(0..30);
                if self.rng.random_bool(0.3) {
                    all.push(format!("SELECT brin_desummarize_range('{name}', {block})"));
                }
                all.push(format!("SELECT brin_summarize_new_values('{name}')"));
            }
        }
        all
    }

    fn savepoints(&mut self, t: usize) -> Vec<String> {
        let (one, two, three) = (self.insert(t), self.insert(t), self.update(t));
        let delete = self.delete(t);
        let end = ["COMMIT", "ROLLBACK"]
            .choose(&mut self.rng)
            .unwrap_or(&"COMMIT");
        vec![format!(
            "BEGIN; SAVEPOINT a; {one}; SAVEPOINT b; {delete}; ROLLBACK TO b; {three}; SAVEPOINT c; {two}; RELEASE c;
             SAVEPOINT d; CREATE TABLE never (x int); INSERT INTO never VALUES (1); ROLLBACK TO d; {end}"
        )]
    }

    /// Prepared transactions touch a table of their own: their locks would block what changes the
    /// other tables as a whole.
    async fn two_phase(&mut self, client: &Client) -> Result<()> {
        if !self.prepared.is_empty()
            && (self.prepared.len() >= MOST_PREPARED || self.rng.random_bool(0.6))
        {
            let which = self.rng.random_range(0..self.prepared.len());
            let gid = self.prepared.swap_remove(which);
            let end = ["COMMIT", "ROLLBACK"]
                .choose(&mut self.rng)
                .unwrap_or(&"COMMIT");
            for sql in [
                format!("{end} PREPARED '{gid}'"),
                "VACUUM prepared_rows".to_owned(),
            ] {
                client.batch_execute(&sql).await.context(sql)?;
            }
            return Ok(());
        }
        let gid = self.name("gid");
        let n = self.rows();
        client
            .batch_execute(&format!(
                "BEGIN; INSERT INTO prepared_rows (v) SELECT 'v' || g % 9 FROM generate_series(1, {n}) g; SAVEPOINT s;
                 INSERT INTO prepared_rows (v) VALUES ('{gid}'); SELECT nextval('counter'); PREPARE TRANSACTION '{gid}'"
            ))
            .await?;
        self.prepared.push(gid);
        Ok(())
    }

    /// Multixacts, and locks on rows with newer versions.
    async fn row_locks(&mut self, cluster: &Cluster) -> Result<()> {
        let [reader, writer, locker] = [
            self.session(cluster).await?,
            self.session(cluster).await?,
            self.session(cluster).await?,
        ];
        let first = self.rng.random_range(0..40);
        let rows = format!("FROM keyed WHERE k BETWEEN {first} AND {}", first + 15);
        writer
            .batch_execute("INSERT INTO keyed SELECT g, 0 FROM generate_series(0, 60) g ON CONFLICT DO NOTHING")
            .await?;
        reader
            .batch_execute(&format!(
                "BEGIN; SELECT 1 {rows} FOR KEY SHARE; SAVEPOINT s; SELECT 1 {rows} FOR KEY SHARE"
            ))
            .await?;
        writer
            .batch_execute(&format!(
                "BEGIN; UPDATE keyed SET n = n + 1 WHERE k IN (SELECT k {rows})"
            ))
            .await?;
        locker
            .batch_execute(&format!(
                "BEGIN; SELECT 1 {rows} FOR KEY SHARE; SAVEPOINT s; SELECT 1 {rows} FOR KEY SHARE; COMMIT"
            ))
            .await?;
        let ends = ["COMMIT", "ROLLBACK"];
        for session in [&writer, &reader] {
            let end = ends.choose(&mut self.rng).unwrap_or(&"COMMIT");
            session.batch_execute(end).await?;
        }
        locker
            .batch_execute(&format!(
                "BEGIN; SELECT 1 {rows} FOR SHARE; SAVEPOINT s; SELECT 1 {rows} FOR UPDATE; SAVEPOINT s;
                 UPDATE keyed SET k = k + 1000 WHERE k = {first}; ROLLBACK TO s; COMMIT"
            ))
            .await?;
        if self.rng.random_bool(0.3) {
            locker.batch_execute("VACUUM (FREEZE) keyed").await?;
        }
        Ok(())
    }

    fn truncate(&mut self, t: usize) -> Vec<String> {
        let insert = self.insert(t);
        let how = [
            format!("TRUNCATE t{t}"),
            format!("TRUNCATE t{t} RESTART IDENTITY; {insert}"),
            format!("BEGIN; {insert}; SAVEPOINT s; TRUNCATE t{t}; {insert}; ROLLBACK TO s; COMMIT"),
            format!("BEGIN; TRUNCATE t{t}; {insert}; ROLLBACK"),
        ];
        how.choose(&mut self.rng).cloned().into_iter().collect()
    }

    fn rewrite_table(&mut self, t: usize) -> Vec<String> {
        let column = self.name("c");
        let fillfactor = self.rng.random_range(40..=100);
        let insert = self.insert(t);
        let btree = self
            .indexes
            .iter()
            .find(|i| i.table == t && i.definition == "(a)");
        let mut how = vec![
            vec![format!("VACUUM FULL t{t}")],
            vec![
                format!("ALTER TABLE t{t} ADD COLUMN {column} float8 DEFAULT random()"),
                format!("ALTER TABLE t{t} DROP COLUMN {column}"),
            ],
            vec![
                format!("ALTER TABLE t{t} SET UNLOGGED"),
                insert,
                format!("ALTER TABLE t{t} SET LOGGED"),
            ],
            vec![format!("ALTER TABLE t{t} SET (fillfactor = {fillfactor})")],
        ];
        how.extend(btree.map(|i| vec![format!("CLUSTER t{t} USING {}", i.name)]));
        how.choose(&mut self.rng).cloned().unwrap_or_default()
    }

    fn tables_come_and_go(&mut self) -> Vec<String> {
        let name = self.name("gone");
        let n = self.rows();
        let how = match self.rng.random_range(0..4) {
            0 => format!("DROP TABLE {name}"),
            1 => format!("TRUNCATE {name}; INSERT INTO {name} VALUES (1, '')"),
            2 => format!("BEGIN; DROP TABLE {name}; ROLLBACK"),
            _ => format!("BEGIN; INSERT INTO {name} VALUES (1, ''); DROP TABLE {name}; COMMIT"),
        };
        vec![
            format!(
                "CREATE TABLE {name} AS SELECT g AS x, filler(g, 60) AS v FROM generate_series(1, {n}) g"
            ),
            format!("CREATE INDEX ON {name} (x); CREATE INDEX ON {name} USING hash (x)"),
            how,
            "INSERT INTO fleeting SELECT max(x) + 1 FROM fleeting".to_owned(),
        ]
    }

    /// Speculative insertions, sequences, moves between partitions, messages.
    fn keyed(&mut self) -> Vec<String> {
        let n = self.rows();
        vec![
            format!(
                "INSERT INTO keyed SELECT (random() * 300)::int, g FROM generate_series(1, {n}) g ON CONFLICT DO NOTHING"
            ),
            format!(
                "INSERT INTO keyed SELECT DISTINCT (random() * 300)::int, 1 FROM generate_series(1, {n}) g
                 ON CONFLICT (k) DO UPDATE SET n = keyed.n + 1"
            ),
            format!("INSERT INTO parts SELECT g % 2, filler(g, g % 9) FROM generate_series(1, {n}) g"),
            "UPDATE parts SET k = 1 - k WHERE random() < 0.2".to_owned(),
            "DELETE FROM parts WHERE random() < 0.2".to_owned(),
            "SELECT nextval('counter') FROM generate_series(1, 40); SELECT setval('counter', 1000)".to_owned(),
            "SELECT pg_logical_emit_message(true, 'p', repeat('m', 200))".to_owned(),
        ]
    }

    fn catalogs(&mut self) -> Vec<String> {
        let how = [
            "VACUUM (INDEX_CLEANUP ON) pg_class; VACUUM (INDEX_CLEANUP ON) pg_attribute",
            "VACUUM FULL pg_index",
            "VACUUM (FREEZE) pg_proc",
            "REINDEX TABLE pg_class",
            "ANALYZE",
        ];
        let chosen = how.choose(&mut self.rng).copied().unwrap_or("ANALYZE");
        chosen.split("; ").map(str::to_owned).collect()
    }

    async fn database(&mut self, cluster: &Cluster, client: &Client) -> Result<()> {
        let name = self.name("db");
        let strategy = match cluster.install().major {
            PgMajor::V14 => "",
            _ if self.rng.random_bool(0.5) => "STRATEGY file_copy",
            _ => "STRATEGY wal_log",
        };
        client
            .batch_execute(&format!(
                "CREATE DATABASE {name} TEMPLATE template0 {strategy}"
            ))
            .await?;
        cluster
            .psql_on(
                &name,
                "CREATE TABLE here (x int PRIMARY KEY); INSERT INTO here SELECT generate_series(1, 300); DELETE FROM pg_statistic",
            )
            .await?;
        if self.rng.random_bool(0.5) {
            client
                .batch_execute(&format!("DROP DATABASE {name}"))
                .await?;
        }
        Ok(())
    }
}
