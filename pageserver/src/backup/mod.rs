//! Backups as tar: what a Neon compute needs to start (`basebackup`), and a whole data directory
//! (`fullbackup`).
//!
//! A full backup of a timeline that an ordinary Postgres wrote can be unpacked and started as it
//! is: `pg_control` says "shut down", and `pg_wal` holds the one checkpoint record that it points
//! to, behind all pages. That of a timeline that Neon computes wrote is for Neon's own tools.
//! `docs/format/pgdata.md` has the contents.

mod out;
mod relations;
mod slru;

use crate::engine::{Error as EngineError, Timeline};
use out::Out;
use page_protocol::Error;
use page_protocol::server::CopyOut;
use pg_format::relfile::database_directory;
use pg_format::start::{Start, neon_start, vanilla_start};
use pg_format::{FullXid, pgdata, replorigin, twophase};
use std::sync::Arc;
use types::rel::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use types::{Flavour, Key, Lsn, Oid, PgMajor};

/// What a backup contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Everything but relation data, for a Neon compute.
    Compute {
        /// The compute will be a replica.
        replica: bool,
    },
    /// Everything.
    Full,
}

/// How a backup is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What it contains.
    pub contents: Contents,
    /// Compress the archive with gzip.
    pub gzip: bool,
    /// Start of the record before the backup's LSN, if the caller knows it.
    pub prev_lsn: Option<Lsn>,
}

fn failed(e: EngineError) -> Error {
    match e {
        EngineError::Shutdown => Error::Shutdown,
        e => Error::chain(&e),
    }
}

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::internal(e.to_string())
}

/// Writes a backup of a timeline at `lsn`, which was ingested and is retained. Ends with the end
/// marker of tar only if everything was written.
pub async fn write(
    timeline: &Arc<Timeline>,
    lsn: Lsn,
    options: &Options,
    copy: &mut CopyOut<'_>,
) -> Result<(), Error> {
    let backup = Backup::prepare(timeline, lsn, options).await?;
    let now = timeline.shared().env.clock.wall().as_secs();
    let mut out = Out::new(copy, now, options.gzip);
    backup.run(&mut out).await?;
    out.finish().await
}

struct Backup<'a> {
    timeline: &'a Timeline,
    lsn: Lsn,
    contents: Contents,
    /// Ordinary Postgres is to start from it.
    vanilla: bool,
    start: Start,
    prev: Lsn,
    checksums: bool,
    next_multi: slru::NextMulti,
}

