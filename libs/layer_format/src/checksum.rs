//! Checksums of layer files: a CRC-32C for every unit of 1 KiB, and one for the whole file.
//!
//! The checksums of units are a table behind the last index block, found through a record in the
//! free part of block 0. A version-3 reader looks at neither (`docs/format/layers.md`):
//!
//! ```text
//! block 0, offset 4096                   last blocks of the file
//!   0  8  magic "PgSrvCrc"                 0      4·n  CRC of unit i at 4·i; zero within block 0
//!   8  2  version 2                        ...         zeros
//!  10  2  log2 of the size of a unit      -20     8    magic "CrcSrvPg"
//!  12  4  first block of the table        -12     2    version 2
//!  16  4  number of table entries n       -10     2    log2 of the size of a unit
//!  20  4  CRC of the table area           -8      4    n
//!  24  4  CRC of block 0, this field 0    -4      4    CRC of the table area
//! ```
//!
//! All numbers are big-endian. The table area runs from the table's first block to the footer,
//! the last 20 bytes of the file. The table covers the blocks in front of it. The footer is there
//! so that a damaged record is not mistaken for a file without checksums, which is what the
//! reference writes. In version 1 a unit is a block of 8 KiB, and the field for its size zero.
//!
//! A unit is small so that little is read and verified around a value, which lies anywhere.

use crate::{BLOCK, BLOCK_SIZE};
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::LazyLock;
use types::be::{self, Reader};

/// Where the record lies in block 0.
pub const RECORD_OFFSET: usize = 4096;
const RECORD_MAGIC: [u8; 8] = *b"PgSrvCrc";
const FOOTER_MAGIC: [u8; 8] = *b"CrcSrvPg";
const VERSION: u16 = 2;
/// Size of a unit in files that are written, as a power of two.
const UNIT_LOG: u16 = 10;
/// Sizes of a unit that are read, as powers of two.
const UNIT_LOGS: RangeInclusive<u16> = 9..=13;
/// Offset of the CRC of block 0 within it.
const SELF_CRC: usize = RECORD_OFFSET + 24;
const FOOTER: usize = 20;
const ENTRY: usize = 4;

/// A checksum does not match, or the structures that hold them are damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A unit, or block 0, is not what was written.
    #[error(
        "the {size} bytes at file offset {offset:#x}: CRC-32C {found:08x}, {expected:08x} expected"
    )]
    Mismatch {
        /// Where it begins in the file.
        offset: u64,
        /// Its size in bytes.
        size: usize,
        /// Checksum of what was read.
        found: u32,
        /// Checksum when it was written.
        expected: u32,
    },
    /// The table is not what was written.
    #[error("checksum table at block {block}: CRC-32C {found:08x}, {expected:08x} expected")]
    Table {
        /// First block of the table.
        block: u32,
        /// Checksum of what was read.
        found: u32,
        /// Checksum when it was written.
        expected: u32,
    },
    /// Record, footer and file length contradict each other.
    #[error("checksum table: {0}")]
    Inconsistent(&'static str),
    /// The place lies behind the covered part of the file.
    #[error("file offset {offset:#x} has no checksum, the first {covered:#x} bytes have")]
    NotCovered {
        /// Where it begins in the file.
        offset: u64,
        /// Bytes with a checksum.
        covered: u64,
    },
    /// Only whole units can be verified.
    #[error("{length} bytes at file offset {offset:#x} are not a number of {unit}-byte units")]
    Units {
        /// Where they begin in the file.
        offset: u64,
        /// How many there are.
        length: usize,
        /// Size of a unit.
        unit: usize,
    },
    /// The record is of a version this program does not know.
    #[error("checksum record has unknown version {0}")]
    Version(u16),
}

impl From<be::Error> for Error {
    fn from(_: be::Error) -> Error {
        Error::Inconsistent("a field is cut off")
    }
}

/// What the record in block 0 says; exists only if block 0 matches its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// First block of the table, and number of blocks it covers.
    pub table_block: u32,
    version: u16,
    unit_log: u16,
    table_crc: u32,
    block0_crc: u32,
    /// CRC-32C of all of block 0, that field included.
    whole_block0: u32,
}

