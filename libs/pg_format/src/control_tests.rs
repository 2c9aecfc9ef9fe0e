use super::*;
use proptest::prelude::*;

/// The first 300 bytes of `pg_control` as `initdb` of each major left it; the rest of the
/// 8192-byte file is zero.
pub(crate) fn golden(major: PgMajor) -> [u8; CONTROL_FILE_SIZE] {
    let head: &[u8] = match major {
        PgMajor::V14 => include_bytes!("../tests/data/pg_control_14.bin"),
        PgMajor::V15 => include_bytes!("../tests/data/pg_control_15.bin"),
        PgMajor::V16 => include_bytes!("../tests/data/pg_control_16.bin"),
        PgMajor::V17 => include_bytes!("../tests/data/pg_control_17.bin"),
        PgMajor::V18 => include_bytes!("../tests/data/pg_control_18.bin"),
    };
    let mut file = [0; CONTROL_FILE_SIZE];
    file[..head.len()].copy_from_slice(head);
    file
}

pub(crate) fn golden_control(major: PgMajor) -> ControlFile {
    ControlFile::parse(&golden(major)).unwrap()
}

#[test]
fn files_of_real_clusters_are_understood() {
    for major in PgMajor::ALL {
        let c = golden_control(major);
        assert_eq!(c.major(), major);
        assert_eq!(c.state(), State::ShutDown, "{major}");
        assert_eq!(c.to_bytes(), golden(major), "{major}");
        let segment = match major {
            PgMajor::V15 => 1 << 20,
            PgMajor::V17 => 64 << 20,
            _ => 16 << 20,
        };
        assert_eq!(c.wal_segment_size(), segment, "{major}");
        assert_eq!(c.block_size(), 8192);
        assert_eq!(
            c.data_checksum_version(),
            u32::from(major >= PgMajor::V17),
            "{major}"
        );
        assert_eq!(c.char_signedness(), (major == PgMajor::V18).then_some(true));
        assert_eq!(c.min_recovery_point(), Lsn::INVALID);
        assert_eq!(c.min_recovery_point_tli(), 0);
        assert_eq!(c.backup_start_point(), Lsn::INVALID);
        assert_eq!(c.backup_end_point(), Lsn::INVALID);
        assert!(!c.backup_end_required());
        let p = c.parameters();
        assert_eq!((p.max_connections, p.max_worker_processes), (100, 8));
        assert_eq!((p.max_wal_senders, p.max_locks_per_xact), (10, 64));
        assert_eq!(
            (p.wal_level, p.wal_log_hints, p.track_commit_timestamp),
            (1, false, false)
        );

        let cp = c.checkpoint();
        assert_eq!(cp.encode(), c.checkpoint_bytes(), "{major}");
        assert_eq!(cp.redo, c.checkpoint_lsn());
        assert_eq!((cp.this_tli, cp.prev_tli), (1, 1));
        assert!(cp.full_page_writes);
        assert_eq!(cp.wal_level, (major >= PgMajor::V17).then_some(1));
        assert_eq!(
            (cp.next_multi, cp.oldest_multi, cp.oldest_multi_db),
            (1, 1, 1)
        );
        assert_eq!(cp.oldest_active_xid, 0);
        assert!(cp.next_xid.epoch() == 0 && cp.next_xid.xid() > cp.oldest_xid);
        assert!(cp.next_oid >= 12_000);
        assert!((1_500_000_000..4_000_000_000).contains(&cp.time));
    }
}

#[test]
fn patched_files_verify_and_keep_everything_else() {
    for major in PgMajor::ALL {
        let old = golden_control(major);
        let params = Parameters {
            max_connections: 500,
            max_worker_processes: 33,
            max_wal_senders: 7,
            max_prepared_xacts: 5,
            max_locks_per_xact: 128,
            wal_level: 2,
            wal_log_hints: true,
            track_commit_timestamp: true,
        };
        let cp = old.checkpoint().for_fresh_start(Lsn(0x0300_0028), 4);
        let new = old
            .patch()
            .state(State::InProduction)
            .time(1_700_000_000)
            .checkpoint_lsn(Lsn(0x0300_0028))
            .checkpoint(&cp)
            .clear_recovery()
            .unlogged_lsn(Lsn(1000))
            .parameters(&params)
            .data_checksum_version(0)
            .finish();
        let read = ControlFile::parse(&new.to_bytes()).unwrap();
        assert_eq!(read, new);
        assert_eq!(read.parameters(), params);
        assert_eq!(read.checkpoint(), cp);
        assert_eq!(read.state(), State::InProduction);
        assert_eq!(read.time(), 1_700_000_000);
        assert_eq!(read.system_identifier(), old.system_identifier());
        assert_eq!(read.data_checksum_version(), 0);
        assert_eq!(
            read.to_bytes()[256..288],
            golden(major)[256..288],
            "{major}"
        );
    }
}

#[test]
fn damage_is_named() {
    let good = golden(PgMajor::V16);
    assert_eq!(ControlFile::parse(&good[..295]), Err(Error::Size(295)));
    assert!(ControlFile::parse(&good[..296]).is_ok());
    let mut bad = good;
    bad[185] ^= 4;
    assert!(matches!(
        ControlFile::parse(&bad),
        Err(Error::Crc { at: 288, .. })
    ));
    let mut bad = good;
    bad[8] = 0x15;
    assert!(matches!(
        ControlFile::parse(&bad),
        Err(Error::Version { control: 1301, .. })
    ));
    let mut odd = golden_control(PgMajor::V18);
    put::<216, 4, _>(&mut odd.raw, 4096u32.to_le_bytes());
    let odd = odd.patch().finish().to_bytes();
    assert_eq!(
        ControlFile::parse(&odd),
        Err(Error::Unsupported {
            field: "blcksz",
            at: 216,
            found: 4096
        })
    );
    let mut odd = golden_control(PgMajor::V14);
    put::<16, 4, _>(&mut odd.raw, 7u32.to_le_bytes());
    assert_eq!(
        ControlFile::parse(&odd.patch().finish().to_bytes()),
        Err(Error::State(7))
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(ControlFile::parse(&b).is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed(at in 0usize..292, bit in 0u8..8) {
        let mut file = golden(PgMajor::V17);
        file[at] ^= 1 << bit;
        prop_assert!(ControlFile::parse(&file).is_err());
    }
}
