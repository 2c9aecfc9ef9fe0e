//! Checksums of layer files: a CRC-32C for every 8 KiB block, and one for the whole file.
//!
//! The block checksums are a table behind the last index block, found through a record in the
//! free part of block 0. A version-3 reader looks at neither (`docs/format/layers.md`):
//!
//! ```text
//! block 0, offset 4096                   last blocks of the file
//!   0  8  magic "PgSrvCrc"                 0      4·n  CRC of block i at 4·i; entry 0 is zero
//!   8  2  version 1                        ...         zeros
//!  10  2  zero                            -20     8    magic "CrcSrvPg"
//!  12  4  first block of the table        -12     2    version 1
//!  16  4  number of table entries n       -10     2    zero
//!  20  4  CRC of the table area           -8      4    n
//!  24  4  CRC of block 0, this field 0    -4      4    CRC of the table area
//! ```
//!
//! All numbers are big-endian. The table area runs from the table's first block to the footer,
//! the last 20 bytes of the file. The table covers the blocks in front of it, so n is also the
//! number of its first block. The footer is there so that a damaged record is not mistaken for a
//! file without checksums, which is what the reference writes.

use crate::{BLOCK, BLOCK_SIZE};
use bytes::Bytes;
use std::sync::LazyLock;
use types::be::{self, Reader};

/// Where the record lies in block 0.
pub const RECORD_OFFSET: usize = 4096;
const RECORD_MAGIC: [u8; 8] = *b"PgSrvCrc";
const FOOTER_MAGIC: [u8; 8] = *b"CrcSrvPg";
const VERSION: u16 = 1;
/// Offset of the CRC of block 0 within it.
const SELF_CRC: usize = RECORD_OFFSET + 24;
const FOOTER: usize = 20;
const ENTRY: usize = 4;

/// A checksum does not match, or the structures that hold them are damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A block is not what was written.
    #[error("block {block} (file offset {offset:#x}): CRC-32C {found:08x}, {expected:08x} expected",
        offset = u64::from(*block) * BLOCK)]
    Mismatch {
        /// Number of the block in the file.
        block: u32,
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
    /// The block lies behind the covered part of the file.
    #[error("block {block} has no checksum, {covered} blocks have")]
    NotCovered {
        /// Number of the block in the file.
        block: u32,
        /// Blocks with a checksum.
        covered: u32,
    },
    /// Only whole blocks can be verified.
    #[error("{0} bytes are not a number of 8192-byte blocks")]
    Length(usize),
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
        let version = r.u16()?;
        r.u16()?;
        let (table_block, covered, table_crc, expected) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let found = block0_crc(block0);
        if found != expected {
            return Err(Error::Mismatch {
                block: 0,
                found,
                expected,
            });
        }
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if covered != table_block {
            return Err(Error::Inconsistent(
                "the record does not cover all blocks before the table",
            ));
        }
        Ok(Some(Record {
            table_block,
            table_crc,
            block0_crc: expected,
            whole_block0: crc32c::crc32c(block0),
        }))
    }

    fn footer(&self) -> Vec<u8> {
        footer(self.table_block, self.table_crc)
    }
}

fn footer(covered: u32, table_crc: u32) -> Vec<u8> {
    let mut f = FOOTER_MAGIC.to_vec();
    f.extend_from_slice(&VERSION.to_be_bytes());
    f.extend_from_slice(&[0, 0]);
    f.extend_from_slice(&covered.to_be_bytes());
    f.extend_from_slice(&table_crc.to_be_bytes());
    f
}

fn block0_crc(block0: &[u8; BLOCK_SIZE]) -> u32 {
    let (head, tail) = block0.split_at(SELF_CRC);
    let rest = tail.get(4..).unwrap_or_default();
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    crc32c::crc32c_append(crc, rest)
}

/// True if `tail`, the end of a file, ends like a checksum table.
pub(crate) fn has_footer(tail: &[u8]) -> bool {
    let at = tail.len().checked_sub(FOOTER);
    at.and_then(|at| tail.get(at..))
        .is_some_and(|f| f.starts_with(&FOOTER_MAGIC))
}

/// The verified block checksums of one file.
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
        let entries = (record.table_block as usize)
            .checked_mul(ENTRY)
            .ok_or(Error::Inconsistent("the table is too large"))?;
        if area.len() != (entries + FOOTER).next_multiple_of(BLOCK_SIZE) {
            return Err(Error::Inconsistent(
                "the file does not end behind the table",
            ));
        }
        let (body, tail) = area
            .split_at_checked(area.len() - FOOTER)
            .ok_or(Error::Inconsistent("the footer is missing"))?;
        let found = crc32c::crc32c(body);
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

    /// Number of blocks with a checksum: all in front of the table.
    pub const fn covered(&self) -> u32 {
        self.record.table_block
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
        let blocks = entries.iter().skip(1).map(|e| u32::from_be_bytes(*e));
        let crc = blocks.fold(self.record.whole_block0, |crc, block| {
            BLOCK_SHIFT.apply(crc) ^ block
        });
        let covered = Digest {
            crc,
            length: u64::from(self.covered()) * BLOCK,
        };
        covered.followed_by(&self.area).crc32c()
    }

    /// Verifies one block of the file by its number.
    pub fn verify(&self, block: u32, bytes: &[u8; BLOCK_SIZE]) -> Result<(), Error> {
        let (found, expected) = match block {
            0 => (block0_crc(bytes), self.record.block0_crc),
            _ => {
                let entry = self
                    .table
                    .get(block as usize * ENTRY..)
                    .and_then(|t| t.first_chunk());
                let entry = entry.ok_or(Error::NotCovered {
                    block,
                    covered: self.covered(),
                })?;
                (crc32c::crc32c(bytes), u32::from_be_bytes(*entry))
            }
        };
        if found != expected {
            return Err(Error::Mismatch {
                block,
                found,
                expected,
            });
        }
        Ok(())
    }

    /// Verifies consecutive blocks, the first of which has number `first`.
    pub fn verify_run(&self, first: u32, bytes: &[u8]) -> Result<(), Error> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        if !rest.is_empty() {
            return Err(Error::Length(bytes.len()));
        }
        blocks.iter().enumerate().try_for_each(|(i, block)| {
            let n = u32::try_from(i).ok().and_then(|i| first.checked_add(i));
            self.verify(n.ok_or(Error::Length(bytes.len()))?, block)
        })
    }
}

