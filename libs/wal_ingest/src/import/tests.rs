use super::*;
use pg_format::control::{catalog_version, control_version};
use proptest::prelude::*;
use types::directory::decode_size;
use types::shard::ShardIndex;
use types::{Fork, Lsn};

type Values = BTreeMap<Key, Vec<u8>>;

fn control(version: PgMajor) -> Vec<u8> {
    let mut b = vec![0; 8192];
    let mut put = |at: usize, n: u32| b[at..at + 4].copy_from_slice(&n.to_le_bytes());
    for (at, n) in [
        (8, control_version(version)),
        (12, catalog_version(version)),
        (16, 1),
        (32, 0x123_4560),
        (40, 0x123_4560),
        (64, 777),
        (216, 8192),
        (220, 131_072),
        (224, 8192),
        (228, 16 << 20),
    ] {
        put(at, n);
    }
    let at = if version == PgMajor::V18 { 292 } else { 288 };
    let crc = types::crc32c::of(&b[..at]);
    b[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    b
}

fn relation_map(version: PgMajor) -> Vec<u8> {
    let size = relmap::file_size(version);
    let mut b = vec![0; size];
    b[..4].copy_from_slice(&relmap::MAGIC.to_le_bytes());
    // Magic, count, entries, CRC; 512 bytes have four of padding behind it.
    let crc_at = 8 + relmap::capacity(version) as usize * 8;
    let crc = types::crc32c::of(&b[..crc_at]);
    b[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    b
}

fn two_phase(xid: u32) -> Vec<u8> {
    let mut s = Vec::new();
    for n in [twophase::MAGIC, 76, xid, 5] {
        s.extend(n.to_le_bytes());
    }
    s.resize(72, 0);
    let crc = types::crc32c::of(&s);
    s.extend(crc.to_le_bytes());
    s
}

fn feed(
    pg: &mut Pgdata,
    out: &mut Values,
    path: &str,
    bytes: &[u8],
    chunk: usize,
) -> Result<bool, Error> {
    let mut twice = None;
    let mut sink = |key: Key, value: &[u8]| {
        if out.insert(key, value.to_vec()).is_some() {
            twice = Some(key);
        }
    };
    let Some(mut file) = pg.open(path, bytes.len() as u64)? else {
        return Ok(false);
    };
    for part in bytes.chunks(chunk) {
        pg.feed(&mut file, part, &mut sink)?;
    }
    pg.close(file, &mut sink)?;
    assert_eq!(twice, None, "{path}");
    Ok(true)
}

fn basics(version: PgMajor) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("global/pg_control", control(version)),
        ("global/pg_filenode.map", relation_map(version)),
        ("base/5/pg_filenode.map", relation_map(version)),
        (
            "base/5/1259",
            [[1; PAGE_SIZE], [2; PAGE_SIZE], [3; PAGE_SIZE]].concat(),
        ),
        ("base/5/1259_vm", vec![4; PAGE_SIZE]),
        ("base/5/16384_init", vec![]),
        ("global/1262", vec![5; PAGE_SIZE]),
        ("pg_xact/0000", vec![6; 2 * PAGE_SIZE]),
        ("pg_multixact/offsets/0000", vec![0; PAGE_SIZE]),
        (
            "pg_logical/replorigin_checkpoint",
            replorigin::encode([(3, Lsn(0x99))]).unwrap(),
        ),
        ("base/5/pg_internal.init", vec![1, 2, 3]),
        ("postgresql.conf", b"x".to_vec()),
        ("base/5/PG_VERSION", b"16\n".to_vec()),
    ]
}

fn import(version: PgMajor, shard: ShardIdentity, chunk: usize) -> (Values, Imported) {
    let mut pg = Pgdata::new(version, shard);
    let mut out = Values::new();
    for (path, bytes) in basics(version) {
        feed(&mut pg, &mut out, path, &bytes, chunk).unwrap();
    }
    let done = pg
        .finish(&mut |k, v| assert_eq!(out.insert(k, v.to_vec()), None))
        .unwrap();
    (out, done)
}