impl Record {
    /// Reads the record and verifies block 0. `None` if the file carries none.
    pub fn decode(block0: &[u8; BLOCK_SIZE]) -> Result<Option<Record>, Error> {
        let mut r = Reader::new(block0.get(RECORD_OFFSET..).unwrap_or_default());
        if r.array::<8>()? != RECORD_MAGIC {
            return Ok(None);
        }
        let (version, stored_log) = (r.u16()?, r.u16()?);
        let (table_block, entries, table_crc, expected) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let found = block0_crc(block0);
        if found != expected {
            return Err(Error::Mismatch {
                offset: 0,
                size: BLOCK_SIZE,
                found,
                expected,
            });
        }
        let unit_log = match version {
            1 => BLOCK.trailing_zeros().try_into().unwrap_or_default(),
            VERSION if UNIT_LOGS.contains(&stored_log) => stored_log,
            VERSION => return Err(Error::Inconsistent("units of that size are not known")),
            other => return Err(Error::Version(other)),
        };
        let record = Record {
            table_block,
            version,
            unit_log,
            table_crc,
            block0_crc: expected,
            whole_block0: types::crc32c::of(block0),
        };
        if record.entries() != Some(entries) {
            return Err(Error::Inconsistent(
                "the record does not cover all blocks before the table",
            ));
        }
        Ok(Some(record))
    }

    /// Size of a unit in bytes.
    const fn unit(&self) -> usize {
        1 << self.unit_log
    }

    /// Number of entries of the table.
    fn entries(&self) -> Option<u32> {
        let in_block = u32::try_from(BLOCK_SIZE / self.unit()).ok()?;
        self.table_block.checked_mul(in_block)
    }

    /// The field for the size of a unit.
    const fn stored_log(&self) -> u16 {
        if self.version == 1 { 0 } else { self.unit_log }
    }

    /// As in block 0, without the CRC of that block.
    fn encode(&self, entries: u32) -> Vec<u8> {
        let mut r = RECORD_MAGIC.to_vec();
        r.extend_from_slice(&self.version.to_be_bytes());
        r.extend_from_slice(&self.stored_log().to_be_bytes());
        for n in [self.table_block, entries, self.table_crc] {
            r.extend_from_slice(&n.to_be_bytes());
        }
        r
    }

    fn footer(&self) -> Vec<u8> {
        let mut f = FOOTER_MAGIC.to_vec();
        f.extend_from_slice(&self.version.to_be_bytes());
        f.extend_from_slice(&self.stored_log().to_be_bytes());
        let entries = self.entries().unwrap_or_default();
        f.extend_from_slice(&entries.to_be_bytes());
        f.extend_from_slice(&self.table_crc.to_be_bytes());
        f
    }
}

fn block0_crc(block0: &[u8; BLOCK_SIZE]) -> u32 {
    let (head, tail) = block0.split_at(SELF_CRC);
    let rest = tail.get(4..).unwrap_or_default();
    let crc = types::crc32c::append(types::crc32c::of(head), &[0; 4]);
    types::crc32c::append(crc, rest)
}

/// True if `tail`, the end of a file, ends like a checksum table.
pub(crate) fn has_footer(tail: &[u8]) -> bool {
    let at = tail.len().checked_sub(FOOTER);
    at.and_then(|at| tail.get(at..))
        .is_some_and(|f| f.starts_with(&FOOTER_MAGIC))
}

/// The verified checksums of one file.
#[derive(Clone)]
pub struct Checksums {
    table: Bytes,
    record: Record,
    area: Digest,
}

impl std::fmt::Debug for Checksums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checksums({} blocks)", self.record.table_block)
    }
}

