//! `pg_logical/replorigin_checkpoint`: how far each replication origin had been applied.
//!
//! Magic u32, then per origin id u16, six zero bytes, LSN u64, then CRC-32C of all before; all
//! little-endian (`replication/origin.c`).

use crate::le::{try_get, u32_at};
use types::Lsn;

/// Path below the data directory.
pub const PATH: &str = "pg_logical/replorigin_checkpoint";
/// First word of the file.
pub const MAGIC: u32 = 0x1257_DADE;
const ENTRY: usize = 16;

/// What the file can be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not 8 bytes plus a multiple of 16.
    #[error("replication origin file of {0} bytes, expected 8 plus a multiple of {ENTRY}")]
    Size(usize),
    /// The first word is another one.
    #[error("replication origin file starts with {0:08X}, expected {MAGIC:08X}")]
    Magic(u32),
    /// CRC-32C mismatch.
    #[error("replication origin file CRC is {found:08X}, computed {computed:08X}")]
    Crc {
        /// The stored one.
        found: u32,
        /// The right one.
        computed: u32,
    },
}

/// Reads the file. An empty file, which some versions leave behind, has no origins.
pub fn parse(bytes: &[u8]) -> Result<Vec<(u16, Lsn)>, Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let size = Error::Size(bytes.len());
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(size)?;
    let magic = u32_at(body, 0).ok_or(size)?;
    if magic != MAGIC {
        return Err(Error::Magic(magic));
    }
    let (entries, rest) = body.get(4..).unwrap_or_default().as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(size);
    }
    let (found, computed) = (u32::from_le_bytes(*crc), types::crc32c::of(body));
    if found != computed {
        return Err(Error::Crc { found, computed });
    }
    entries
        .iter()
        .map(|e| {
            let id = try_get(e, 0).map(u16::from_le_bytes).ok_or(size)?;
            let lsn = try_get(e, 8).map(u64::from_le_bytes).ok_or(size)?;
            Ok((id, Lsn(lsn)))
        })
        .collect()
}

/// The file for these origins, or `None` if none of them has an LSN. Origins at LSN 0 are left
/// out.
pub fn encode(origins: impl IntoIterator<Item = (u16, Lsn)>) -> Option<Vec<u8>> {
    let mut out = MAGIC.to_le_bytes().to_vec();
    for (id, lsn) in origins.into_iter().filter(|(_, lsn)| lsn.is_valid()) {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&lsn.0.to_le_bytes());
    }
    if out.len() == 4 {
        return None;
    }
    let crc = types::crc32c::of(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_that_of_the_server() {
        let b = encode([(1, Lsn(0x0102)), (2, Lsn::INVALID)]).unwrap();
        assert_eq!(
            b[..20],
            [
                0xDE, 0xDA, 0x57, 0x12, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(b.len(), 24);
        assert_eq!(encode([(1, Lsn::INVALID)]), None);
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let good = encode([(1, Lsn(5))]).unwrap();
        assert_eq!(parse(&good[..7]), Err(Error::Size(7)));
        assert_eq!(parse(&[]), Ok(vec![]));
        let mut bad = good.clone();
        bad[6] = 1;
        assert!(matches!(parse(&bad), Err(Error::Crc { .. })));
        bad[0] = 0;
        assert!(matches!(parse(&bad), Err(Error::Magic(_))));
    }

    proptest! {
        #[test]
        fn origins_round_trip(list in proptest::collection::vec((any::<u16>(), 1u64..), 1..20)) {
            let list: Vec<_> = list.into_iter().map(|(id, lsn)| (id, Lsn(lsn))).collect();
            prop_assert_eq!(parse(&encode(list.clone()).unwrap()).unwrap(), list);
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 1..100)) {
            prop_assert!(parse(&b).is_err());
        }
    }
}
