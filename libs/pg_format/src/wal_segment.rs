//! WAL segment files: names, page headers, and segments that are zero but for a few headers.
//!
//! A [`Segment`] keeps only the bytes that are not zero, so handing out a 1 GiB segment costs
//! nothing until it is written. Layouts: `access/xlog_internal.h`, `docs/format/pgdata.md`.

use arrayvec::ArrayVec;
use types::lsn::{LONG_PAGE_HEADER, SHORT_PAGE_HEADER, WAL_PAGE_SIZE};
use types::{Lsn, PgMajor};

/// Segment size of every Neon timeline, in bytes.
pub const NEON_SEGMENT_SIZE: u32 = 16 << 20;
/// The first data on the page continues a record.
pub const FIRST_IS_CONTRECORD: u16 = 1;
/// The header is a long one.
pub const LONG_HEADER: u16 = 2;

/// Most bytes one piece of a [`Segment`] has: a long header and a checkpoint record.
const PIECE: usize = 192;

/// Name of a segment file: timeline id, then the segment number in two halves. `segment_size`
/// is a power of two from 1 MiB to 1 GiB.
pub fn name(tli: u32, segment: u64, segment_size: u32) -> String {
    let per_id = (1u64 << 32) / u64::from(segment_size.max(1));
    let (high, low) = (segment / per_id, segment % per_id);
    format!("{tli:08X}{high:08X}{low:08X}")
}

fn parts(name: &str) -> Option<[u32; 3]> {
    let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if name.len() != 24 || !name.bytes().all(digit) {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    Some([part(0)?, part(8)?, part(16)?])
}

/// Timeline id and segment number of a file name without suffix.
pub fn parse_name(name: &str, segment_size: u32) -> Option<(u32, u64)> {
    let [tli, high, low] = parts(name)?;
    let per_id = (1u64 << 32) / u64::from(segment_size.max(1));
    (u64::from(low) < per_id).then(|| (tli, u64::from(high) * per_id + u64::from(low)))
}

/// Timeline id of a segment file name, whatever the segment size.
pub fn timeline_of_name(name: &str) -> Option<u32> {
    parts(name).map(|[tli, ..]| tli)
}

/// Header of a WAL page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// Major that decides the magic.
    pub major: PgMajor,
    /// Flag bits without [`LONG_HEADER`].
    pub info: u16,
    /// Timeline id.
    pub tli: u32,
    /// Position of the page.
    pub address: Lsn,
    /// Bytes of a continued record still to come.
    pub remaining: u32,
}

impl PageHeader {
    fn fields(&self, info: u16) -> [u8; SHORT_PAGE_HEADER as usize] {
        let mut out = [0; SHORT_PAGE_HEADER as usize];
        let fields = [
            &self.major.wal_magic().to_le_bytes()[..],
            &info.to_le_bytes(),
            &self.tli.to_le_bytes(),
            &self.address.0.to_le_bytes(),
            &self.remaining.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// The 24 bytes of a page inside a segment.
    pub fn short(&self) -> [u8; SHORT_PAGE_HEADER as usize] {
        self.fields(self.info & !LONG_HEADER)
    }

    /// The 40 bytes of a segment's first page.
    pub fn long(
        &self,
        system_identifier: u64,
        segment_size: u32,
    ) -> [u8; LONG_PAGE_HEADER as usize] {
        let mut out = [0; LONG_PAGE_HEADER as usize];
        let fields = [
            &self.fields(self.info | LONG_HEADER)[..],
            &system_identifier.to_le_bytes(),
            &segment_size.to_le_bytes(),
            &(WAL_PAGE_SIZE as u32).to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }
}

/// One segment file, zero but for at most two short pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// File name.
    pub name: String,
    /// File size in bytes.
    pub size: u32,
    pieces: ArrayVec<(u32, ArrayVec<u8, PIECE>), 2>,
}

impl Segment {
    /// A segment that is all zero.
    pub(crate) fn zero(name: String, size: u32) -> Segment {
        Segment {
            name,
            size,
            pieces: ArrayVec::new(),
        }
    }

    /// Puts `bytes` (at most 192) at `offset`; the third piece and longer ones are dropped.
    pub(crate) fn with(mut self, offset: u32, bytes: &[u8]) -> Segment {
        debug_assert!(bytes.len() <= PIECE && !self.pieces.is_full());
        let piece = bytes.iter().copied().take(PIECE).collect();
        let _ = self.pieces.try_push((offset, piece));
        self
    }

    /// Fills `out` with the bytes of the file from `offset` on; zeros behind its end.
    pub fn read(&self, offset: u32, out: &mut [u8]) {
        out.fill(0);
        for (start, bytes) in &self.pieces {
            let at = u64::from(*start);
            for (i, b) in bytes.iter().enumerate() {
                let slot = (at + i as u64)
                    .checked_sub(u64::from(offset))
                    .and_then(|n| usize::try_from(n).ok())
                    .and_then(|n| out.get_mut(n));
                if let Some(slot) = slot {
                    *slot = *b;
                }
            }
        }
    }

    /// The whole file.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.size as usize];
        self.read(0, &mut out);
        out
    }

    /// The pieces that are not zero, with their offsets; for writing a sparse file.
    pub fn pieces(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pieces
            .iter()
            .map(|(at, bytes)| (*at, bytes.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_depend_on_the_segment_size() {
        assert_eq!(name(1, 1, 16 << 20), "000000010000000000000001");
        assert_eq!(name(1, 256, 16 << 20), "000000010000000100000000");
        assert_eq!(name(5, 4095, 1 << 20), "000000050000000000000FFF");
        assert_eq!(name(1, 4, 1 << 30), "000000010000000100000000");
        for bad in [
            "",
            "00000001000000000000010",
            "0000000100000000000000ab",
            "000000010000000000000100",
        ] {
            assert_eq!(parse_name(bad, 16 << 20), None, "{bad}");
        }
        assert_eq!(timeline_of_name("0000000A0000000000000100"), Some(10));
    }

    #[test]
    fn any_window_of_a_segment_is_the_same_file() {
        let s = Segment::zero("x".into(), 4096)
            .with(0, &[1, 2, 3])
            .with(1000, &[9; 100]);
        let whole = s.to_vec();
        assert_eq!(
            (whole.len(), whole[2], whole[3], whole[1099], whole[1100]),
            (4096, 3, 0, 9, 0)
        );
        for (from, len) in [(0, 4096), (1, 5), (999, 2), (1050, 500), (4000, 96)] {
            let mut out = vec![7; len];
            s.read(from, &mut out);
            assert_eq!(out, whole[from as usize..from as usize + len]);
        }
        assert_eq!(s.pieces().count(), 2);
    }

    proptest! {
        #[test]
        fn names_round_trip(tli in any::<u32>(), n in 0u64..1 << 32, shift in 20u32..=30) {
            prop_assert_eq!(parse_name(&name(tli, n, 1 << shift), 1 << shift), Some((tli, n)));
        }
    }
}
