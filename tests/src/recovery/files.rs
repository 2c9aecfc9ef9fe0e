//! The files of the recovered server against the replica.

use super::{Outcome, Rebuilt, Replica};
use crate::compare::{offsets_agree, read_relation, relation_files};
use anyhow::Result;
use pg_wal::record::{Header, rmgr_name};
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use types::directory::{DbDirectory, RelDirectory, decode_size};
use types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, SlruKind, WalRecord};
use wal_redo::mask::Kind;
use wal_redo::name;

/// Records named in the description of a difference.
const RECORDS_NAMED: usize = 6;
/// A page's checksum: redo leaves it alone, a server sets it when it writes the page.
const CHECKSUM: Range<usize> = 8..10;
/// A page's LSN.
const LSN: Range<usize> = 0..8;
/// Low byte of a GiST page's flags, and TUPLES_DELETED in it, which redo never sets.
const GIST_FLAGS: usize = 8188;
const TUPLES_DELETED: u8 = 0x04;

/// Compares every page, both ways; counts and differences go to `outcome`.
pub(super) fn compare(
    replica: &Replica,
    data: &Path,
    label: &str,
    outcome: &mut Outcome,
) -> Result<()> {
    let files = relation_files(data, replica.dialect().version)?;
    let mut known = relations(replica)?;
    let unlogged: BTreeSet<RelTag> = files
        .keys()
        .filter(|r| r.fork == Fork::Init)
        .map(|r| r.with_fork(Fork::Main))
        .collect();
    for (rel, segments) in &files {
        let ours = known.remove(rel);
        let lost = unlogged.contains(&rel.with_fork(Fork::Main)) && rel.fork != Fork::Init;
        if rel.fork == Fork::Fsm || lost {
            continue;
        }
        let content = read_relation(segments)?;
        let blocks = u32::try_from(content.len() / PAGE_SIZE)?;
        if !ours {
            if blocks > 0 {
                let what = format!("{label}: {rel} exists after recovery only, {blocks} pages");
                outcome.differences.push(what);
            }
            continue;
        }
        let size = decode_size(&value(replica, Key::rel_size(*rel))?).unwrap_or(0);
        if size != blocks {
            let what = format!("{label}: {rel} has {blocks} pages after recovery, {size} here");
            outcome.differences.push(what);
        }
        outcome.relations += 1;
        for (block, theirs) in (0..size.min(blocks)).zip(content.chunks_exact(PAGE_SIZE)) {
            outcome.blocks += 1;
            let what = match replica.newest(Key::rel_block(*rel, block)) {
                Err(e) => Some(format!("{e:#}")),
                Ok(None) => Some("is missing here".to_owned()),
                Ok(Some(ours)) => {
                    outcome.rebuilt += u64::from(!ours.records.is_empty());
                    difference(*rel, &ours, theirs)
                }
            };
            if let Some(what) = what {
                let what = format!("{label}: {rel} block {block}: {what}");
                outcome.differences.push(what);
            }
        }
    }
    for rel in known {
        let size = decode_size(&value(replica, Key::rel_size(rel))?).unwrap_or(0);
        if size > 0 && rel.fork != Fork::Fsm {
            let what = format!("{label}: {rel} exists here only, {size} pages");
            outcome.differences.push(what);
        }
    }
    slrus(replica, data, label, outcome)
}

/// Every relation fork the directories list.
fn relations(replica: &Replica) -> Result<BTreeSet<RelTag>> {
    let mut found = BTreeSet::new();
    for (spc, db) in DbDirectory::decode(&value(replica, Key::DB_DIR)?)?
        .dbs
        .into_keys()
    {
        let raw = value(replica, Key::rel_dir(spc, db))?;
        for (rel, fork) in RelDirectory::decode(&raw)?.rels {
            found.insert(RelTag { spc, db, rel, fork });
        }
    }
    Ok(found)
}

fn value(replica: &Replica, key: Key) -> Result<bytes::Bytes> {
    Ok(replica.newest(key)?.map(|v| v.bytes).unwrap_or_default())
}

fn difference(rel: RelTag, ours: &Rebuilt, theirs: &[u8]) -> Option<String> {
    // Postgres clears bits of the map without moving its LSN; here the clearing is a record.
    let cleared =
        |(_, rec): &(Lsn, WalRecord)| matches!(rec, WalRecord::ClearVisibilityMapFlags { .. });
    let lsn_too = !ours.records.iter().any(cleared);
    let kind = theirs.first_chunk().map(|page| Kind::guess(page, rel.fork));
    let gist = kind == Some(Kind::Gist);
    let differs = |at: usize, a: u8, b: u8| {
        a != b
            && !CHECKSUM.contains(&at)
            && (lsn_too || !LSN.contains(&at))
            && !(gist && at == GIST_FLAGS && a ^ b == TUPLES_DELETED)
    };
    let pairs = ours.bytes.iter().zip(theirs).enumerate();
    let places: Vec<usize> = pairs
        .filter(|(at, (a, b))| differs(*at, **a, **b))
        .map(|(at, _)| at)
        .collect();
    let first = places.first()?;
    let lsn = |page: &[u8]| {
        page.first_chunk()
            .map_or(Lsn::INVALID, pg_format::page::lsn)
    };
    let records: Vec<String> = ours
        .records
        .iter()
        .rev()
        .take(RECORDS_NAMED)
        .map(|(lsn, rec)| format!("{} to {lsn}", title(rec)))
        .collect();
    Some(format!(
        "{} bytes differ from offset {first} on ({kind:?} page), LSN {} after recovery and {} here; the newest of {} records: {}",
        places.len(),
        lsn(theirs),
        lsn(&ours.bytes),
        ours.records.len(),
        records.join(", "),
    ))
}

fn title(rec: &WalRecord) -> String {
    match rec {
        WalRecord::Postgres { rec, .. } => match Header::parse(rec) {
            Ok(h) => format!("{} {}", rmgr_name(h.rmid), name::record(h.rmid, h.info)),
            Err(e) => e.to_string(),
        },
        other => format!("{other:?}"),
    }
}

fn slrus(replica: &Replica, data: &Path, label: &str, outcome: &mut Outcome) -> Result<()> {
    for kind in SlruKind::ALL {
        for entry in fs::read_dir(data.join(kind.directory()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(segment) = pg_format::slru::parse_segment_name(kind, &name) else {
                continue;
            };
            for (block, theirs) in (0..).zip(fs::read(entry.path())?.chunks(PAGE_SIZE)) {
                outcome.slru_pages += 1;
                let ours = value(replica, Key::slru_block(kind, segment, block))?;
                let ours = ours.get(..PAGE_SIZE).unwrap_or_default();
                let same = match kind {
                    // Offsets of multixacts may be repaired only when they are handed to a server.
                    SlruKind::MultiXactOffsets => offsets_agree(ours, theirs),
                    _ => ours == theirs || (ours.is_empty() && theirs.iter().all(|b| *b == 0)),
                };
                if !same {
                    let what = format!("{label}: {kind:?} segment {name} page {block} differs");
                    outcome.differences.push(what);
                }
            }
        }
    }
    Ok(())
}
