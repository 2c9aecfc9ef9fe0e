//! Flipped bits in local layer files cost a download, never a wrong page; in the bucket as well,
//! they cost the pages of that file, with an error that names it.

use anyhow::{Context, Result, ensure};
use page_protocol::client::{self, Connection};
use page_protocol::message::{Relation, Version};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tests::accept::{Followed, Load, Size, follow, pages, primary};
use tests::daemon::Daemon;
use tests::postgres::Cluster;
use types::PgMajor;

struct Setup {
    daemon: Daemon,
    cluster: Cluster,
    followed: Followed,
    /// File of the relation that the last test damages.
    accounts: Relation,
}

/// A timeline in many layers, whose primary was stopped.
async fn setup(major: PgMajor) -> Result<Setup> {
    // Without compaction, so that each page stays in the file that the import wrote.
    let settings = [
        "tenant_config.checkpoint_distance=2097152",
        "tenant_config.compaction_period=0s",
    ];
    let daemon = Daemon::start(&settings).await?;
    let size = Size {
        scale: 1,
        seconds: 2,
    };
    let cluster = Arc::new(primary(major, size, &[]).await?);
    let followed = follow(&daemon, &cluster).await?;
    Load::start(&cluster, size.seconds)?.finish().await?;
    let number = |sql: &'static str| {
        let cluster = Arc::clone(&cluster);
        async move { anyhow::Ok(cluster.value(sql).await?.parse::<u32>()?) }
    };
    let accounts = Relation {
        spc: 1663,
        db: number("SELECT oid FROM pg_database WHERE datname = 'postgres'").await?,
        rel: number("SELECT pg_relation_filenode('pgbench_accounts')").await?,
        fork: 0,
    };
    let mut cluster = Arc::into_inner(cluster).context("the load still uses the primary")?;
    pages::settle(&daemon, followed, &mut cluster)
        .await?
        .check()?;
    Ok(Setup {
        daemon,
        cluster,
        followed,
        accounts,
    })
}

impl Setup {
    fn directory(&self, below: &str) -> PathBuf {
        let (tenant, timeline) = (self.followed.tenant, self.followed.timeline);
        let place = format!("{below}tenants/{tenant}/timelines/{timeline}");
        self.daemon.path().join(place)
    }
}

/// Names of the layer files in a directory, with their sizes.
fn layers(directory: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains("__") {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

/// Flips a bit in every 16th block.
fn damage(path: &Path, len: u64) -> Result<()> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)?;
    for at in (0..len).step_by(16 * 8192).map(|block| block + 4321) {
        let mut byte = [0u8];
        if at < len {
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 0x10], at)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn damaged_local_files_are_fetched_again() -> Result<()> {
    let mut s = setup(PgMajor::V17).await?;
    s.daemon.stop().await?;
    let files = layers(&s.directory(""))?;
    ensure!(files.len() > 3, "{files:?}");
    for (path, len) in &files {
        damage(path, *len)?;
    }
    s.daemon.launch().await?;
    pages::again(&s.daemon, s.followed, &s.cluster)
        .await?
        .check()?;
    let failures = s
        .daemon
        .metric("pageserver_checksum_failures_total")
        .await?;
    ensure!(failures > 0.0, "nothing was noticed");
    ensure!(s.daemon.metric("pageserver_downloads_total").await? > 0.0);
    Ok(())
}

#[tokio::test]
async fn damage_in_the_bucket_costs_the_pages_of_that_file_only() -> Result<()> {
    let mut s = setup(PgMajor::V15).await?;
    s.daemon.stop().await?;
    // A large relation has an image layer of its own, which begins with its first block.
    let Relation { spc, db, rel, .. } = s.accounts;
    let first_block = format!("00{spc:08X}{db:08X}{rel:08X}0000000000");
    let files = layers(&s.directory(""))?;
    let found = files
        .iter()
        .find(|f| f.0.to_string_lossy().contains(&first_block));
    let (path, len) = found.cloned().with_context(|| format!("{files:?}"))?;
    damage(&path, len)?;
    let name = path.file_name().context("no name")?.to_string_lossy();
    let range = name.split("__").next().context("no range")?.to_owned();
    let mut damaged = 0;
    for (path, len) in layers(&s.directory("bucket/"))? {
        if path.to_string_lossy().contains(&range) {
            damage(&path, len)?;
            damaged += 1;
        }
    }
    ensure!(damaged == 1, "{damaged} objects");
    s.daemon.launch().await?;

    let (tenant, timeline) = (s.followed.tenant, s.followed.timeline);
    let last = s
        .daemon
        .timeline(s.followed.shard(), timeline)
        .await?
        .last_record_lsn;
    let c = Connection::connect(s.daemon.pages(), &client::Options::default()).await?;
    let mut stream = c.page_stream(Version::V3, tenant, timeline).await?;
    // Behind what pgbench has changed since are pages that only the damaged file has.
    let blocks: Vec<_> = (0..48).map(|b| (s.accounts, b)).collect();
    let mut refused = 0;
    for page in stream.pages(&blocks, last, last, 4).await? {
        if let Err(text) = page {
            ensure!(text.contains(&range), "{text}");
            refused += 1;
        }
    }
    ensure!(refused > 0, "every page could be read");
    let catalog = Relation {
        rel: 1259,
        ..s.accounts
    };
    let catalog = [(catalog, 0), (catalog, 1)];
    for page in stream.pages(&catalog, last, last, 4).await? {
        page.map_err(anyhow::Error::msg)?;
    }
    ensure!(s.daemon.is_running()?);
    ensure!(
        s.daemon
            .metric("pageserver_checksum_failures_total")
            .await?
            > 0.0
    );
    let log = s.daemon.log();
    let said = log
        .lines()
        .any(|l| l.contains("ERROR") && l.contains(&range));
    ensure!(said, "{log}");
    Ok(())
}