/// What the CRC-32C of a stream becomes when a block of zeros follows, apart from the block's own
/// CRC: linear over GF(2), tabulated by byte.
struct Shift([[u32; 256]; 4]);

static BLOCK_SHIFT: LazyLock<Shift> = LazyLock::new(Shift::by_a_block);

impl Shift {
    fn by_a_block() -> Shift {
        let mut tables = [[0u32; 256]; 4];
        for (byte, table) in tables.iter_mut().enumerate() {
            for (value, shifted) in (0u32..).zip(table.iter_mut()) {
                *shifted = crc32c::crc32c_combine(value << (8 * byte), 0, BLOCK_SIZE);
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

/// Collects block checksums while a file is written.
#[derive(Debug, Default)]
pub(crate) struct TableBuilder {
    table: Vec<u8>,
}

impl TableBuilder {
    pub fn new() -> TableBuilder {
        TableBuilder {
            table: vec![0; ENTRY],
        }
    }

    pub fn add(&mut self, blocks: &[u8]) {
        for block in blocks.chunks(BLOCK_SIZE) {
            self.table
                .extend_from_slice(&crc32c::crc32c(block).to_be_bytes());
        }
    }

    /// The table area, and block 0 with the record added.
    pub fn finish(mut self, block0: &mut [u8; BLOCK_SIZE]) -> Result<Vec<u8>, Error> {
        let covered = u32::try_from(self.table.len() / ENTRY)
            .map_err(|_| Error::Inconsistent("the file is too large"))?;
        let size = (self.table.len() + FOOTER).next_multiple_of(BLOCK_SIZE);
        self.table.resize(size - FOOTER, 0);
        let table_crc = crc32c::crc32c(&self.table);
        self.table.extend_from_slice(&footer(covered, table_crc));

        let mut record = RECORD_MAGIC.to_vec();
        record.extend_from_slice(&VERSION.to_be_bytes());
        record.extend_from_slice(&[0, 0]);
        for n in [covered, covered, table_crc] {
            record.extend_from_slice(&n.to_be_bytes());
        }
        put(block0, RECORD_OFFSET, &record);
        let crc = block0_crc(block0);
        put(block0, SELF_CRC, &crc.to_be_bytes());
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
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.length += bytes.len() as u64;
    }

    /// The digest of this stream followed by another, without reading either again.
    pub fn followed_by(&self, next: &Digest) -> Digest {
        let length = usize::try_from(next.length).unwrap_or(usize::MAX);
        Digest {
            crc: crc32c::crc32c_combine(self.crc, next.crc, length),
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

    #[test]
    fn table_of_many_blocks_round_trips_and_names_the_bad_block() {
        let body: Vec<u8> = (0..3000u32)
            .flat_map(|i| vec![i as u8; BLOCK_SIZE])
            .collect();
        let mut builder = TableBuilder::new();
        builder.add(&body);
        let mut block0 = [0; BLOCK_SIZE];
        let area = Bytes::from(builder.finish(&mut block0).unwrap());
        assert_eq!(area.len(), 2 * BLOCK_SIZE);
        assert!(has_footer(&area));
        let record = Record::decode(&block0).unwrap().unwrap();
        assert_eq!(record.table_block, 3001);
        let sums = Checksums::open(record, &area).unwrap();
        sums.verify(0, &block0).unwrap();
        sums.verify_run(1, &body).unwrap();
        let whole = [&block0[..], &body, &area].concat();
        assert_eq!(sums.file_crc32c(), Digest::of(&whole).crc32c());
        let two = body.get(..2 * BLOCK_SIZE).unwrap();
        assert!(matches!(
            sums.verify_run(2, two),
            Err(Error::Mismatch { block: 2, .. })
        ));
        assert!(matches!(
            sums.verify_run(3000, two),
            Err(Error::Mismatch { block: 3000, .. })
        ));
        assert!(matches!(
            sums.verify(3001, &block0),
            Err(Error::NotCovered { covered: 3001, .. })
        ));
        assert_eq!(
            sums.verify_run(1, &body[1..]),
            Err(Error::Length(body.len() - 1))
        );
        assert_eq!(Record::decode(&[0; BLOCK_SIZE]), Ok(None));
    }

    #[test]
    fn every_bit_of_record_and_table_matters() {
        let mut builder = TableBuilder::new();
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