impl Checksums {
    /// Verifies the table area: the file from the record's `table_block` to its end.
    pub fn open(record: Record, area: &Bytes) -> Result<Checksums, Error> {
        let entries = record
            .entries()
            .and_then(|n| (n as usize).checked_mul(ENTRY))
            .ok_or(Error::Inconsistent("the table is too large"))?;
        if area.len() != (entries + FOOTER).next_multiple_of(BLOCK_SIZE) {
            return Err(Error::Inconsistent(
                "the file does not end behind the table",
            ));
        }
        let (body, tail) = area
            .split_at_checked(area.len() - FOOTER)
            .ok_or(Error::Inconsistent("the footer is missing"))?;
        let found = types::crc32c::of(body);
        if found != record.table_crc {
            return Err(Error::Table {
                block: record.table_block,
                found,
                expected: record.table_crc,
            });
        }
        if tail != record.footer() {
            return Err(Error::Inconsistent("the footer contradicts the record"));
        }
        let table = body
            .get(..entries)
            .ok_or(Error::Inconsistent("the table is cut off"))?;
        Ok(Checksums {
            table: area.slice_ref(table),
            record,
            area: Digest::of(area),
        })
    }

    /// Bytes with a checksum: all in front of the table.
    const fn covered(&self) -> u64 {
        self.record.table_block as u64 * BLOCK
    }

    /// Size in bytes of what is verified by itself. Block 0 is verified as a whole.
    pub const fn unit(&self) -> usize {
        self.record.unit()
    }

    /// Memory held, in bytes.
    pub const fn memory(&self) -> usize {
        self.table.len()
    }

    /// CRC-32C of the whole file, if every block is what its checksum says: put together from the
    /// checksums, so that a file is known to be the one that its index entry describes without
    /// being read.
    pub fn file_crc32c(&self) -> u32 {
        let (entries, _) = self.table.as_chunks::<ENTRY>();
        let units = entries.iter().skip(BLOCK_SIZE / self.unit());
        let units = units.map(|e| u32::from_be_bytes(*e));
        let shift = Shift::over(self.record.unit_log);
        let crc = units.fold(self.record.whole_block0, |crc, unit| {
            shift.apply(crc) ^ unit
        });
        let covered = Digest {
            crc,
            length: self.covered(),
        };
        covered.followed_by(&self.area).crc32c()
    }

    /// Verifies whole units of the file, from an offset on. Of block 0 none is verified without the
    /// others.
    pub fn verify(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let unit = self.unit();
        let wrong = || Error::Units {
            offset,
            length: bytes.len(),
            unit,
        };
        let (mut offset, mut rest) = (offset, bytes);
        if offset == 0 {
            let (block0, more) = bytes.split_first_chunk::<BLOCK_SIZE>().ok_or_else(wrong)?;
            compare(0, BLOCK_SIZE, block0_crc(block0), self.record.block0_crc)?;
            (offset, rest) = (BLOCK, more);
        }
        let aligned = |n: u64| n.is_multiple_of(unit as u64);
        if offset < BLOCK || !aligned(offset) || !aligned(rest.len() as u64) {
            return Err(wrong());
        }
        let first = usize::try_from(offset >> self.record.unit_log).map_err(|_| wrong())?;
        let (entries, _) = self.table.as_chunks::<ENTRY>();
        let mut entries = entries.get(first..).unwrap_or_default().iter();
        for bytes in rest.chunks(unit) {
            let entry = entries.next().ok_or(Error::NotCovered {
                offset,
                covered: self.covered(),
            })?;
            compare(
                offset,
                unit,
                types::crc32c::of(bytes),
                u32::from_be_bytes(*entry),
            )?;
            offset += unit as u64;
        }
        Ok(())
    }
}

fn compare(offset: u64, size: usize, found: u32, expected: u32) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Mismatch {
        offset,
        size,
        found,
        expected,
    })
}

/// What the CRC-32C of a stream becomes when a unit of zeros follows, apart from the unit's own
/// CRC: linear over GF(2), tabulated by byte.
#[derive(Clone)]
struct Shift([[u32; 256]; 4]);

static BLOCK_SHIFT: LazyLock<Shift> = LazyLock::new(|| Shift::by(BLOCK_SIZE));
static UNIT_SHIFT: LazyLock<Shift> = LazyLock::new(|| Shift::by(1 << UNIT_LOG));