#[test]
fn files_become_keys_in_every_version() {
    for version in PgMajor::ALL {
        let (out, done) = import(version, ShardIdentity::UNSHARDED, 1000);
        let rel = RelTag {
            spc: 1663,
            db: 5,
            rel: 1259,
            fork: Fork::Main,
        };
        assert_eq!(out[&Key::rel_block(rel, 2)], [3; PAGE_SIZE]);
        assert_eq!(
            out[&Key::rel_block(rel.with_fork(Fork::Vm), 0)],
            [4; PAGE_SIZE]
        );
        assert_eq!(decode_size(&out[&Key::rel_size(rel)]).unwrap(), 3);
        let init = RelTag {
            rel: 16384,
            fork: Fork::Init,
            ..rel
        };
        assert_eq!(decode_size(&out[&Key::rel_size(init)]).unwrap(), 0);
        let dbs = DbDirectory::decode(&out[&Key::DB_DIR]).unwrap();
        assert_eq!(dbs.dbs, [((1663, 5), true), ((1664, 0), true)].into());
        let rels = RelDirectory::decode(&out[&Key::rel_dir(1663, 5)]).unwrap();
        assert_eq!(
            rels.rels,
            [(1259, Fork::Main), (1259, Fork::Vm), (16384, Fork::Init)].into()
        );
        assert_eq!(
            out[&Key::rel_map(1663, 5)].len(),
            relmap::file_size(version)
        );
        assert_eq!(out[&Key::slru_block(SlruKind::Clog, 0, 1)], [6; PAGE_SIZE]);
        assert_eq!(
            decode_size(&out[&Key::slru_segment_size(SlruKind::Clog, 0)]).unwrap(),
            2
        );
        for (kind, segments) in [(SlruKind::Clog, 1), (SlruKind::MultiXactMembers, 0)] {
            assert_eq!(
                SlruDirectory::decode(&out[&Key::slru_dir(kind)])
                    .unwrap()
                    .segments
                    .len(),
                segments
            );
        }
        assert_eq!(out[&Key::repl_origin(3)], 0x99u64.to_be_bytes());
        assert_eq!(out[&Key::CONTROL_FILE], control(version));
        let cp = CheckPoint::parse(&out[&Key::CHECKPOINT], version).unwrap();
        assert_eq!((cp.redo, cp.next_xid.0), (Lsn(0x123_4560), 777));
        assert_eq!(
            (done.logical_size, done.databases, done.relations),
            (5 * 8192, 2, 4)
        );
        assert_eq!(out.len(), 26, "{:?}", out.keys());
    }
}

proptest! {
    #[test]
    fn chunk_sizes_make_no_difference(chunk in 1usize..20_000) {
        let v = PgMajor::V16;
        prop_assert_eq!(
            import(v, ShardIdentity::UNSHARDED, chunk).0,
            import(v, ShardIdentity::UNSHARDED, 8192).0
        );
    }
}

#[test]
fn shards_share_the_pages_and_each_has_the_directories() {
    let (all, _) = import(PgMajor::V17, ShardIdentity::UNSHARDED, 8192);
    let mut pages = 0;
    for number in 0..3 {
        let shard = ShardIdentity {
            index: ShardIndex { number, count: 3 },
            stripe_size: 1,
        };
        let (part, _) = import(PgMajor::V17, shard, 8192);
        assert!(part.iter().all(|(k, v)| all[k] == *v && shard.keeps(k)));
        assert!(all.keys().all(|k| part.contains_key(k) == shard.keeps(k)));
        pages += part.values().filter(|v| v.len() == PAGE_SIZE).count();
    }
    // The control file, which every shard has, is as long as a page.
    assert_eq!(
        pages,
        all.values().filter(|v| v.len() == PAGE_SIZE).count() + 2
    );
}

