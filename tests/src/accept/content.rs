//! What a server says: a digest of every table of every database, catalogs included.

use crate::postgres::{Cluster, Table, rows};
use anyhow::Result;
use std::collections::BTreeMap;

/// Databases that can be connected to. One whose removal was under way at the moment looked at is
/// marked by its connection limit.
const USABLE: &str = "datallowconn AND datconnlimit <> -2";

/// "database.schema.table" to (rows, digest of the ordered rows).
pub type Content = BTreeMap<String, (String, String)>;

/// Catalogs whose rows describe this server's own doings since it started.
const LEFT_OUT: &str = "'pg_subscription'";

/// Reads everything.
pub async fn of(cluster: &Cluster) -> Result<Content> {
    let mut content = Content::new();
    let databases = cluster
        .psql(&format!(
            "SELECT datname FROM pg_database WHERE {USABLE} ORDER BY 1"
        ))
        .await?;
    let prepared = cluster
        .psql("SELECT count(*), coalesce(string_agg(gid || ' in ' || database, ', ' ORDER BY gid), '') FROM pg_prepared_xacts")
        .await?;
    content.insert("prepared transactions".into(), pair(prepared));
    for db in databases.into_iter().flatten().flatten() {
        let client = cluster.client(&db).await?;
        let tables = rows(
            &client,
            &format!(
                "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.relkind IN ('r', 'm', 't', 'S') AND c.relpersistence <> 't'
                       AND c.relname NOT IN ({LEFT_OUT}) ORDER BY 1"
            ),
        )
        .await?;
        for table in tables.into_iter().flatten().flatten() {
            let sql = format!(
                "SELECT count(*), coalesce(md5(string_agg(r, E'\\n' ORDER BY r)), '') FROM (SELECT md5(ROW(t.*)::text) AS r FROM {table} t) x"
            );
            let row = rows(&client, &sql).await?;
            content.insert(format!("{db}.{table}"), pair(row));
        }
    }
    Ok(content)
}

fn pair(table: Table) -> (String, String) {
    let row = table.into_iter().next().unwrap_or_default();
    let mut values = row.into_iter().map(Option::unwrap_or_default);
    (
        values.next().unwrap_or_default(),
        values.next().unwrap_or_default(),
    )
}

/// Tables that differ.
pub fn differences(a: &Content, b: &Content) -> Vec<String> {
    let mut all: Vec<&String> = a.keys().chain(b.keys()).collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .filter(|t| a.get(*t) != b.get(*t))
        .map(|t| format!("{t}: {:?} and {:?}", a.get(t), b.get(t)))
        .collect()
}

/// Checks heaps and B-trees with amcheck; returns how many relations were checked. Prepared
/// transactions, whose locks the checks would wait for, are rolled back.
pub async fn amcheck(cluster: &Cluster) -> Result<u64> {
    let mut checked = 0;
    let prepared = cluster
        .psql("SELECT gid, database FROM pg_prepared_xacts")
        .await?;
    for row in prepared {
        let [Some(gid), Some(db)] = row.as_slice() else {
            anyhow::bail!("{row:?}");
        };
        cluster
            .psql_on(db, &format!("ROLLBACK PREPARED '{gid}'"))
            .await?;
    }
    let databases = cluster
        .psql(&format!("SELECT datname FROM pg_database WHERE {USABLE}"))
        .await?;
    for db in databases.into_iter().flatten().flatten() {
        if db == "template1" || db == "template0" {
            continue;
        }
        cluster
            .psql_on(&db, "CREATE EXTENSION IF NOT EXISTS amcheck")
            .await?;
        let heaps = cluster
            .psql_on(
                &db,
                "SELECT c.oid::regclass, v.* FROM pg_class c, LATERAL verify_heapam(c.oid) v
                 WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p'",
            )
            .await?;
        anyhow::ensure!(heaps.is_empty(), "verify_heapam in {db}: {heaps:?}");
        let indexes = cluster
            .psql_on(
                &db,
                "SELECT bt_index_parent_check(c.oid, true, true) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
                 JOIN pg_am a ON a.oid = c.relam
                 WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid",
            )
            .await?;
        checked += indexes.len() as u64;
        let count = cluster
            .psql_on(&db, "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm', 't') AND relpersistence = 'p'")
            .await?;
        checked += count
            .into_iter()
            .flatten()
            .flatten()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
    }
    Ok(checked)
}