impl Shift {
    /// For units of a size, as a power of two. Those that are written are tabulated once.
    fn over(unit_log: u16) -> Cow<'static, Shift> {
        match 1usize << unit_log {
            BLOCK_SIZE => Cow::Borrowed(&BLOCK_SHIFT),
            _ if unit_log == UNIT_LOG => Cow::Borrowed(&UNIT_SHIFT),
            other => Cow::Owned(Shift::by(other)),
        }
    }

    fn by(size: usize) -> Shift {
        let mut tables = [[0u32; 256]; 4];
        for (byte, table) in tables.iter_mut().enumerate() {
            for (value, shifted) in (0u32..).zip(table.iter_mut()) {
                *shifted = types::crc32c::combine(value << (8 * byte), 0, size as u64);
            }
        }
        Shift(tables)
    }

    fn apply(&self, crc: u32) -> u32 {
        let bytes = crc.to_le_bytes();
        let parts = self.0.iter().zip(bytes);
        parts.fold(0, |sum, (table, byte)| {
            sum ^ table.get(usize::from(byte)).copied().unwrap_or_default()
        })
    }
}

/// Collects checksums while a file is written.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    version: u16,
    unit_log: u16,
    table: Vec<u8>,
}

impl Default for TableBuilder {
    fn default() -> TableBuilder {
        TableBuilder::of(VERSION, UNIT_LOG)
    }
}

impl TableBuilder {
    fn of(version: u16, unit_log: u16) -> TableBuilder {
        TableBuilder {
            version,
            unit_log,
            table: vec![0; (BLOCK_SIZE >> unit_log) * ENTRY],
        }
    }

    pub fn add(&mut self, blocks: &[u8]) {
        for unit in blocks.chunks(1 << self.unit_log) {
            self.table
                .extend_from_slice(&types::crc32c::of(unit).to_be_bytes());
        }
    }

    /// The table area, and block 0 with the record added.
    pub fn finish(mut self, block0: &mut [u8; BLOCK_SIZE]) -> Result<Vec<u8>, Error> {
        let entries = self.table.len() / ENTRY;
        let blocks = entries / (BLOCK_SIZE >> self.unit_log);
        let too_large = |_| Error::Inconsistent("the file is too large");
        let size = (self.table.len() + FOOTER).next_multiple_of(BLOCK_SIZE);
        self.table.resize(size - FOOTER, 0);
        let record = Record {
            table_block: u32::try_from(blocks).map_err(too_large)?,
            version: self.version,
            unit_log: self.unit_log,
            table_crc: types::crc32c::of(&self.table),
            block0_crc: 0,
            whole_block0: 0,
        };
        let entries = u32::try_from(entries).map_err(too_large)?;
        put(block0, RECORD_OFFSET, &record.encode(entries));
        let crc = block0_crc(block0);
        put(block0, SELF_CRC, &crc.to_be_bytes());
        self.table.extend_from_slice(&record.footer());
        Ok(self.table)
    }
}

fn put(block: &mut [u8; BLOCK_SIZE], at: usize, bytes: &[u8]) {
    block
        .iter_mut()
        .skip(at)
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
}

/// CRC-32C of a stream: the `crc32c` of a layer's index entry is that of its whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    crc: u32,
    length: u64,
}

impl Digest {
    /// The digest of nothing.
    pub const fn new() -> Digest {
        Digest { crc: 0, length: 0 }
    }

