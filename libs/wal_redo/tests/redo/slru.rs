//! Commit log and multixact pages.

use crate::record::vanilla;
use types::{Key, Lsn, PgMajor, SlruKind, WalRecord};
use wal_redo::{Error, PageBuf, reconstruct};

fn run(key: Key, base: &[u8], recs: &[WalRecord]) -> Result<PageBuf, Error> {
    let mut out = PageBuf::new();
    let list = recs.iter().map(|r| (Lsn(64), r));
    reconstruct(&key, Some(base), list, &vanilla(PgMajor::V17), &mut out)?;
    Ok(out)
}

#[test]
fn commit_log_entries_are_two_bits_and_the_tail_holds_the_newest_time() {
    // Page 33 is the second page of the second segment.
    let key = Key::slru_block(SlruKind::Clog, 1, 1);
    let first = 33 * 32768;
    let recs = [
        WalRecord::ClogSetCommitted {
            xids: vec![first, first + 5],
            timestamp: 7,
        },
        WalRecord::ClogSetAborted {
            xids: vec![first + 1],
        },
        WalRecord::ClogSetCommitted {
            xids: vec![first + 3],
            timestamp: 0x0102,
        },
    ];
    let out = run(key, &[0; 8192], &recs).unwrap();
    assert_eq!(out.as_slice()[..2], [0b01_00_10_01, 0b00_00_01_00]);
    assert_eq!(out.tail(), Some(&[0, 0, 0, 0, 0, 0, 1, 2]));
    let again = run(key, out.as_slice(), &recs).unwrap();
    assert_eq!(again.as_slice(), out.as_slice());
    let aborted = run(key, &[0; 8192], &recs[1..2]).unwrap();
    assert_eq!(aborted.as_slice().len(), 8192);
}

#[test]
fn entries_of_other_pages_are_refused() {
    let key = Key::slru_block(SlruKind::Clog, 0, 0);
    let rec = WalRecord::ClogSetAborted { xids: vec![32768] };
    assert!(matches!(
        run(key, &[0; 8192], &[rec]),
        Err(Error::Internal { .. })
    ));
    let key = Key::slru_block(SlruKind::MultiXactOffsets, 0, 0);
    let rec = WalRecord::MultixactOffsetCreate { mid: 2048, moff: 1 };
    assert!(run(key, &[0; 8192], &[rec]).is_err());
    let rec = WalRecord::ClogSetAborted { xids: vec![1] };
    assert!(run(key, &[0; 8192], std::slice::from_ref(&rec)).is_err());
    let mut out = PageBuf::new();
    let d = vanilla(PgMajor::V17);
    let err = reconstruct(&key, None, [(Lsn(8), &rec)], &d, &mut out);
    assert!(matches!(err, Err(Error::MissingBase { .. })));
}

#[test]
fn multixact_offsets_and_members() {
    let key = Key::slru_block(SlruKind::MultiXactOffsets, 2, 1);
    let mid = 65 * 2048 + 3;
    let out = run(
        key,
        &[0; 8192],
        &[WalRecord::MultixactOffsetCreate { mid, moff: 0xAABB }],
    )
    .unwrap();
    assert_eq!(out.as_slice()[12..16], [0xBB, 0xAA, 0, 0]);

    let key = Key::slru_block(SlruKind::MultiXactMembers, 0, 1);
    let moff = 1636 + 6;
    let members = vec![(100, 1), (101, 4), (102, 5)];
    let out = run(
        key,
        &[0; 8192],
        &[WalRecord::MultixactMembersCreate { moff, members }],
    )
    .unwrap();
    let page = out.as_slice();
    assert_eq!(page[20..24], [0, 0, 1, 4]);
    assert_eq!(page[32..40], [100, 0, 0, 0, 101, 0, 0, 0]);
    assert_eq!((page[40], page[44]), (5, 102));
    let key = Key::slru_block(SlruKind::MultiXactMembers, 0, 0);
    let rec = WalRecord::MultixactMembersCreate {
        moff: 1635,
        members: vec![(1, 0), (2, 0)],
    };
    assert!(run(key, &[0; 8192], &[rec]).is_err());
}
