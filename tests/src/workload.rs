//! SQL that leaves no record type of ordinary use out, beside pgbench.

use crate::postgres::Cluster;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use types::PgMajor;

/// Turns whose tables and databases stay.
const REMEMBERED: u32 = 40;

/// Tables of several shapes with some history.
pub async fn prepare(cluster: &Cluster) -> Result<()> {
    cluster
        .psql(
            "CREATE TABLE wide (id bigserial PRIMARY KEY, a int, b text, c jsonb, d timestamptz DEFAULT now());
             CREATE INDEX ON wide (a); CREATE INDEX ON wide USING gin (c); CREATE INDEX ON wide USING hash (b);
             CREATE INDEX ON wide USING brin (id);
             CREATE TABLE places (p point, r int4range, t text);
             CREATE INDEX ON places USING gist (p); CREATE INDEX ON places USING spgist (t);
             CREATE UNLOGGED TABLE fleeting (x int); INSERT INTO fleeting SELECT generate_series(1, 1000);
             CREATE SEQUENCE counter;
             INSERT INTO wide (a, b, c) SELECT g % 97, md5(g::text), jsonb_build_object('k', g % 13, 'l', g)
               FROM generate_series(1, 20000) g;
             INSERT INTO places SELECT point(g % 100, g / 100), int4range(g, g + 5), repeat(chr(97 + g % 26), 1 + g % 40)
               FROM generate_series(1, 5000) g;
             CREATE TABLE toasted (id int, v text); ALTER TABLE toasted ALTER v SET STORAGE EXTERNAL;
             INSERT INTO toasted SELECT g, repeat(md5(g::text), 500) FROM generate_series(1, 50) g;",
        )
        .await?;
    Ok(())
}

/// One turn of everything; `round` makes names distinct.
pub async fn turn(cluster: &Cluster, round: u32) -> Result<()> {
    let client = cluster.client("postgres").await?;
    client
        .batch_execute(&format!(
            "INSERT INTO wide (a, b, c) SELECT g, md5((g * {round})::text), jsonb_build_object('r', {round}, 'g', g) FROM generate_series(1, 400) g;
             UPDATE wide SET a = a + 1 WHERE id % 23 = {round} % 23;
             DELETE FROM wide WHERE id % 101 = {round} % 101;
             UPDATE places SET p = point({round}, p[0]) WHERE r @> {round};
             INSERT INTO places SELECT point(random() * 100, random() * 100), NULL, md5(random()::text) FROM generate_series(1, 200);
             DELETE FROM places WHERE t LIKE 'a%' AND random() < 0.3;
             SELECT nextval('counter') FROM generate_series(1, 40);
             UPDATE toasted SET v = repeat(md5(random()::text), 400) WHERE id % 7 = {round} % 7;
             CREATE TABLE gone_{round} AS SELECT g AS x FROM generate_series(1, 3000) g;
             CREATE INDEX gone_{round}_x ON gone_{round} (x);
             TRUNCATE gone_{round};
             INSERT INTO gone_{round} VALUES (1), (2);
             ALTER TABLE gone_{round} SET TABLESPACE pg_default;"
        ))
        .await?;
    client
        .batch_execute(&format!(
            "BEGIN; SAVEPOINT a; INSERT INTO wide (a, b) VALUES ({round}, 'kept');
             SAVEPOINT b; INSERT INTO wide (a, b) VALUES ({round}, 'undone'); ROLLBACK TO b;
             SAVEPOINT c; UPDATE wide SET b = 'sub' WHERE id = {round}; RELEASE c; COMMIT;
             BEGIN; INSERT INTO wide (a, b) VALUES ({round}, 'aborted'); CREATE TABLE never_{round} (x int); ROLLBACK;
             BEGIN; SELECT * FROM wide WHERE id < 50 FOR SHARE; SAVEPOINT s;
             SELECT * FROM wide WHERE id < 20 FOR UPDATE; RELEASE s; COMMIT;"
        ))
        .await?;
    two_phase(cluster, round).await?;
    client
        .batch_execute("VACUUM (INDEX_CLEANUP ON) wide")
        .await?;
    if round.is_multiple_of(3) {
        client.batch_execute("VACUUM FREEZE places").await?;
        client.batch_execute("VACUUM FULL toasted").await?;
        client
            .batch_execute(&format!("DROP TABLE gone_{round}"))
            .await?;
        client.batch_execute("REINDEX TABLE places").await?;
    }
    if round.is_multiple_of(2) {
        databases(cluster, round).await?;
    }
    forget(cluster, round).await?;
    shared_locks(cluster, round).await
}

