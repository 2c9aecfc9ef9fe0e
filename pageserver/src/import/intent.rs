//! What an import is about to make, written to local disk before any of it is made, so that whatever
//! a crash interrupts can be undone at the next start.
//!
//! One file per running import under `imports/`, readable for the daemon's user only: it holds the
//! password. If local disk is lost as well, the timeline's index in the bucket still names the slot.

use super::Request;
use crate::engine::disk::{Disk, write_atomically};
use crate::engine::{Error, Result};
use serde::{Deserialize, Serialize};
use tracing::warn;
use types::{TenantId, TimelineId};

const DIRECTORY: &str = "imports";

/// One import under way.
#[derive(Debug, Serialize, Deserialize)]
pub struct Intent {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether the tenant is made by this import.
    pub creates_tenant: bool,
    /// The new timeline.
    pub timeline: TimelineId,
    /// How to connect to the primary.
    pub connstr: String,
    /// The slot on it.
    pub slot: String,
}

impl Intent {
    /// What a request will make.
    pub fn new(request: &Request, creates_tenant: bool, slot: &str) -> Self {
        Intent {
            tenant: request.tenant,
            creates_tenant,
            timeline: request.timeline,
            connstr: request.conninfo.to_url_with_password(),
            slot: slot.to_owned(),
        }
    }

    fn path(&self) -> String {
        format!("{DIRECTORY}/{}-{}.json", self.tenant, self.timeline)
    }

    /// Writes it down, durably.
    pub fn save(&self, disk: &dyn Disk) -> Result<()> {
        disk.create_dir_all(DIRECTORY)?;
        let json = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(write_atomically(disk, &self.path(), &json)?)
    }

    /// The import is done, or undone.
    pub fn forget(&self, disk: &dyn Disk) {
        if let Err(e) = disk.remove(&self.path()) {
            warn!(tenant = %self.tenant, timeline = %self.timeline, "{e}");
        }
    }

    /// Those that were neither done nor undone.
    pub fn load_all(disk: &dyn Disk) -> Result<Vec<Intent>> {
        let mut all = Vec::new();
        for entry in disk.list(DIRECTORY)? {
            if !entry.name.ends_with(".json") {
                continue;
            }
            let path = format!("{DIRECTORY}/{}", entry.name);
            match serde_json::from_slice(&disk.read(&path)?) {
                Ok(intent) => all.push(intent),
                Err(e) => warn!(file = %path, "not understood, left alone: {e}"),
            }
        }
        Ok(all)
    }
}
