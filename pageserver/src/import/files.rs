//! From the archives of a base backup to values: tar, then files, then keys.

use crate::engine::layer::Layer;
use crate::engine::timeline::import::Layers;
use crate::engine::{Error, Result};
use bytes::Bytes;
use pg_format::tar::{Event, Kind, Parser};
use replication::base_backup::Tablespace;
use std::sync::Arc;
use types::shard::ShardIdentity;
use types::{Key, PgMajor};
use wal_ingest::import::{File, Pgdata};

/// Feeds archives into layers.
pub struct Files {
    layers: Layers,
    pgdata: Pgdata,
    parser: Parser,
    current: Option<File>,
}

fn bad(e: impl std::fmt::Display) -> Error {
    Error::Internal(format!("base backup: {e}"))
}

impl Files {
    /// Files of a cluster of this version, into these layers.
    pub fn new(version: PgMajor, layers: Layers) -> Self {
        Files {
            layers,
            pgdata: Pgdata::new(version, ShardIdentity::UNSHARDED),
            parser: Parser::new(),
            current: None,
        }
    }

    /// An archive begins.
    pub fn begin_archive(&mut self, space: &Tablespace) -> Result<()> {
        if let Some(oid) = space.oid {
            return Err(Error::Precondition(format!(
                "tablespace {oid} at {} appeared during the backup; only pg_default and pg_global can be held",
                space.location.as_deref().unwrap_or("an unknown place")
            )));
        }
        self.parser = Parser::new();
        Ok(())
    }

    /// The next bytes of the archive.
    pub async fn feed(&mut self, bytes: &Bytes) -> Result<()> {
        let mut input: &[u8] = bytes;
        let mut outcome = Ok(());
        let Files {
            layers,
            pgdata,
            parser,
            current,
        } = self;
        let mut sink = |key: Key, value: &[u8]| {
            if outcome.is_ok() {
                outcome = layers.put(key, Bytes::copy_from_slice(value));
            }
        };
        while let Some(event) = parser.next(&mut input).map_err(bad)? {
            match event {
                Event::Entry(entry) if entry.kind == Kind::File => {
                    *current = pgdata.open(&entry.path, entry.size).map_err(bad)?;
                }
                Event::Entry(_) => *current = None,
                Event::Data(data) => {
                    if let Some(file) = current {
                        pgdata.feed(file, data, &mut sink).map_err(bad)?;
                    }
                }
                Event::EntryEnd => {
                    if let Some(file) = current.take() {
                        pgdata.close(file, &mut sink).map_err(bad)?;
                    }
                }
                Event::ArchiveEnd => {}
            }
        }
        outcome
    }

    /// The archive is complete.
    pub fn end_archive(&mut self) -> Result<()> {
        self.parser.finish().map(drop).map_err(bad)
    }

    /// All archives are complete: writes what is left and returns the layers.
    pub fn finish(self) -> Result<Vec<Arc<Layer>>> {
        let Files {
            mut layers, pgdata, ..
        } = self;
        let mut outcome = Ok(());
        pgdata
            .finish(&mut |key, value| {
                if outcome.is_ok() {
                    outcome = layers.put(key, Bytes::copy_from_slice(value));
                }
            })
            .map_err(bad)?;
        outcome?;
        layers.finish()
    }
}
