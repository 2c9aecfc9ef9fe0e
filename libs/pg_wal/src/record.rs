//! One WAL record: header, block references, main data (`docs/format/wal.md`, "Record").
//!
//! [`Record::parse`] and [`View::find`] borrow from the raw bytes and allocate nothing. Both check
//! every bound and every rule of the envelope; the CRC is the stream decoder's business
//! ([`crc_is_valid`]).

mod view;
mod walk;

pub use view::View;

use crate::cursor::{Cursor, Short};
use arrayvec::ArrayVec;
use types::{BlockNumber, PgMajor, RelTag};
use walk::{Reference, walk};

/// Length of the fixed record header in bytes.
pub const HEADER_SIZE: usize = 24;
/// Largest record accepted, in bytes (`XLogRecordMaxSize`, 1020 MiB).
pub const MAX_RECORD_SIZE: u32 = 1020 * 1024 * 1024;
/// Largest block id.
pub const MAX_BLOCK_ID: u8 = 32;

/// Resource manager ids (`access/rmgrlist.h`).
pub mod rmid {
    #![allow(missing_docs, reason = "the names are Postgres's own")]
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const CLOG: u8 = 3;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const MULTIXACT: u8 = 6;
    pub const RELMAP: u8 = 7;
    pub const STANDBY: u8 = 8;
    pub const HEAP2: u8 = 9;
    pub const HEAP: u8 = 10;
    pub const BTREE: u8 = 11;
    pub const HASH: u8 = 12;
    pub const GIN: u8 = 13;
    pub const GIST: u8 = 14;
    pub const SEQ: u8 = 15;
    pub const SPGIST: u8 = 16;
    pub const BRIN: u8 = 17;
    pub const COMMIT_TS: u8 = 18;
    pub const REPLORIGIN: u8 = 19;
    pub const GENERIC: u8 = 20;
    pub const LOGICALMSG: u8 = 21;
    /// Last built-in id.
    pub const MAX_BUILTIN: u8 = LOGICALMSG;
    /// First id of extensions.
    pub const MIN_CUSTOM: u8 = 128;
    /// Neon's own manager (16 and 17 computes).
    pub const NEON: u8 = 134;
}

/// Name of a resource manager, for messages.
pub const fn rmgr_name(id: u8) -> &'static str {
    match id {
        0 => "XLOG",
        1 => "Transaction",
        2 => "Storage",
        3 => "CLOG",
        4 => "Database",
        5 => "Tablespace",
        6 => "MultiXact",
        7 => "RelMap",
        8 => "Standby",
        9 => "Heap2",
        10 => "Heap",
        11 => "Btree",
        12 => "Hash",
        13 => "Gin",
        14 => "Gist",
        15 => "Sequence",
        16 => "SPGist",
        17 => "BRIN",
        18 => "CommitTs",
        19 => "ReplicationOrigin",
        20 => "Generic",
        21 => "LogicalMessage",
        134 => "neon",
        128..=255 => "custom",
        _ => "unknown",
    }
}

/// The fixed header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Length of the whole record in bytes.
    pub total_len: u32,
    /// Transaction that wrote it, or 0.
    pub xid: u32,
    /// Start of the previous record.
    pub prev: u64,
    /// Flags; the high nibble belongs to the resource manager.
    pub info: u8,
    /// Resource manager.
    pub rmid: u8,
    /// CRC-32C of the record.
    pub crc: u32,
}

/// Compression of a full-page image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Stored as is.
    None,
    /// Postgres's own LZ variant.
    Pglz,
    /// LZ4 block format.
    Lz4,
    /// One Zstandard frame.
    Zstd,
}

/// A full-page image as it stands in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// The bytes, without the hole, perhaps compressed.
    pub data: &'a [u8],
    /// Where the hole begins in the page.
    pub hole_offset: u16,
    /// Its length in bytes; 0 without a hole.
    pub hole_length: u16,
    /// How `data` is compressed.
    pub compression: Compression,
    /// Replay restores the image. Clear only for consistency-check images.
    pub apply: bool,
}

/// A block reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block<'a> {
    /// Its id in the record; ids ascend but may have gaps.
    pub id: u8,
    /// The relation fork.
    pub rel: RelTag,
    /// The block.
    pub block: BlockNumber,
    /// The record rebuilds the page from zeros.
    pub will_init: bool,
    /// Full-page image, if the reference has one.
    pub image: Option<Image<'a>>,
    /// Block data; empty without HAS_DATA.
    pub data: &'a [u8],
    /// HAS_DATA was set.
    pub has_data: bool,
}

impl Block<'_> {
    /// The reference carries an image that replay must restore.
    pub fn applies_image(&self) -> bool {
        self.image.is_some_and(|i| i.apply)
    }
}