impl<'a> Backup<'a> {
    /// Reads what the end of the archive is made from, so that a timeline without it fails early.
    async fn prepare(
        timeline: &'a Timeline,
        lsn: Lsn,
        options: &Options,
    ) -> Result<Backup<'a>, Error> {
        let control = timeline.control_file(lsn).await.map_err(failed)?;
        let checkpoint = timeline.checkpoint_struct(lsn).await.map_err(failed)?;
        let vanilla = timeline.vanilla();
        let is_vanilla = vanilla
            .as_ref()
            .is_some_and(|v| v.flavour == Flavour::Vanilla);
        let for_postgres = is_vanilla && options.contents == Contents::Full;
        let tli = checkpoint.this_tli.max(1);
        let start = if for_postgres {
            vanilla_start(&control, &checkpoint, lsn, tli).map_err(invalid)?
        } else {
            neon_start(&control, &checkpoint, lsn).map_err(invalid)?
        };
        let position = timeline.position();
        let known = if lsn == position.last {
            position.prev
        } else {
            Lsn::INVALID
        };
        let prev = match options.prev_lsn {
            Some(given) if known.is_valid() && known != given => {
                return Err(Error::internal(format!(
                    "backup_prev {known} != provided_prev_lsn {given}"
                )));
            }
            Some(given) => given,
            None => known,
        };
        Ok(Backup {
            timeline,
            lsn,
            contents: options.contents,
            vanilla: for_postgres,
            start,
            prev,
            checksums: control.data_checksum_version() != 0,
            next_multi: slru::NextMulti::of(&checkpoint),
        })
    }

    fn version(&self) -> PgMajor {
        self.timeline.version
    }

    async fn run(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        for dir in pgdata::directories(self.version()) {
            out.directory(dir).await?;
        }
        out.file("pg_hba.conf", pgdata::PG_HBA_CONF.as_bytes())
            .await?;
        out.file("pg_ident.conf", pgdata::PG_IDENT_CONF.as_bytes())
            .await?;
        out.file(
            "postgresql.auto.conf",
            pgdata::POSTGRESQL_AUTO_CONF.as_bytes(),
        )
        .await?;
        if self.vanilla {
            out.file(
                "postgresql.conf",
                pgdata::postgresql_conf(&self.start.control).as_bytes(),
            )
            .await?;
        }
        slru::write(self, out).await?;
        let databases = self.timeline.databases(self.lsn).await.map_err(failed)?;
        for ((spc, db), has_map) in databases.dbs {
            self.database(out, spc, db, has_map).await?;
        }
        for xid in self.timeline.prepared(self.lsn).await.map_err(failed)? {
            let state = self
                .timeline
                .prepared_state(xid, self.lsn)
                .await
                .map_err(failed)?;
            let name = twophase::file_name(FullXid(xid), self.version());
            let file = twophase::to_file(&state).map_err(invalid)?;
            out.file(&format!("pg_twophase/{name}"), &file).await?;
        }
        let origins = self
            .timeline
            .replication_origins(self.lsn)
            .await
            .map_err(failed)?;
        if let Some(file) = replorigin::encode(origins) {
            out.file("pg_logical/replorigin_checkpoint", &file).await?;
        }
        if !self.vanilla {
            let text = self.signal();
            for name in pgdata::SIGNAL_FILES {
                out.file(name, text.as_bytes()).await?;
            }
        }
        out.file(pgdata::CONTROL_FILE, &self.start.control.to_bytes())
            .await?;
        out.file(
            &format!("pg_wal/{}", self.start.segment.name),
            &self.start.segment.to_vec(),
        )
        .await
    }

    fn signal(&self) -> String {
        if self.prev.is_valid() {
            format!("PREV LSN: {}", self.prev)
        } else if Some(self.lsn) == self.timeline.left_ancestor_at() {
            "PREV LSN: none".to_owned()
        } else {
            "PREV LSN: invalid".to_owned()
        }
    }

    async fn database(
        &self,
        out: &mut Out<'_, '_>,
        spc: Oid,
        db: Oid,
        has_map: bool,
    ) -> Result<(), Error> {
        let version = self.version();
        let text = if self.vanilla {
            pgdata::version_file(version)
        } else {
            pgdata::neon_version_file(version)
        };
        match spc {
            GLOBAL_TABLESPACE => out.file(pgdata::VERSION_FILE, text.as_bytes()).await?,
            DEFAULT_TABLESPACE => {
                if !has_map
                    && self
                        .timeline
                        .relations(spc, db, self.lsn)
                        .await
                        .map_err(failed)?
                        .is_empty()
                {
                    return Ok(());
                }
                out.directory(&database_directory(spc, db, version)).await?;
                if has_map {
                    out.file(
                        &format!("base/{db}/{}", pgdata::VERSION_FILE),
                        text.as_bytes(),
                    )
                    .await?;
                }
            }
            other => {
                return Err(Error::internal(format!(
                    "database {db} is in tablespace {other}: only pg_default and pg_global can be written"
                )));
            }
        }
        if has_map {
            let map = self
                .timeline
                .get(Key::rel_map(spc, db), self.lsn)
                .await
                .map_err(failed)?;
            let dir = database_directory(spc, db, version);
            out.file(&format!("{dir}/{}", pgdata::RELMAP_FILE), &map)
                .await?;
        }
        relations::write(self, out, spc, db).await
    }
}
