//! Random creations, extensions, truncations and drops against a naive model.

use crate::feed::{Feed, T, page};
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::directory::{DbDirectory, RelDirectory};
use types::{Fork, Key, Lsn, PgMajor, RelTag, Value};
use wal_ingest::{Config, Limits};

#[derive(Clone, Debug)]
enum Op {
    Create(u32, Fork),
    Write(u32, Fork, u32),
    Truncate(u32, u32),
    Drop(Vec<u32>),
    DropDatabase,
    Commit,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let rel = 1u32..4;
    let fork = prop_oneof![Just(Fork::Main), Just(Fork::Vm), Just(Fork::Fsm)];
    let op = prop_oneof![
        (rel.clone(), fork.clone()).prop_map(|(r, f)| Op::Create(r, f)),
        (rel.clone(), fork, 0u32..12).prop_map(|(r, f, b)| Op::Write(r, f, b)),
        (rel.clone(), 0u32..12).prop_map(|(r, n)| Op::Truncate(r, n)),
        proptest::collection::vec(rel, 1..3).prop_map(Op::Drop),
        Just(Op::DropDatabase),
        Just(Op::Commit),
    ];
    proptest::collection::vec(op, 1..40)
}

/// Per fork, the LSN at which each page was last written from nothing.
type Model = BTreeMap<(u32, Fork), Vec<Lsn>>;

fn extend(model: &mut Model, rel: u32, fork: Fork, block: u32, lsn: Lsn) {
    let pages = model.entry((rel, fork)).or_default();
    while pages.len() <= block as usize {
        pages.push(lsn);
    }
    pages[block as usize] = lsn;
}

fn step(f: &mut Feed, model: &mut Model, op: Op) {
    let tag = |rel, fork| RelTag { rel, fork, ..T };
    let rec = match &op {
        Op::Commit => return f.commit(),
        Op::Create(r, fork) => f.rec(2, 0x10).main_u32([T.spc, T.db, *r, *fork as u32]),
        Op::Write(r, fork, b) => {
            f.rec(0, 0xB0)
                .block(0, tag(*r, *fork), *b)
                .image(&page(9), None, true)
        }
        Op::Truncate(r, n) => f.rec(2, 0x20).main_u32([*n, T.spc, T.db, *r, 1]),
        Op::Drop(rels) => rels.iter().fold(
            f.rec(1, 0x80)
                .xid(700)
                .main(1i64.to_le_bytes())
                .main_u32([4, rels.len() as u32]),
            |b, r| b.main_u32([T.spc, T.db, *r]),
        ),
        Op::DropDatabase => f.rec(4, 0x20).main_u32([T.db, 1, T.spc]),
    };
    let (lsn, _) = f.try_push(rec).unwrap();
    match op {
        Op::Create(r, fork) => {
            model.entry((r, fork)).or_default();
        }
        Op::Write(r, fork, b) => extend(model, r, fork, b, lsn),
        Op::Truncate(r, n) => model
            .entry((r, Fork::Main))
            .or_default()
            .truncate(n as usize),
        Op::Drop(rels) => model.retain(|(r, _), _| !rels.contains(r)),
        Op::DropDatabase => model.clear(),
        Op::Commit => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn sizes_directories_and_pages_follow_the_model(ops in ops(), small: bool, batch in 1usize..9) {
        let limits = Limits {
            batch_records: batch,
            cached_sizes: if small { 1 } else { 1000 },
            cached_directories: usize::from(!small),
            ..Limits::default()
        };
        let mut f = Feed::with(Config { limits, ..Config::new(PgMajor::V16) });
        let mut model = Model::new();
        for op in ops {
            step(&mut f, &mut model, op);
        }
        f.commit();
        let dbs = DbDirectory::decode(&f.store.image(Key::DB_DIR).unwrap()).unwrap();
        let listed = match dbs.dbs.contains_key(&(T.spc, T.db)) {
            true => RelDirectory::decode(&f.store.image(Key::rel_dir(T.spc, T.db)).unwrap()).unwrap().rels,
            false => Default::default(),
        };
        prop_assert_eq!(&listed, &model.keys().copied().collect());
        let mut total = 0;
        for ((rel, fork), pages) in &model {
            let tag = RelTag { rel: *rel, fork: *fork, ..T };
            prop_assert_eq!(f.size(tag), Some(pages.len() as u32));
            total += pages.len() as i64;
            for (b, written) in (0u32..).zip(pages) {
                let Some((lsn, Value::Image(_))) = f.store.newest(Key::rel_block(tag, b)) else {
                    return Err(TestCaseError::fail(format!("{tag} {b} has no image")));
                };
                prop_assert_eq!(lsn, *written);
            }
        }
        prop_assert_eq!(f.store.logical_size(), total * 8192);
    }
}
