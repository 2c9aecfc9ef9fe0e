//! The harness runs a real server of every major version, as somebody other than root, with the
//! extensions tests rely on, and a killed one recovers.

use anyhow::{Result, ensure};
use tests::postgres::{Cluster, Install, Options, Shutdown, for_each_major};

#[tokio::test]
async fn a_killed_server_recovers_what_was_committed() -> Result<()> {
    for_each_major(async |major| {
        let install = Install::find(major)?;
        let extensions = install.extensions()?;
        for needed in ["amcheck", "bloom", "pageinspect", "pg_visibility"] {
            ensure!(
                extensions.iter().any(|e| e == needed),
                "extension {needed} is missing"
            );
        }
        let mut cluster = Cluster::init(&install, &Options::default())?;
        cluster.start()?;
        ensure!(
            cluster
                .value("SHOW server_version_num")
                .await?
                .starts_with(&major.to_string())
        );
        cluster.pgbench(&["-i", "-q", "-s", "1"])?;
        cluster
            .psql(
                "CREATE EXTENSION amcheck; CREATE TABLE t AS SELECT generate_series(1, 1000) AS a",
            )
            .await?;
        cluster.kill9()?;
        cluster.start()?;
        ensure!(cluster.value("SELECT sum(a) FROM t").await? == "500500");
        cluster
            .psql("SELECT bt_index_check('pgbench_accounts_pkey', true)")
            .await?;
        cluster.stop(Shutdown::Fast)
    })
    .await
}