/// A parsed record, borrowed from its raw bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The raw record.
    pub raw: &'a [u8],
    /// Fixed header.
    pub header: Header,
    /// Block references in ascending id order.
    pub blocks: ArrayVec<Block<'a>, 33>,
    /// Main data; empty if there is none.
    pub main: &'a [u8],
    /// Replication origin.
    pub origin: Option<u16>,
    /// Top-level transaction id, with logical WAL.
    pub toplevel_xid: Option<u32>,
}

/// A record whose envelope is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header runs past the end.
    #[error(transparent)]
    Short(#[from] Short),
    /// The length field disagrees with the bytes at hand.
    #[error("record length {announced} does not match the {actual} bytes given")]
    Length {
        /// `xl_tot_len`.
        announced: u32,
        /// Bytes given.
        actual: usize,
    },
    /// An unknown fragment id.
    #[error("offset {at}: unknown fragment id {id}")]
    FragmentId {
        /// Offset in the record.
        at: usize,
        /// The id.
        id: u8,
    },
    /// Block ids do not ascend.
    #[error("offset {at}: block id {id} does not ascend")]
    BlockOrder {
        /// Offset in the record.
        at: usize,
        /// The id.
        id: u8,
    },
    /// A rule of the envelope is broken.
    #[error("offset {at}: block {id}: {rule}")]
    Rule {
        /// Offset in the record.
        at: usize,
        /// Block id.
        id: u8,
        /// The rule.
        rule: &'static str,
    },
    /// Announced payloads do not fill the record.
    #[error("payloads of {announced} bytes announced, {left} bytes left")]
    Payload {
        /// Sum of the payload lengths.
        announced: usize,
        /// Bytes behind the headers.
        left: usize,
    },
}

impl Header {
    /// Reads the fixed header of a record.
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Header, Short> {
        let mut c = Cursor::new(raw, "record header");
        let (total_len, xid, prev) = (c.u32()?, c.u32()?, c.u64()?);
        let [info, rmid, _, _] = c.array()?;
        Ok(Header {
            total_len,
            xid,
            prev,
            info,
            rmid,
            crc: c.u32()?,
        })
    }
}

/// True if the record's CRC-32C matches its bytes. `raw` is the whole record.
pub fn crc_is_valid(raw: &[u8]) -> bool {
    let (Some(head), Some(body)) = (raw.first_chunk::<HEADER_SIZE>(), raw.get(HEADER_SIZE..))
    else {
        return false;
    };
    let [first @ .., c0, c1, c2, c3] = head;
    types::crc32c::append(types::crc32c::of(body), first)
        == u32::from_le_bytes([*c0, *c1, *c2, *c3])
}

impl<'a> Record<'a> {
    /// A record with nothing in it, to be filled by [`Record::parse_into`].
    #[inline]
    pub const fn empty() -> Record<'a> {
        Record {
            raw: &[],
            header: Header {
                total_len: 0,
                xid: 0,
                prev: 0,
                info: 0,
                rmid: 0,
                crc: 0,
            },
            blocks: ArrayVec::new_const(),
            main: &[],
            origin: None,
            toplevel_xid: None,
        }
    }

    /// Parses a whole record. The layout of image flags depends on `version`.
    pub fn parse(raw: &'a [u8], version: PgMajor) -> Result<Record<'a>, Error> {
        let mut rec = Record::empty();
        rec.parse_into(raw, version)?;
        Ok(rec)
    }

    /// [`Record::parse`] in place: the struct has room for 33 references and moving it costs more
    /// than parsing. After an error the contents mean nothing.
    pub fn parse_into(&mut self, raw: &'a [u8], version: PgMajor) -> Result<(), Error> {
        self.blocks.clear();
        let mut references: ArrayVec<Reference, 33> = ArrayVec::new();
        let all = walk(raw, version, |r| references.push(*r))?;
        for r in &references {
            self.blocks.push(r.block(all.payload)?);
        }
        (self.raw, self.header, self.main) = (raw, all.header, all.main);
        (self.origin, self.toplevel_xid) = (all.origin, all.toplevel_xid);
        Ok(())
    }

    /// The reference with block id `id`.
    #[inline]
    pub fn block(&self, id: u8) -> Option<&Block<'a>> {
        // Ids are dense in nearly every record.
        match self.blocks.get(usize::from(id)) {
            Some(b) if b.id == id => Some(b),
            _ => self.blocks.iter().find(|b| b.id == id),
        }
    }

    /// The high nibble of `info`.
    #[inline]
    pub const fn op(&self) -> u8 {
        self.header.info & 0xF0
    }
}

#[cfg(test)]
mod tests;
