use super::*;
use crate::control::tests::golden_control;
use proptest::prelude::*;

/// The shutdown checkpoint record that initdb of each major wrote to WAL.
fn golden_record(major: PgMajor) -> &'static [u8; CHECKPOINT_RECORD_SIZE] {
    match major {
        PgMajor::V14 => include_bytes!("../tests/data/checkpoint_record_14.bin"),
        PgMajor::V15 => include_bytes!("../tests/data/checkpoint_record_15.bin"),
        PgMajor::V16 => include_bytes!("../tests/data/checkpoint_record_16.bin"),
        PgMajor::V17 => include_bytes!("../tests/data/checkpoint_record_17.bin"),
        PgMajor::V18 => include_bytes!("../tests/data/checkpoint_record_18.bin"),
    }
}

#[test]
fn the_record_equals_the_one_a_server_wrote() {
    for major in PgMajor::ALL {
        let golden = golden_record(major);
        let previous = Lsn(u64::from_le_bytes(golden[8..16].try_into().unwrap()));
        let checkpoint = golden_control(major).checkpoint();
        assert_eq!(&checkpoint_record(&checkpoint, previous), golden, "{major}");
    }
}

#[test]
fn a_vanilla_start_is_a_shutdown_checkpoint_in_a_new_segment() {
    for major in PgMajor::ALL {
        let old = golden_control(major);
        let size = u64::from(old.wal_segment_size());
        let stored = CheckPoint {
            next_xid: crate::FullXid::new(3, 77_824),
            oldest_commit_ts_xid: 5,
            newest_commit_ts_xid: 6,
            oldest_active_xid: 7,
            ..old.checkpoint()
        };
        let lsn = Lsn(5 * size + 1000);
        let start = vanilla_start(&old, &stored, lsn, 3).unwrap();
        assert_eq!(start.start_lsn, Lsn(6 * size + 40));
        assert_eq!(start.segment.name, wal_segment::name(3, 6, size as u32));
        assert_eq!(u64::from(start.segment.size), size);

        let control = ControlFile::parse(&start.control.to_bytes()).unwrap();
        assert_eq!(control.state(), State::ShutDown);
        assert_eq!(control.checkpoint_lsn(), start.start_lsn);
        assert_eq!(control.data_checksum_version(), old.data_checksum_version());
        assert_eq!(control.system_identifier(), old.system_identifier());
        let checkpoint = control.checkpoint();
        assert_eq!(checkpoint.redo, start.start_lsn);
        assert_eq!((checkpoint.this_tli, checkpoint.prev_tli), (3, 3));
        assert_eq!(checkpoint.next_xid, stored.next_xid);
        assert_eq!(checkpoint.oldest_xid, stored.oldest_xid);
        assert_eq!(
            (
                checkpoint.oldest_commit_ts_xid,
                checkpoint.newest_commit_ts_xid
            ),
            (0, 0)
        );
        assert_eq!(checkpoint.oldest_active_xid, 0);

        let mut head = [0; 8192];
        start.segment.read(0, &mut head);
        assert_eq!(head[..2], major.wal_magic().to_le_bytes());
        assert_eq!(head[2..8], [2, 0, 3, 0, 0, 0]);
        assert_eq!(head[8..16], (6 * size).to_le_bytes());
        assert_eq!(head[24..32], old.system_identifier().to_le_bytes());
        assert_eq!(head[32..36], (size as u32).to_le_bytes());
        assert_eq!(head[40..154], checkpoint_record(&checkpoint, Lsn::INVALID));
        assert_eq!(head[154..], [0; 8192 - 154]);
    }
}

#[test]
fn a_position_on_a_segment_boundary_still_gets_the_segment_behind() {
    let control = golden_control(PgMajor::V16);
    let start = vanilla_start(&control, &control.checkpoint(), Lsn(0x200_0000), 1).unwrap();
    assert_eq!(start.start_lsn, Lsn(0x300_0028));
}

#[test]
fn impossible_starts_are_named() {
    let control = golden_control(PgMajor::V16);
    let cp = control.checkpoint();
    let vanilla = |lsn, tli| vanilla_start(&control, &cp, Lsn(lsn), tli).unwrap_err();
    assert_eq!(vanilla(1000, 0), Error::Timeline);
    assert_eq!(vanilla(0, 1), Error::Position(Lsn(0)));
    assert_eq!(vanilla(u64::MAX, 1), Error::Position(Lsn::MAX));
    let neon = |lsn| neon_start(&control, &cp, Lsn(lsn)).unwrap_err();
    for inside in [0x200_0001, 0x200_0027, 0x200_2001, 0x200_2017] {
        assert_eq!(neon(inside), Error::InHeader(Lsn(inside)));
    }
    assert_eq!(neon(u64::MAX), Error::Position(Lsn::MAX));
    for (major, segment_size) in [(PgMajor::V15, 1 << 20), (PgMajor::V18, 16 << 20)] {
        let control = golden_control(major);
        let result = neon_start(&control, &control.checkpoint(), Lsn(0x200_0028));
        assert_eq!(
            result,
            Err(Error::NotNeon {
                major,
                segment_size
            })
        );
    }
}

