//! Redo against Postgres's own recovery.
//!
//! A server without full-page writes runs a random [`workload`]. A copy of its data directory from
//! before is then brought to the end of the WAL twice: by a server of the same version in crash
//! recovery, and by [`Replica`], which is `wal_ingest` and `wal_redo` without a pageserver around
//! them. Afterwards the files must be the pages, byte for byte: neither side set a hint bit, so no
//! mask is needed. Only checksums differ, the LSN of map pages whose bits were cleared by records that
//! do not name them, and the GiST flag TUPLES_DELETED (`docs/format/redo.md`, "Masks").
//!
//! Left out: free-space maps (Postgres logs no changes of them), contents of unlogged relations,
//! commit timestamps.

mod files;
mod replay;
pub mod workload;

pub use replay::{Rebuilt, Replica, Wal};

use crate::postgres::{Cluster, Install, Options, Shutdown};
use anyhow::{Context as _, Result, ensure};
use pg_format::ControlFile;
use pg_format::control::State;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use types::PgMajor;
use wal_redo::name;
use workload::Workload;

/// One run. Everything random follows from the seed, up to the server's own timing.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Seed of the workload and of the server's settings.
    pub seed: u64,
    /// Steps of the workload.
    pub steps: u32,
}

/// What was compared.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// WAL records replayed.
    pub records: u64,
    /// Bytes of WAL.
    pub wal_bytes: u64,
    /// Relation forks compared.
    pub relations: u64,
    /// Pages of relations compared.
    pub blocks: u64,
    /// Of these: pages that at least one record was replayed on.
    pub rebuilt: u64,
    /// Pages of the commit log and of multixacts compared.
    pub slru_pages: u64,
    /// Record types met: manager and high nibble of the info byte.
    pub seen: BTreeSet<(u8, u8)>,
    /// What differs, with seed, place and LSN.
    pub differences: Vec<String>,
}

impl Outcome {
    /// Adds another run.
    pub fn add(&mut self, other: Outcome) {
        self.records += other.records;
        self.wal_bytes += other.wal_bytes;
        self.relations += other.relations;
        self.blocks += other.blocks;
        self.rebuilt += other.rebuilt;
        self.slru_pages += other.slru_pages;
        self.seen.extend(other.seen);
        self.differences.extend(other.differences);
    }

    /// Record types that change pages and were not met.
    pub fn unseen(&self) -> impl Iterator<Item = (u8, u8)> {
        name::CHANGING_PAGES
            .iter()
            .flat_map(|(rm, ops)| ops.iter().map(|op| (*rm, *op)))
            .filter(|kind| !self.seen.contains(kind))
    }
}

/// Runs one seed on one version.
///
/// # Errors
/// A server fails, the WAL cannot be read, or a record cannot be replayed. Differences are no
/// error: they are in the outcome.
pub async fn run(major: PgMajor, settings: Settings) -> Result<Outcome> {
    one_seed(major, settings)
        .await
        .with_context(|| format!("seed {} on Postgres {major}", settings.seed))
}

async fn one_seed(major: PgMajor, settings: Settings) -> Result<Outcome> {
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let options = server(&mut rng, major);
    let mut workload = Workload::new(rng);
    let mut recording = Recording::begin(major, &options)?;
    workload.prepare(recording.primary()).await?;
    let replica = recording.copy()?;
    workload.run(recording.primary(), settings.steps).await?;
    let wal = recording.finish(&replica)?;
    let recovered = recording.recover(&[])?;
    let label = format!("seed {}, Postgres {major}", settings.seed);
    compare(&replica, &wal, &recovered, &label).await
}

/// Brings the replica to the end of the WAL and compares it with a server that recovered to there
/// and stopped.
pub async fn compare(
    replica: &Replica,
    wal: &Wal,
    recovered: &Cluster,
    label: &str,
) -> Result<Outcome> {
    let (records, seen) = replica.ingest(wal).await?;
    let mut outcome = Outcome {
        records,
        seen,
        wal_bytes: wal.end()?.bytes_since(wal.start()),
        ..Outcome::default()
    };
    files::compare(replica, &recovered.data(), label, &mut outcome)?;
    Ok(outcome)
}