    /// The digest of a buffer.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut d = Digest::new();
        d.update(bytes);
        d
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc = types::crc32c::append(self.crc, bytes);
        self.length += bytes.len() as u64;
    }

    /// The digest of this stream followed by another, without reading either again.
    pub fn followed_by(&self, next: &Digest) -> Digest {
        Digest {
            crc: types::crc32c::combine(self.crc, next.crc, next.length),
            length: self.length + next.length,
        }
    }

    /// The checksum.
    pub const fn crc32c(&self) -> u32 {
        self.crc
    }

    /// Bytes digested.
    pub const fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digests_of_parts_combine(a in proptest::collection::vec(any::<u8>(), 0..300), b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let whole = Digest::of(&[a.clone(), b.clone()].concat());
            prop_assert_eq!(Digest::of(&a).followed_by(&Digest::of(&b)), whole);
            let mut stream = Digest::of(&a);
            stream.update(&b);
            prop_assert_eq!(stream, whole);
        }
    }

    /// A file of 3000 blocks behind block 0: block 0, body, table area.
    fn file(version: u16, unit_log: u16) -> ([u8; BLOCK_SIZE], Vec<u8>, Bytes) {
        let body: Vec<u8> = (0..3000u32 * 8)
            .flat_map(|i| vec![(i % 251) as u8; 1024])
            .collect();
        let mut builder = TableBuilder::of(version, unit_log);
        for run in body.chunks(64 << 10) {
            builder.add(run);
        }
        let mut block0 = [0; BLOCK_SIZE];
        let area = Bytes::from(builder.finish(&mut block0).unwrap());
        (block0, body, area)
    }

    #[test]
    fn a_table_round_trips_and_names_the_bad_unit() {
        for (version, unit_log, area_blocks) in [(1, 13, 2), (2, 10, 12), (2, 9, 24), (2, 13, 2)] {
            let (block0, body, area) = file(version, unit_log);
            let unit = 1u64 << unit_log;
            assert_eq!(area.len(), area_blocks * BLOCK_SIZE);
            assert!(has_footer(&area));
            let record = Record::decode(&block0).unwrap().unwrap();
            assert_eq!(record.table_block, 3001);
            let sums = Checksums::open(record, &area).unwrap();
            assert_eq!(sums.unit() as u64, unit);
            let whole = [&block0[..], &body, &area].concat();
            let end = BLOCK_SIZE + body.len();
            sums.verify(0, &whole[..end]).unwrap();
            sums.verify(0, &block0).unwrap();
            sums.verify(BLOCK, &body).unwrap();
            let at = BLOCK + 77 * unit;
            let some = |from: u64, len: u64| &whole[from as usize..(from + len) as usize];
            sums.verify(at, some(at, 3 * unit)).unwrap();
            assert_eq!(sums.file_crc32c(), Digest::of(&whole).crc32c());
            // Bytes of another place, and one flipped bit in the second of three units.
            let other = sums.verify(at, some(at + BLOCK, unit));
            assert!(matches!(other, Err(Error::Mismatch { offset, .. }) if offset == at));
            let mut bad = some(at, 3 * unit).to_vec();
            bad[unit as usize + 5] ^= 4;
            assert!(
                matches!(sums.verify(at, &bad), Err(Error::Mismatch { offset, .. }) if offset == at + unit)
            );
            assert!(matches!(
                sums.verify(end as u64, &block0),
                Err(Error::NotCovered { .. })
            ));
            for (from, len) in [
                (at + 1, unit),
                (at, unit - 1),
                (0, unit / 2),
                (BLOCK / 2, BLOCK),
            ] {
                assert!(matches!(
                    sums.verify(from, some(from, len)),
                    Err(Error::Units { .. })
                ));
            }
        }
        assert_eq!(Record::decode(&[0; BLOCK_SIZE]), Ok(None));
    }

    #[test]
    fn versions_and_units_that_are_not_known_are_refused() {
        for (version, unit_log) in [(3, 10), (2, 8), (2, 14), (0, 13)] {
            let mut block0 = [0; BLOCK_SIZE];
            let record = Record {
                table_block: 1,
                version,
                unit_log,
                table_crc: 0,
                block0_crc: 0,
                whole_block0: 0,
            };
            put(&mut block0, RECORD_OFFSET, &record.encode(8));
            let crc = block0_crc(&block0);
            put(&mut block0, SELF_CRC, &crc.to_be_bytes());
            assert!(Record::decode(&block0).is_err(), "{version} {unit_log}");
        }
    }

    #[test]
    fn every_bit_of_record_and_table_matters() {
        let mut builder = TableBuilder::default();
        builder.add(&[7; 2 * BLOCK_SIZE]);
        let mut block0 = [0; BLOCK_SIZE];
        let area = builder.finish(&mut block0).unwrap();
        let record = Record::decode(&block0).unwrap().unwrap();
        for at in 0..BLOCK_SIZE {
            let mut bad = block0;
            bad[at] ^= 0x10;
            let magic = (RECORD_OFFSET..RECORD_OFFSET + 8).contains(&at);
            // Without its magic the record is overlooked here; the footer gives it away.
            assert_eq!(Record::decode(&bad).is_err(), !magic, "offset {at}");
            let mut bad = area.clone();
            bad[at] ^= 0x10;
            assert!(
                Checksums::open(record, &Bytes::from(bad)).is_err(),
                "offset {at}"
            );
        }
    }
}