const SYSTEM: u64 = 0x650D_4B0C_3A7E_1122;

fn window(segment: &Segment, at: u32) -> [u8; 40] {
    let mut out = [0; 40];
    segment.read(at, &mut out);
    out
}

#[test]
fn boot_segments_have_the_documented_headers() {
    let s = boot_segment(PgMajor::V17, SYSTEM, Lsn(0x1A2_B3C8)).unwrap();
    assert_eq!(s.name, "000000010000000000000001");
    assert_eq!(s.to_vec().len(), 16 << 20);
    let long = [
        0x16, 0xD1, 0x02, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0x22, 0x11, 0x7E, 0x3A, 0x0C, 0x4B, 0x0D, 0x65, 0, 0, 0, 0x01, 0, 0x20, 0, 0,
    ];
    assert_eq!(window(&s, 0), long);
    let short = [
        0x16, 0xD1, 0x01, 0x00, 0x01, 0, 0, 0, 0, 0xA0, 0xA2, 0x01, 0, 0, 0, 0, 0xB0, 0x13, 0, 0,
        0, 0, 0, 0,
    ];
    assert_eq!(window(&s, 0xA2_A000)[..24], short);
    assert_eq!(s.pieces().count(), 2);

    let s = boot_segment(PgMajor::V15, SYSTEM, Lsn(0x200_0000)).unwrap();
    assert_eq!(s.name, "000000010000000000000002");
    assert_eq!(
        window(&s, 0)[..24],
        [
            0x10, 0xD1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        ]
    );

    let s = boot_segment(PgMajor::V15, SYSTEM, Lsn(0x200_1000)).unwrap();
    assert_eq!(
        (window(&s, 0)[2], &window(&s, 0)[16..20]),
        (3, &[0xD8, 0x0F, 0, 0][..])
    );
    assert_eq!(s.pieces().count(), 1);

    let s = boot_segment(PgMajor::V15, SYSTEM, Lsn(0x200_4000)).unwrap();
    assert_eq!((window(&s, 0)[2], &window(&s, 0)[16..20]), (2, &[0; 4][..]));
    assert_eq!(window(&s, 0x4000)[..8], [0x10, 0xD1, 0, 0, 1, 0, 0, 0]);
    assert_eq!(window(&s, 0x4000)[16..20], [0; 4]);
}

#[test]
fn neon_control_files_carry_the_position_in_the_checkpoint_copy() {
    for (major, lsn, redo) in [
        (PgMajor::V14, 0x1A2_B3C8, 0x1A2_B3C8),
        (PgMajor::V16, 0x200_0000, 0x200_0028),
        (PgMajor::V16, 0x200_1000, 0x200_1000),
        (PgMajor::V14, 0x200_4000, 0x200_4018),
    ] {
        let old = golden_control(major);
        let stored = CheckPoint {
            oldest_active_xid: 740,
            ..old.checkpoint()
        };
        let start = neon_start(&old, &stored, Lsn(lsn)).unwrap();
        assert_eq!(start.start_lsn, Lsn(redo));
        let control = ControlFile::parse(&start.control.to_bytes()).unwrap();
        assert_eq!(control.checkpoint_lsn(), Lsn::INVALID);
        assert_eq!(control.state(), State::ShutDown);
        assert_eq!(
            control.checkpoint(),
            CheckPoint {
                redo: Lsn(redo),
                ..stored
            }
        );
        assert_eq!(control.to_bytes()[128..288], old.to_bytes()[128..288]);
    }
}

proptest! {
    #[test]
    fn every_start_is_behind_its_position(lsn in any::<u64>(), tli in any::<u32>(), major in 0usize..5) {
        let control = golden_control(PgMajor::ALL[major]);
        if let Ok(start) = vanilla_start(&control, &control.checkpoint(), Lsn(lsn), tli) {
            let size = u64::from(control.wal_segment_size());
            prop_assert!(start.start_lsn.0 > lsn);
            prop_assert!(start.start_lsn.0 - lsn <= size + 40);
            prop_assert_eq!(start.start_lsn.segment_offset(size), 40);
        }
        if let Ok(start) = neon_start(&control, &control.checkpoint(), Lsn(lsn)) {
            prop_assert!(start.start_lsn.0 >= lsn && start.start_lsn.0 - lsn <= 40);
        }
    }
}
