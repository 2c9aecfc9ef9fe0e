//! Where a timeline's WAL comes from, with what is needed to get it after a restart.
//!
//! The connection string with its password is kept in a local file that only the daemon's user can
//! read. The bucket never sees the password.

use crate::engine::disk::{Disk, write_atomically};
use crate::engine::{Error, Result, Timeline};
use replication::conninfo::Conninfo;
use serde::{Deserialize, Serialize};

/// A primary and the slot on it.
#[derive(Clone, Debug)]
pub struct Source {
    /// How to connect.
    pub conninfo: Conninfo,
    /// The physical slot that keeps WAL for us.
    pub slot: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    connstr: String,
    slot: String,
}

fn path(timeline: &Timeline) -> String {
    format!("{}/wal_source.json", timeline.directory())
}

impl Source {
    /// Writes the source to the timeline's directory.
    pub fn save(&self, disk: &dyn Disk, timeline: &Timeline) -> Result<()> {
        let file = File {
            connstr: self.conninfo.to_url_with_password(),
            slot: self.slot.clone(),
        };
        let json = serde_json::to_vec_pretty(&file).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(write_atomically(disk, &path(timeline), &json)?)
    }

    /// The source of a loaded timeline: from its directory, else, when that was lost, what the
    /// index says, which lacks the password.
    pub fn load(disk: &dyn Disk, timeline: &Timeline) -> Result<Option<Source>> {
        let path = path(timeline);
        let parse = |text: &str| {
            text.parse::<Conninfo>()
                .map_err(|e| Error::layer(path.clone(), e))
        };
        match disk.read(&path) {
            Ok(json) => {
                let file: File =
                    serde_json::from_slice(&json).map_err(|e| Error::layer(path.clone(), e))?;
                Ok(Some(Source {
                    conninfo: parse(&file.connstr)?,
                    slot: file.slot,
                }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let Some(vanilla) = timeline.vanilla() else {
                    return Ok(None);
                };
                match (vanilla.source, vanilla.slot) {
                    (Some(connstr), Some(slot)) => Ok(Some(Source {
                        conninfo: parse(&connstr)?,
                        slot,
                    })),
                    _ => Ok(None),
                }
            }
            Err(e) => Err(e.into()),
        }
    }
}
