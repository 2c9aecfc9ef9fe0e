//! Data pages: the header every relation page starts with, and the page checksum.
//!
//! Functions take a whole page by array reference, so nothing can be out of range. What stands
//! behind the header is the business of the access methods. Layout: `storage/bufpage.h`;
//! checksum: `docs/format/pgdata.md`.

use crate::le::{get, put};
use fearless_simd::{Level, Simd as _, dispatch};
use types::{BlockNumber, Lsn, PAGE_SIZE};

/// A page.
pub type Page = [u8; PAGE_SIZE];
/// Size of the page header in bytes.
pub const HEADER_SIZE: usize = 24;
/// `pd_pagesize_version` of a current page: 8192 bytes, layout version 4.
pub const PAGE_SIZE_VERSION: u16 = 8192 | 4;

/// The fields of a page header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// End of the last record that changed the page.
    pub lsn: Lsn,
    /// Stored checksum; meaningful only in files of a cluster with checksums.
    pub checksum: u16,
    /// Flag bits: 1 free line pointers, 2 page full, 4 all visible.
    pub flags: u16,
    /// Offset of the start of free space.
    pub lower: u16,
    /// Offset of the end of free space; 0 on a page that was never initialised.
    pub upper: u16,
    /// Offset of the special space.
    pub special: u16,
    /// Page size and layout version, normally [`PAGE_SIZE_VERSION`].
    pub page_size_version: u16,
    /// Oldest prunable transaction id, or 0.
    pub prune_xid: u32,
}

impl Header {
    /// True if a server would accept the header: the usual size and version, offsets in order.
    /// A new page has no valid header.
    pub fn is_valid(&self) -> bool {
        let size = PAGE_SIZE as u16;
        self.page_size_version == PAGE_SIZE_VERSION
            && self.flags & !7 == 0
            && usize::from(self.lower) >= HEADER_SIZE
            && self.lower <= self.upper
            && self.upper <= self.special
            && self.special <= size
            && self.special.is_multiple_of(8)
    }
}

/// The page's header.
pub fn header(page: &Page) -> Header {
    Header {
        lsn: lsn(page),
        checksum: stored_checksum(page),
        flags: u16::from_le_bytes(get::<10, 2, _>(page)),
        lower: u16::from_le_bytes(get::<12, 2, _>(page)),
        upper: u16::from_le_bytes(get::<14, 2, _>(page)),
        special: u16::from_le_bytes(get::<16, 2, _>(page)),
        page_size_version: u16::from_le_bytes(get::<18, 2, _>(page)),
        prune_xid: u32::from_le_bytes(get::<20, 4, _>(page)),
    }
}

/// End of the last record that changed the page. Stored high half first.
pub fn lsn(page: &Page) -> Lsn {
    let high = u32::from_le_bytes(get::<0, 4, _>(page));
    let low = u32::from_le_bytes(get::<4, 4, _>(page));
    Lsn((u64::from(high) << 32) | u64::from(low))
}

/// Stores [`lsn`].
pub fn set_lsn(page: &mut Page, lsn: Lsn) {
    put::<0, 4, _>(page, ((lsn.0 >> 32) as u32).to_le_bytes());
    put::<4, 4, _>(page, (lsn.0 as u32).to_le_bytes());
}

/// True if the page was never initialised. Such a page carries no checksum.
pub fn is_new(page: &Page) -> bool {
    get::<14, 2, _>(page) == [0, 0]
}

/// The checksum field.
pub fn stored_checksum(page: &Page) -> u16 {
    u16::from_le_bytes(get::<8, 2, _>(page))
}

/// Where each of the 32 sums starts.
const SEEDS: [u32; 32] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
const PRIME: u32 = 16_777_619;

/// Mixes one row of values into the sums; a loop over independent lanes, which vectorises.
#[inline(always)]
fn mix(sums: &mut [u32; 32], row: &[u32; 32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        let t = *sum ^ *value;
        *sum = t.wrapping_mul(PRIME) ^ (t >> 17);
    }
}

