//! Cells whose images are mostly of what exists no more: relations that were dropped, truncated or
//! rewritten leave their pages behind, and nothing that changes there any more.

use super::super::Timeline;
use super::Cell;
use super::keyspace::{Keyspace, SPARSE};
use crate::engine::error::Result;
use types::key::Kind;
use types::{KeyRange, Lsn, PAGE_SIZE};

/// Images are made anew when they are this many times as large as what lives in them.
const WASTE: u64 = 2;
/// What a layer file takes beside its values.
const FILE_BYTES: u64 = 64 << 10;
/// What the size of a relation takes, with its place in the index.
const SIZE_BYTES: u64 = 64;

/// Bytes that the values of a range take, if that is known without reading them.
fn known_bytes(range: &KeyRange) -> Option<u64> {
    match range.start.kind() {
        Kind::RelBlock { .. } | Kind::SlruBlock { .. } => {
            let pages = range.end.field6.saturating_sub(range.start.field6);
            Some(u64::from(pages) * PAGE_SIZE as u64)
        }
        Kind::RelSize { .. } | Kind::SlruSegmentSize { .. } => Some(SIZE_BYTES),
        _ => None,
    }
}

/// True if images of this size, in so many files, are not worth what lives in them.
fn is_waste((bytes, files): (u64, u64), live: u64) -> bool {
    bytes > live.saturating_mul(WASTE) + files.saturating_add(1) * FILE_BYTES
}

impl Timeline {
    /// Runs of neighbouring cells, each to get images of all of it: those with much waste, and if
    /// nothing lives in them a neighbour, as there is no image of nothing.
    pub(super) async fn wasteful(
        &self,
        cells: Vec<Cell>,
        keyspace: &Keyspace,
        at: Lsn,
    ) -> Result<Vec<Cell>> {
        let mut runs: Vec<Cell> = Vec::new();
        // The run that ends here, and what lives in it; the cell before, if it is in no run.
        let mut run: Option<(Cell, u64)> = None;
        let mut before: Option<Cell> = None;
        for cell in cells {
            let own = cell.own_images();
            let ranges = keyspace.within(&cell.keys);
            let mut live: u64 = ranges.filter_map(|r| known_bytes(&r)).sum();
            let mut waste = is_waste(own, live);
            if waste {
                live += self.other_bytes(&cell.keys, keyspace, at).await?;
                waste = is_waste(own, live);
            }
            run = match (run, waste) {
                (Some((mut run, lives)), true) => {
                    run.join(cell);
                    Some((run, lives + live))
                }
                (Some((mut run, 0)), false) => {
                    run.join(cell);
                    runs.push(run);
                    None
                }
                (Some((run, _)), false) => {
                    runs.push(run);
                    before = Some(cell);
                    None
                }
                (None, true) => match before.take() {
                    Some(mut neighbour) if live == 0 => {
                        neighbour.join(cell);
                        Some((neighbour, 1))
                    }
                    _ => Some((cell, live)),
                },
                (None, false) => {
                    before = Some(cell);
                    None
                }
            };
        }
        runs.extend(run.map(|(run, _)| run));
        Ok(runs)
    }

    /// Bytes of the values of a range that have to be read for it.
    async fn other_bytes(&self, keys: &KeyRange, keyspace: &Keyspace, at: Lsn) -> Result<u64> {
        let mut bytes = 0;
        for range in keyspace.within(keys) {
            if known_bytes(&range).is_none() {
                let value = self.get_opt(range.start, at).await?;
                bytes += value.map_or(0, |v| v.len() as u64);
            }
        }
        let sparse = KeyRange {
            start: SPARSE.start.max(keys.start),
            end: SPARSE.end.min(keys.end),
        };
        if !sparse.is_empty() {
            let values = self.scan(sparse, at).await?;
            bytes += values.iter().map(|(_, v)| v.len() as u64).sum::<u64>();
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Fork, Key, RelTag};

    #[test]
    fn small_files_and_what_lives_are_no_waste() {
        assert!(!is_waste((24 << 10, 1), 0));
        assert!(!is_waste((100 << 20, 1), 60 << 20));
        assert!(is_waste((100 << 20, 1), 40 << 20));
        assert!(is_waste((1 << 20, 2), 0));
    }

    #[test]
    fn what_a_range_takes_is_known_of_pages_and_sizes() {
        let rel = RelTag {
            spc: 1663,
            db: 5,
            rel: 16384,
            fork: Fork::Main,
        };
        let pages = KeyRange {
            start: Key::rel_block(rel, 3),
            end: Key::rel_block(rel, 10),
        };
        assert_eq!(known_bytes(&pages), Some(7 * 8192));
        let size = KeyRange::single(Key::rel_size(rel));
        assert_eq!(known_bytes(&size), Some(SIZE_BYTES));
        assert_eq!(known_bytes(&KeyRange::single(Key::DB_DIR)), None);
    }
}
