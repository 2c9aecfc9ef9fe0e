//! State of prepared transactions: the files below `pg_twophase`.
//!
//! A file is the payload of the PREPARE record followed by its CRC-32C. The header's `total_len`
//! counts the CRC, so it tells whether given bytes have one. Layout: `xl_xact_prepare` in
//! `access/xact.h`; what follows the header is read only as far as the global id and the
//! subtransactions.

use crate::le::{try_get, u32_at};
use crate::xid::{FullXid, Xid};
use types::{Lsn, Oid, PgMajor};

/// First word of the state.
pub const MAGIC: u32 = 0x57F9_4534;
/// Directory below the data directory.
pub const DIRECTORY: &str = "pg_twophase";
const CRC_SIZE: usize = 4;

/// What a state can be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Ends inside a field.
    #[error("two-phase state of {len} bytes ends before offset {wanted}")]
    Short {
        /// Bytes given.
        len: usize,
        /// Bytes needed.
        wanted: usize,
    },
    /// The first word is another one.
    #[error("two-phase state starts with {0:08X}, expected {MAGIC:08X}")]
    Magic(u32),
    /// `total_len` matches the bytes neither with nor without a CRC.
    #[error("two-phase state of {len} bytes claims a file of {claimed} bytes")]
    Length {
        /// Bytes given.
        len: usize,
        /// `total_len`.
        claimed: u32,
    },
    /// CRC-32C mismatch.
    #[error("two-phase state CRC is {found:08X}, computed {computed:08X}")]
    Crc {
        /// The stored one.
        found: u32,
        /// The right one.
        computed: u32,
    },
    /// A count is negative or the global id is not text.
    #[error("two-phase state field {field} at offset {at} is malformed")]
    Field {
        /// Field name.
        field: &'static str,
        /// Its offset.
        at: usize,
    },
}

/// Head of a prepared transaction's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State<'a> {
    /// Transaction id.
    pub xid: Xid,
    /// Database.
    pub database: Oid,
    /// When it was prepared, microseconds since 2000.
    pub prepared_at: i64,
    /// Role that prepared it.
    pub owner: Oid,
    /// Global id given by the user.
    pub gid: &'a str,
    /// LSN at the replication origin, or 0.
    pub origin_lsn: Lsn,
    /// Time at the replication origin, or 0.
    pub origin_timestamp: i64,
    subxids: &'a [[u8; 4]],
}

/// File name of a transaction: the 32-bit id up to 16, the full id from 17 on.
pub fn file_name(xid: FullXid, major: PgMajor) -> String {
    if major < PgMajor::V17 {
        format!("{:08X}", xid.xid())
    } else {
        format!("{:016X}", xid.0)
    }
}

/// Transaction id of a file name: its low half only up to 16.
pub fn parse_file_name(name: &str, major: PgMajor) -> Option<FullXid> {
    let xid = FullXid(u64::from_str_radix(name, 16).ok()?);
    (file_name(xid, major) == name).then_some(xid)
}

/// The state without its CRC, which is verified if there is one.
pub fn strip_crc(bytes: &[u8]) -> Result<&[u8], Error> {
    let short = |wanted| Error::Short {
        len: bytes.len(),
        wanted,
    };
    let magic = u32_at(bytes, 0).ok_or(short(8))?;
    if magic != MAGIC {
        return Err(Error::Magic(magic));
    }
    let claimed = u32_at(bytes, 4).ok_or(short(8))?;
    if claimed as usize == bytes.len().saturating_add(CRC_SIZE) {
        return Ok(bytes);
    }
    // Some servers stored imported files whole and put a second CRC behind the first.
    let file = bytes
        .get(..claimed as usize)
        .filter(|f| [0, CRC_SIZE].contains(&bytes.len().abs_diff(f.len())))
        .ok_or(Error::Length {
            len: bytes.len(),
            claimed,
        })?;
    let (state, crc) = file.split_last_chunk::<CRC_SIZE>().ok_or(short(8))?;
    let (found, computed) = (u32::from_le_bytes(*crc), types::crc32c::of(state));
    if found != computed {
        return Err(Error::Crc { found, computed });
    }
    Ok(state)
}

/// The file for a state given with or without its CRC.
pub fn to_file(state: &[u8]) -> Result<Vec<u8>, Error> {
    let state = strip_crc(state)?;
    let mut file = Vec::with_capacity(state.len() + CRC_SIZE);
    file.extend_from_slice(state);
    file.extend_from_slice(&types::crc32c::of(state).to_le_bytes());
    Ok(file)
}