/// Settings that change what is logged, at random; the rest keeps everything else quiet.
fn server(rng: &mut StdRng, major: PgMajor) -> Options {
    let on = |flag| if flag { "on" } else { "off" };
    let options = quiet()
        .set(
            "wal_level",
            if rng.random_bool(0.5) {
                "replica"
            } else {
                "logical"
            },
        )
        .set("wal_compression", on(rng.random_bool(0.5)))
        .set("wal_log_hints", on(rng.random_bool(0.3)))
        .set("track_commit_timestamp", on(rng.random_bool(0.3)));
    match (rng.random_bool(0.3), major) {
        (true, _) => options.initdb("--data-checksums"),
        (false, PgMajor::V18) => options.initdb("--no-data-checksums"),
        (false, _) => options,
    }
}

/// A server that writes no full-page images, keeps all its WAL, and does nothing by itself.
pub fn quiet() -> Options {
    Options::default()
        .set("full_page_writes", "off")
        .set("autovacuum", "off")
        .set("max_logical_replication_workers", "0")
        .set("max_prepared_transactions", "20")
        .set("checkpoint_timeout", "1d")
        .set("max_wal_size", "100GB")
        .set("wal_keep_size", "100GB")
        .set("fsync", "off")
        .set("synchronous_commit", "off")
}

/// A server, and a copy of its data directory from before the WAL that counts.
#[derive(Debug)]
pub struct Recording {
    primary: Cluster,
    copy: Cluster,
}

impl Recording {
    /// Starts a server.
    pub fn begin(major: PgMajor, options: &Options) -> Result<Recording> {
        let install = Install::find(major)?;
        let mut primary = Cluster::init(&install, options)?;
        primary.start()?;
        let copy = Cluster::empty(&install)?;
        Ok(Recording { primary, copy })
    }

    /// The server that writes the WAL.
    pub fn primary(&self) -> &Cluster {
        &self.primary
    }

    /// Data directory of the copy.
    pub fn copied(&self) -> PathBuf {
        self.copy.data()
    }

    /// Where the server's WAL is.
    pub fn wal(&self) -> PathBuf {
        self.primary.data().join("pg_wal")
    }

    /// Stops the server at a checkpoint, copies its files, and starts it again. The replica holds
    /// the pages of the copy.
    pub fn copy(&mut self) -> Result<Replica> {
        self.primary.stop(Shutdown::Fast)?;
        copy_tree(&self.primary.data(), &self.copied())?;
        self.primary.start()?;
        Replica::import(&self.copied(), self.primary.install().major)
    }

    /// Stops the server and returns the WAL it wrote since the copy.
    pub fn finish(&mut self, replica: &Replica) -> Result<Wal> {
        self.primary.stop(Shutdown::Fast)?;
        let written = control(&self.primary.data())?.checkpoint_lsn();
        let wal = Wal::read(&self.wal(), replica)?;
        let end = wal.end()?;
        ensure!(
            end > written,
            "WAL was read to {end} only, the server's last checkpoint is at {written}"
        );
        Ok(wal)
    }

    /// Lets a server recover the copy to the end of the WAL, and stops it. It takes the copy for a
    /// crashed server's, so that it recovers as it stands, without a change of timeline.
    pub fn recover(&self, settings: &[(&str, &str)]) -> Result<Cluster> {
        let mut recovered = Cluster::empty(self.primary.install())?;
        let data = recovered.data();
        copy_tree(&self.copied(), &data)?;
        fs::remove_dir_all(data.join("pg_wal"))?;
        copy_tree(&self.wal(), &data.join("pg_wal"))?;
        let crashed = control(&data)?.patch().state(State::InProduction).finish();
        fs::write(data.join("global/pg_control"), crashed.to_bytes())?;
        recovered.adopt()?;
        recovered.configure(settings)?;
        recovered.start()?;
        recovered.stop(Shutdown::Fast)?;
        Ok(recovered)
    }
}

fn control(data: &Path) -> Result<ControlFile> {
    Ok(ControlFile::parse(&fs::read(
        data.join("global/pg_control"),
    )?)?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "copying {} failed", from.display());
    Ok(())
}
