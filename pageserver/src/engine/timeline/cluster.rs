//! What the control file says about the cluster that replay and page checksums depend on. Read when
//! first needed, not when the timeline is loaded.

use super::Timeline;
use crate::engine::error::{Error, Result};
use types::{Key, Lsn};
use wal_redo::Dialect;

/// Facts that hold for all of a timeline's history.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// How its WAL is to be replayed.
    pub dialect: Dialect,
    /// Its pages carry checksums.
    pub checksums: bool,
}

impl Timeline {
    /// The facts, once [`Timeline::learn_cluster`] has succeeded.
    pub(super) fn cluster(&self) -> Result<&Cluster> {
        self.cluster.get().ok_or_else(|| {
            Error::Internal(format!(
                "timeline {}/{}: the control file was not read yet",
                self.tenant, self.id
            ))
        })
    }

    /// Reads the control file as of an LSN that is being read, unless that was done before. A
    /// failure concerns only who asked; the next one tries again.
    ///
    /// # Errors
    /// Those of reading and parsing it.
    pub async fn learn_cluster(&self, lsn: Lsn) -> Result<()> {
        if self.cluster.get().is_some() {
            return Ok(());
        }
        let raw = self.get_whole(Key::CONTROL_FILE, lsn).await?;
        let control = pg_format::control::ControlFile::parse(&raw)
            .map_err(|e| Error::layer("pg_control", e))?;
        let checksums = control.data_checksum_version() != 0;
        let flavour = self
            .vanilla
            .lock()
            .as_ref()
            .map_or_else(Default::default, |v| v.flavour);
        // Whoever was faster found the same.
        let _ = self.cluster.set(Cluster {
            dialect: Dialect {
                version: self.version,
                flavour,
                hint_bits_logged: checksums || control.parameters().wal_log_hints,
            },
            checksums,
        });
        Ok(())
    }

    /// Takes over what the ancestor knows, if it does: its cluster is the branch's.
    pub fn inherit_cluster(&self) {
        if let Some((ancestor, _)) = self.ancestor()
            && let Some(known) = ancestor.cluster.get()
        {
            let _ = self.cluster.set(*known);
        }
    }
}
