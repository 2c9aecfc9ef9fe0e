//! Which keys exist at an LSN.

use super::super::Timeline;
use crate::engine::error::Result;
use types::key::{METADATA_BEGIN, METADATA_END};
use types::{Key, KeyRange, Lsn, SlruKind};

/// Keys that exist: every key of the dense ranges has a value; of the sparse range, whatever a scan
/// finds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Keyspace {
    /// Ascending, disjoint. All keys of a range differ in the last field only.
    pub dense: Vec<KeyRange>,
}

/// The keys found by scanning only.
pub const SPARSE: KeyRange = KeyRange {
    start: Key {
        field1: METADATA_BEGIN,
        field2: 0,
        field3: 0,
        field4: 0,
        field5: 0,
        field6: 0,
    },
    end: Key {
        field1: METADATA_END,
        field2: 0,
        field3: 0,
        field4: 0,
        field5: 0,
        field6: 0,
    },
};

impl Keyspace {
    /// The dense ranges within `keys`, cut to it.
    pub fn within(&self, keys: &KeyRange) -> impl Iterator<Item = KeyRange> {
        let keys = *keys;
        let first = self.dense.partition_point(|r| r.end <= keys.start);
        self.dense
            .get(first..)
            .unwrap_or_default()
            .iter()
            .take_while(move |r| r.start < keys.end)
            .map(move |r| KeyRange {
                start: r.start.max(keys.start),
                end: r.end.min(keys.end),
            })
    }
}

impl Timeline {
    /// The keys that exist at `lsn`, the LSN's directories being read.
    pub async fn keyspace(&self, lsn: Lsn) -> Result<Keyspace> {
        let mut dense = vec![
            KeyRange::single(Key::DB_DIR),
            KeyRange::single(Key::TWO_PHASE_DIR),
            KeyRange::single(Key::CONTROL_FILE),
            KeyRange::single(Key::CHECKPOINT),
        ];
        for ((spc, db), has_map) in self.databases(lsn).await?.dbs {
            if has_map {
                dense.push(KeyRange::single(Key::rel_map(spc, db)));
            }
            if self.get_opt(Key::rel_dir(spc, db), lsn).await?.is_some() {
                dense.push(KeyRange::single(Key::rel_dir(spc, db)));
            }
            for rel in self.relations(spc, db, lsn).await? {
                let blocks = self.relation_size(rel, lsn).await?;
                if blocks > 0 {
                    dense.push(KeyRange {
                        start: Key::rel_block(rel, 0),
                        end: Key::rel_block(rel, blocks),
                    });
                }
                dense.push(KeyRange::single(Key::rel_size(rel)));
            }
        }
        for kind in SlruKind::ALL {
            let directory = Key::slru_dir(kind);
            if self.get_opt(directory, lsn).await?.is_none() {
                continue;
            }
            dense.push(KeyRange::single(directory));
            for segment in self.slru_segments(kind, lsn).await? {
                let pages = self.slru_segment_size(kind, segment, lsn).await?;
                if pages > 0 {
                    dense.push(KeyRange {
                        start: Key::slru_block(kind, segment, 0),
                        end: Key::slru_block(kind, segment, pages),
                    });
                }
                dense.push(KeyRange::single(Key::slru_segment_size(kind, segment)));
            }
        }
        for xid in self.prepared(lsn).await? {
            dense.push(KeyRange::single(Key::two_phase_file(xid)));
        }
        if self.get_opt(Key::AUX_FILES_V1, lsn).await?.is_some() {
            dense.push(KeyRange::single(Key::AUX_FILES_V1));
        }
        dense.sort_unstable();
        Ok(Keyspace { dense })
    }
}
