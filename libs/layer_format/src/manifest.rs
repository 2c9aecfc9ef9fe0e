//! The manifest of a tenant shard, `tenant-manifest-<gen>.json`: timelines that were offloaded
//! (archived and unloaded) and what their parents must keep for them.

use crate::index_part::{self, Error};
use crate::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{Lsn, TimelineId};

/// Version written.
pub const VERSION: u32 = 2;

/// The manifest of a tenant shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the document; informative.
    #[serde(default)]
    pub version: u32,
    /// Stripe size in pages, for disaster recovery; absent means the legacy default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_size: Option<u32>,
    /// May name timelines that no longer exist.
    #[serde(default)]
    pub offloaded_timelines: Vec<OffloadedTimeline>,
    /// Members this program does not know, written back unchanged.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A timeline that is archived and not loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OffloadedTimeline {
    /// The timeline.
    pub timeline_id: TimelineId,
    /// Its parent.
    #[serde(default)]
    pub ancestor_timeline_id: Option<TimelineId>,
    /// LSN the parent's GC must keep; none if it need not.
    #[serde(default)]
    pub ancestor_retain_lsn: Option<Lsn>,
    /// Since when.
    pub archived_at: Timestamp,
    /// Members this program does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Default for Manifest {
    fn default() -> Self {
        Manifest {
            version: VERSION,
            stripe_size: None,
            offloaded_timelines: Vec::new(),
            unknown: Map::new(),
        }
    }
}

impl Manifest {
    /// Reads a document.
    pub fn from_json(json: &[u8]) -> Result<Manifest, Error> {
        index_part::from_json("tenant manifest", json)
    }

    /// Writes the document, as version [`VERSION`] and sorted by timeline.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut current = Manifest {
            version: VERSION,
            ..self.clone()
        };
        current.offloaded_timelines.sort_by_key(|t| t.timeline_id);
        index_part::to_json("tenant manifest", &current)
    }

    /// True if nothing but the version differs: no upload is needed.
    pub fn same_content(&self, other: &Manifest) -> bool {
        let sorted = |m: &Manifest| {
            let mut list = m.offloaded_timelines.clone();
            list.sort_by_key(|t| t.timeline_id);
            list
        };
        self.stripe_size == other.stripe_size
            && self.unknown == other.unknown
            && sorted(self) == sorted(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{"version":2,"stripe_size":2048,"offloaded_timelines":[{"timeline_id":"5c4df612fd159e63c1b7853fe94d97da",
 "ancestor_timeline_id":"8817d9d2b1d2d2fd4d1a2cd2d6ab4f0e","ancestor_retain_lsn":"0/70DD4BA0",
 "archived_at":"2024-05-01T12:34:56.123"}]}"#;

    #[test]
    fn published_example_round_trips() {
        let m = Manifest::from_json(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(
            m.offloaded_timelines[0].ancestor_retain_lsn,
            Some(Lsn(0x70DD_4BA0))
        );
        let written: Value = serde_json::from_slice(&m.to_json().unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(EXAMPLE).unwrap());
    }

    #[test]
    fn older_and_newer_documents_are_read() {
        let old = Manifest::from_json(br#"{"version":1}"#).unwrap();
        assert!(old.same_content(&Manifest::default()));
        let new = Manifest::from_json(br#"{"version":9,"x":1,"offloaded_timelines":[{"timeline_id":
            "5c4df612fd159e63c1b7853fe94d97da","ancestor_timeline_id":null,"ancestor_retain_lsn":null,
            "archived_at":"2024-05-01T12:34:56","y":2}]}"#).unwrap();
        assert!(!new.same_content(&old));
        let written: Value = serde_json::from_slice(&new.to_json().unwrap()).unwrap();
        assert_eq!(
            (&written["x"], &written["offloaded_timelines"][0]["y"]),
            (&1.into(), &2.into())
        );
        assert_eq!(
            written["offloaded_timelines"][0]["ancestor_retain_lsn"],
            Value::Null
        );
        assert!(Manifest::from_json(b"[").is_err());
    }
}