impl<'a> State<'a> {
    /// Reads the head of a state given with or without its CRC.
    pub fn parse(bytes: &'a [u8], major: PgMajor) -> Result<State<'a>, Error> {
        let b = strip_crc(bytes)?;
        // From 15 on two counts of dropped statistics stand before the invalidation messages.
        let shift = if major < PgMajor::V15 { 0 } else { 8 };
        let header = 64 + shift;
        let head = b.get(..header).ok_or(Error::Short {
            len: b.len(),
            wanted: header,
        })?;
        let short = Error::Short {
            len: b.len(),
            wanted: header,
        };
        let u32_of = |at| u32_at(head, at).ok_or(short);
        let i64_of = |at| try_get(head, at).map(i64::from_le_bytes).ok_or(short);
        let gid_len = try_get(head, 46 + shift)
            .map(u16::from_le_bytes)
            .ok_or(short)?;
        let gid_end = header + usize::from(gid_len);
        let gid = b.get(header..gid_end).ok_or(Error::Short {
            len: b.len(),
            wanted: gid_end,
        })?;
        let bad_gid = Error::Field {
            field: "gid",
            at: header,
        };
        let gid = gid
            .split_last()
            .filter(|(last, _)| **last == 0)
            .ok_or(bad_gid)?
            .1;
        let gid = std::str::from_utf8(gid).map_err(|_| bad_gid)?;

        let count = i32::from_le_bytes(try_get(head, 28).ok_or(short)?);
        let count = usize::try_from(count).map_err(|_| Error::Field {
            field: "nsubxacts",
            at: 28,
        })?;
        let start = gid_end.next_multiple_of(8);
        let end = count.saturating_mul(4).saturating_add(start);
        let subxids = b.get(start..end).ok_or(Error::Short {
            len: b.len(),
            wanted: end,
        })?;
        Ok(State {
            xid: u32_of(8)?,
            database: u32_of(12)?,
            prepared_at: i64_of(16)?,
            owner: u32_of(24)?,
            gid,
            origin_lsn: Lsn(try_get(head, 48 + shift)
                .map(u64::from_le_bytes)
                .ok_or(short)?),
            origin_timestamp: i64_of(56 + shift)?,
            subxids: subxids.as_chunks::<4>().0,
        })
    }

    /// Ids of the subtransactions.
    pub fn subxids(&self) -> impl ExactSizeIterator<Item = Xid> + 'a {
        self.subxids.iter().map(|b| u32::from_le_bytes(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden(major: PgMajor) -> &'static [u8] {
        match major {
            PgMajor::V14 => include_bytes!("../tests/data/twophase_14.bin"),
            PgMajor::V15 => include_bytes!("../tests/data/twophase_15.bin"),
            PgMajor::V16 => include_bytes!("../tests/data/twophase_16.bin"),
            PgMajor::V17 => include_bytes!("../tests/data/twophase_17.bin"),
            PgMajor::V18 => include_bytes!("../tests/data/twophase_18.bin"),
        }
    }

    #[test]
    fn states_of_real_servers_are_understood() {
        for major in PgMajor::ALL {
            let state = State::parse(golden(major), major).unwrap();
            assert_eq!(state.gid, "golden", "{major}");
            let subs: Vec<_> = state.subxids().collect();
            assert_eq!(subs, [state.xid + 1, state.xid + 2], "{major}");
            assert_eq!((state.owner, state.origin_lsn), (10, Lsn::INVALID));
            assert_eq!(to_file(golden(major)).unwrap(), golden(major));
            let bare = strip_crc(golden(major)).unwrap();
            assert_eq!(to_file(bare).unwrap(), golden(major));
        }
    }

    #[test]
    fn a_second_crc_is_dropped() {
        let mut twice = golden(PgMajor::V16).to_vec();
        twice.extend_from_slice(&types::crc32c::of(golden(PgMajor::V16)).to_le_bytes());
        assert_eq!(to_file(&twice).unwrap(), golden(PgMajor::V16));
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let good = golden(PgMajor::V17);
        assert!(matches!(
            strip_crc(&good[..7]),
            Err(Error::Short { len: 7, .. })
        ));
        assert!(matches!(
            strip_crc(&good[..good.len() - 1]),
            Err(Error::Length { .. })
        ));
        let mut bad = good.to_vec();
        bad[30] ^= 1;
        assert!(matches!(strip_crc(&bad), Err(Error::Crc { .. })));
        bad[0] = 0;
        assert!(matches!(strip_crc(&bad), Err(Error::Magic(_))));
    }

    #[test]
    fn names_depend_on_the_major() {
        let xid = FullXid::new(1, 0x2F5);
        assert_eq!(file_name(xid, PgMajor::V16), "000002F5");
        assert_eq!(file_name(xid, PgMajor::V17), "00000001000002F5");
        assert_eq!(parse_file_name("00000001000002F5", PgMajor::V17), Some(xid));
        assert_eq!(parse_file_name("00000001000002F5", PgMajor::V16), None);
        assert_eq!(parse_file_name("000002f5", PgMajor::V16), None);
    }

    proptest! {
        #[test]
        fn damaged_states_never_panic(
            at in 0usize..128, byte in any::<u8>(), cut in 0usize..200, major in 0usize..5,
        ) {
            let major = PgMajor::ALL[major];
            let mut b = strip_crc(golden(major)).unwrap().to_vec();
            b.truncate(b.len() - cut.min(b.len()));
            if let Some(x) = b.get_mut(at) {
                *x = byte;
            }
            let claimed = b.len() as u32 + 4;
            if let Some(len) = b.get_mut(4..8) {
                len.copy_from_slice(&claimed.to_le_bytes());
            }
            if let Ok(state) = State::parse(&b, major) {
                prop_assert!(state.gid.len() + 4 * state.subxids().len() < b.len());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(State::parse(&b, PgMajor::V18).is_err());
        }
    }
}