/// Drops what a turn long ago left behind, so that a long run does not grow for ever.
async fn forget(cluster: &Cluster, round: u32) -> Result<()> {
    let Some(old) = round.checked_sub(REMEMBERED) else {
        return Ok(());
    };
    let client = cluster.client("postgres").await?;
    client
        .batch_execute(&format!("DROP TABLE IF EXISTS gone_{old}"))
        .await?;
    for i in 0..2 {
        client
            .batch_execute(&format!("DROP DATABASE IF EXISTS copy_{old}_{i}"))
            .await?;
    }
    Ok(())
}

async fn two_phase(cluster: &Cluster, round: u32) -> Result<()> {
    let client = cluster.client("postgres").await?;
    for (suffix, end) in [
        ("c", "COMMIT PREPARED"),
        ("r", "ROLLBACK PREPARED"),
        ("p", ""),
    ] {
        let gid = format!("t{round}{suffix}");
        client
            .batch_execute(&format!(
                "BEGIN; INSERT INTO wide (a, b) VALUES ({round}, 'prepared {suffix}'); SAVEPOINT x;
                 INSERT INTO wide (a, b) VALUES ({round}, 'sub prepared'); PREPARE TRANSACTION '{gid}'"
            ))
            .await?;
        if !end.is_empty() {
            client.batch_execute(&format!("{end} '{gid}'")).await?;
        }
    }
    // One stays open across rounds, the one before it ends.
    if round > 1 {
        client
            .batch_execute(&format!("COMMIT PREPARED 't{}p'", round - 1))
            .await?;
    }
    Ok(())
}

async fn databases(cluster: &Cluster, round: u32) -> Result<()> {
    let client = cluster.client("postgres").await?;
    let strategies: &[&str] = if cluster.install().major < PgMajor::V15 {
        &[""]
    } else {
        &["STRATEGY file_copy", "STRATEGY wal_log"]
    };
    for (i, strategy) in strategies.iter().enumerate() {
        let name = format!("copy_{round}_{i}");
        client
            .batch_execute(&format!(
                "CREATE DATABASE {name} TEMPLATE template0 {strategy}"
            ))
            .await?;
        cluster
            .psql_on(
                &name,
                "CREATE TABLE here (x int); INSERT INTO here SELECT generate_series(1, 500)",
            )
            .await?;
        if (round / 2) % 2 == 1 && i == 0 {
            client
                .batch_execute(&format!("DROP DATABASE {name}"))
                .await?;
        }
    }
    Ok(())
}

/// Multixacts: two sessions share row locks.
async fn shared_locks(cluster: &Cluster, round: u32) -> Result<()> {
    let (a, b) = (
        cluster.client("postgres").await?,
        cluster.client("postgres").await?,
    );
    let rows = format!(
        "SELECT id FROM wide WHERE id BETWEEN {} AND {}",
        100 + round,
        140 + round
    );
    a.batch_execute(&format!("BEGIN; {rows} FOR KEY SHARE"))
        .await?;
    b.batch_execute(&format!("BEGIN; {rows} FOR SHARE")).await?;
    a.batch_execute("COMMIT").await?;
    b.batch_execute("COMMIT").await?;
    Ok(())
}

/// Runs turns until told to stop; returns the number of the last. `done` is the number of the last
/// turn that this server has seen before, 0 at first.
pub async fn churn(cluster: Arc<Cluster>, done: u32, stop: Arc<AtomicBool>) -> Result<u32> {
    let mut round = done;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        turn(&cluster, round).await?;
    }
    Ok(round)
}
