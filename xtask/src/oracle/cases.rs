//! One small record of each variant with the pages it changes: the golden files of `wal_redo`,
//! whose tests read them back with `redo/cases.rs`, which describes the format.

use pg_wal::Record;
use std::collections::HashMap;
use types::Lsn;
use wal_redo::oracle::Oracle;

/// The smallest record of each variant.
#[derive(Default)]
pub struct Cases(HashMap<Vec<u8>, Vec<u8>>);

impl Cases {
    /// Takes the record if it is the smallest of its variant so far.
    pub fn offer(&mut self, oracle: &Oracle, end: Lsn, rec: &Record<'_>) {
        let mut variant = vec![rec.header.rmid, rec.header.info];
        let mut pages = Vec::new();
        for b in &rec.blocks {
            if b.image.is_none_or(|i| i.apply) {
                return;
            }
            variant.push(b.id);
            if !b.will_init {
                let Some(page) = oracle.page(b.rel, b.block) else {
                    return;
                };
                pages.push((b, page));
            }
        }
        if rec.blocks.is_empty() {
            return;
        }
        // Flags of heap records, where they are.
        let flags = match (rec.header.rmid, rec.op() & 0x70) {
            (9, 0x10..=0x30) => rec.main.get(1).filter(|_| rec.main.len() < 8),
            (9, 0x40) => rec.main.get(4),
            (9, 0x50) => rec.main.first(),
            (10, 0x00) => rec.main.get(2),
            (9 | 10, 0x10 | 0x20 | 0x40 | 0x60) => rec.main.get(7),
            _ => None,
        };
        variant.extend(flags);
        variant.extend(index_details(rec));
        let mut case = end.0.to_le_bytes().to_vec();
        case.extend((pages.len() as u8).to_le_bytes());
        for (b, page) in pages {
            for n in [b.rel.spc, b.rel.db, b.rel.rel] {
                case.extend(n.to_le_bytes());
            }
            case.push(b.rel.fork as u8);
            case.extend(b.block.to_le_bytes());
            case.extend(page);
        }
        case.extend((rec.raw.len() as u32).to_le_bytes());
        case.extend(rec.raw);
        let best = self.0.entry(variant).or_insert_with(|| case.clone());
        if case.len() < best.len() {
            *best = case;
        }
    }

    /// All cases, ordered by variant.
    pub fn bytes(self) -> Vec<u8> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort();
        all.into_iter().flat_map(|(_, case)| case).collect()
    }
}

/// What distinguishes index records of one type: kinds of change, numbers of items up to 3.
fn index_details(rec: &Record<'_>) -> Vec<u8> {
    let main = |at: usize| rec.main.get(at).copied().unwrap_or(0);
    let data = |at: usize| {
        let first = rec.blocks.first().map_or(&[][..], |b| b.data);
        first.get(at).copied().unwrap_or(0)
    };
    match (rec.header.rmid, rec.op()) {
        // A posting list is split; items deleted and posting lists shortened.
        (11, 0x30 | 0x40) => vec![main(8).min(1)],
        (11, 0x70) => vec![main(4).min(3), main(6).min(1)],
        (11, 0xC0) => vec![main(0).min(3), main(2).min(1)],
        (12, 0x80) => vec![main(8).min(1), main(10), main(11)],
        (12, 0x40) => vec![main(8)],
        // Kind of page, and replacement or kind of segment action.
        (13, 0x20) if main(0) == 3 => vec![3, data(0).min(3), data(3)],
        (13, 0x20) => vec![main(0), data(2)],
        (13, 0x60) => vec![main(80).min(2)],
        (13, 0x90) => vec![data(0).min(3), data(3)],
        (14, 0x00) => vec![main(0).min(3), main(2).min(2)],
        (14, 0x10) => vec![main(4).min(3)],
        (14, 0x30) => vec![main(16), main(20)],
        (16, 0x10) => vec![
            main(0),
            main(1),
            u8::from(main(2) == main(4)),
            main(4).min(1),
        ],
        (16, 0x20) => vec![main(2), main(3), main(4), main(0).min(3)],
        (16, 0x30 | 0x40) => vec![main(4), main(5)],
        (16, 0x50) => [0, 6, 7, 10, 11, 12].map(main).to_vec(),
        (16, 0x60) => [0, 2, 4, 6].map(|at| main(at).min(1)).to_vec(),
        (16, 0x80) => vec![main(0).min(1), main(2).min(1)],
        _ => Vec::new(),
    }
}