/// The checksum of the page as block `block` of its fork (counted from the start of the fork,
/// not of the segment file). Never 0. Ignores the stored checksum.
pub fn checksum(page: &Page, block: BlockNumber) -> u16 {
    // Nearly three times as fast with the vector instructions that this machine has.
    let sums: [u32; 32] =
        dispatch!(Level::new(), simd => simd.vectorize(#[inline(always)] || sums(page)));
    let folded = sums.iter().fold(block, |x, s| x ^ s);
    ((folded % 65_535) as u16).wrapping_add(1)
}

/// The sums over a page.
#[inline(always)]
fn sums(page: &Page) -> [u32; 32] {
    let mut sums = SEEDS;
    for (n, bytes) in page.chunks_exact(128).enumerate() {
        let mut row = [0u32; 32];
        for (value, b) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = u32::from_le_bytes(*b);
        }
        if n == 0 {
            let [_, _, third, ..] = &mut row;
            *third &= 0xFFFF_0000;
        }
        mix(&mut sums, &row);
    }
    mix(&mut sums, &[0; 32]);
    mix(&mut sums, &[0; 32]);
    sums
}

/// Stores the checksum of the page as block `block`; leaves a new page as it is. Needed for
/// every page handed to a cluster that has checksums.
pub fn set_checksum(page: &mut Page, block: BlockNumber) {
    if !is_new(page) {
        let sum = checksum(page, block);
        put::<8, 2, _>(page, sum.to_le_bytes());
    }
}

/// A page's stored checksum is not the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checksum of block {block} is {found:04X}, computed {computed:04X}")]
pub struct BadChecksum {
    /// Block number in the fork.
    pub block: BlockNumber,
    /// The stored one.
    pub found: u16,
    /// The right one.
    pub computed: u16,
}

/// Verifies a page read from a file of a cluster with checksums. New pages pass.
pub fn verify_checksum(page: &Page, block: BlockNumber) -> Result<(), BadChecksum> {
    let (found, computed) = (stored_checksum(page), checksum(page, block));
    if is_new(page) || found == computed {
        return Ok(());
    }
    Err(BadChecksum {
        block,
        found,
        computed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Block 3 of `pg_attribute` of a fresh Postgres 18 cluster, which has checksums.
    const REAL: &Page = include_bytes!("../tests/data/page_18_block_3.bin");

    #[test]
    fn checksum_of_a_real_page_is_reproduced() {
        assert_eq!(checksum(REAL, 3), stored_checksum(REAL));
        assert_eq!(verify_checksum(REAL, 3), Ok(()));
        let header = header(REAL);
        assert!(header.is_valid() && header.lsn.is_valid());
        let mut page = *REAL;
        put::<8, 2, _>(&mut page, [0, 0]);
        set_checksum(&mut page, 3);
        assert_eq!(&page, REAL);
    }

    #[test]
    fn the_block_number_is_part_of_the_checksum() {
        assert!(matches!(
            verify_checksum(REAL, 4),
            Err(BadChecksum { block: 4, .. })
        ));
    }

    #[test]
    fn new_pages_have_none() {
        let mut page = [0; PAGE_SIZE];
        set_checksum(&mut page, 9);
        assert_eq!(page, [0; PAGE_SIZE]);
        assert_eq!(verify_checksum(&page, 9), Ok(()));
        assert!(!header(&page).is_valid());
    }

    #[test]
    fn lsn_is_stored_high_half_first() {
        let mut page = [0; PAGE_SIZE];
        set_lsn(&mut page, Lsn(0x0000_0001_0203_0405));
        assert_eq!(page[..8], [1, 0, 0, 0, 5, 4, 3, 2]);
        assert_eq!(lsn(&page), Lsn(0x0000_0001_0203_0405));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(at in 0usize..PAGE_SIZE, bit in 0u8..8) {
            let mut page = *REAL;
            page[at] ^= 1 << bit;
            prop_assert!(verify_checksum(&page, 3).is_err());
        }
    }
}
