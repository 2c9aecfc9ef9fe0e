//! Malformed records: an error, never a panic, never an unbounded effort.

use crate::feed::{Feed, START};
use proptest::prelude::*;
use types::{Flavour, Fork, Lsn, PgMajor, RelTag};
use wal_ingest::{Config, Limits};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn arbitrary_records_never_panic(
        v in 0usize..5, neon: bool, rmid in prop_oneof![0u8..=22, Just(134), Just(255)], info: u8, xid: u32,
        main in proptest::collection::vec(any::<u8>(), 0..80),
        blocks in proptest::collection::vec((0u8..4, 0u32..3, 0u32..40, any::<bool>()), 0..4),
        flip in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let version = PgMajor::ALL[v];
        let flavour = if neon { Flavour::Neon } else { Flavour::Vanilla };
        let limits = Limits { gap_blocks: 100, ..Limits::default() };
        let mut f = Feed::with(Config { flavour, limits, ..Config::new(version) });
        let mut rec = f.rec(rmid, info).xid(xid).main(main);
        for (i, (fork, rel, block, init)) in blocks.into_iter().enumerate() {
            let fork = Fork::from_u8(fork).unwrap();
            rec = rec.block(i as u8, RelTag { spc: 1663, db: 5, rel, fork }, block);
            if init {
                rec = rec.init();
            }
        }
        let mut raw = rec.build();
        if let Some((at, byte)) = flip {
            let at = at.index(raw.len());
            raw[at] ^= byte;
        }
        let end = Lsn(START.0 + raw.len() as u64).align();
        let good = pollster::block_on(f.ingest.record(&f.store, START, end, &raw)).is_ok();
        // The store refuses batches that break a rule.
        f.commit();
        prop_assert_eq!(f.store.last(), if good { end } else { START });
        if !good {
            prop_assert!(f.store.dump().keys().all(|(_, lsn)| *lsn == START));
        }
    }
}