fn refusal(path: &str, bytes: &[u8]) -> Error {
    let mut pg = Pgdata::new(PgMajor::V16, ShardIdentity::UNSHARDED);
    feed(&mut pg, &mut Values::new(), path, bytes, 8192).unwrap_err()
}

#[test]
fn what_cannot_be_imported_is_refused_by_name() {
    assert!(matches!(refusal("base/5/junk", b""), Error::Name { .. }));
    assert!(matches!(
        refusal("base/5/1259", &[0; 100]),
        Error::Size { .. }
    ));
    assert!(matches!(
        refusal("pg_xact/0000", &[0; 33 * PAGE_SIZE]),
        Error::Size { .. }
    ));
    assert!(matches!(
        refusal("base/5/pg_filenode.map", &[0; 512]),
        Error::Content { .. }
    ));
    assert!(matches!(
        refusal("global/pg_control", &[0; 8192]),
        Error::Control(_)
    ));
    assert!(matches!(
        refusal("global/pg_control", &control(PgMajor::V15)),
        Error::Version { .. }
    ));
    for path in ["pg_tblspc/16400/PG_16_202307071/5/1", "pg_tblspc/16400/x"] {
        assert!(
            matches!(refusal(path, &[0; PAGE_SIZE]), Error::Tablespace { .. }),
            "{path}"
        );
    }
    let mut pg = Pgdata::new(PgMajor::V16, ShardIdentity::UNSHARDED);
    let file = pg.open("base/5/1", 8192).unwrap().unwrap();
    assert!(matches!(
        pg.close(file, &mut |_, _| {}),
        Err(Error::Length { got: 0, .. })
    ));
    assert!(matches!(pg.finish(&mut |_, _| {}), Err(Error::Missing(_))));
}

#[test]
fn the_crc_of_a_prepared_transaction_is_checked_and_left_out() {
    let mut pg = Pgdata::new(PgMajor::V16, ShardIdentity::UNSHARDED);
    let mut out = Values::new();
    let state = two_phase(0x2F1);
    assert!(feed(&mut pg, &mut out, "pg_twophase/000002F1", &state, 10).unwrap());
    assert_eq!(out[&Key::two_phase_file(0x2F1)], state[..72]);
    assert!(matches!(
        refusal("pg_twophase/000002F1", &state[..72]),
        Error::Content { .. }
    ));
    let mut bad = state;
    bad[50] ^= 1;
    assert!(matches!(
        refusal("pg_twophase/000002F1", &bad),
        Error::Content { .. }
    ));
}

#[test]
fn a_missing_segment_is_noticed_and_their_order_does_not_matter() {
    for (second_first, whole, ok) in [
        (false, true, true),
        (true, true, true),
        (false, false, false),
    ] {
        let mut pg = Pgdata::new(PgMajor::V16, ShardIdentity::UNSHARDED);
        let mut out = Values::new();
        for (path, bytes) in basics(PgMajor::V16) {
            feed(&mut pg, &mut out, path, &bytes, 8192).unwrap();
        }
        let mut sizes = vec![
            ("base/5/16385", if whole { 131_072u64 } else { 7 }),
            ("base/5/16385.1", 2),
        ];
        if second_first {
            sizes.reverse();
        }
        for (path, pages) in sizes {
            let mut file = pg.open(path, pages * 8192).unwrap().unwrap();
            // Pages are counted, not kept.
            for _ in 0..pages {
                pg.feed(&mut file, &[1; PAGE_SIZE], &mut |_, _| {}).unwrap();
            }
            pg.close(file, &mut |_, _| {}).unwrap();
        }
        match pg.finish(&mut |_, _| {}) {
            Ok(done) => assert!(ok && done.logical_size == (5 + 131_074) * 8192),
            Err(e) => assert!(
                !ok && matches!(
                    e,
                    Error::Hole {
                        end: 131_074,
                        pages: 9,
                        ..
                    }
                ),
                "{e}"
            ),
        }
    }
}
