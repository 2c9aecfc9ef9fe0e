//! One WAL record: header, block references, main data (`docs/format/wal.md`, "Record").
//!
//! [`Record::parse`] borrows from the raw bytes and allocates nothing. It checks every bound and
//! every rule of the envelope; the CRC is the stream decoder's business ([`crc_is_valid`]).

use crate::cursor::{Cursor, Short};
use arrayvec::ArrayVec;
use types::{BlockNumber, Fork, PgMajor, RelTag};

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

const BKP_HAS_IMAGE: u8 = 0x10;
const BKP_HAS_DATA: u8 = 0x20;
const BKP_WILL_INIT: u8 = 0x40;
const BKP_SAME_REL: u8 = 0x80;

impl Header {
    /// Reads the fixed header of a record.
    pub fn parse(raw: &[u8]) -> Result<Header, Short> {
        let mut c = Cursor::new(raw, "record header");
        let total_len = c.u32()?;
        let xid = c.u32()?;
        let prev = c.u64()?;
        let info = c.u8()?;
        let rmid = c.u8()?;
        c.skip(2)?;
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
    crc32c::crc32c_append(crc32c::crc32c(body), first) == u32::from_le_bytes([*c0, *c1, *c2, *c3])
}

struct Announced {
    block: usize,
    image_len: usize,
    data_len: usize,
}

impl<'a> Record<'a> {
    /// A record with nothing in it, to be filled by [`Record::parse_into`].
    #[inline]
    pub const fn empty() -> Record<'a> {
        Record {
            raw: &[],
            header: Header { total_len: 0, xid: 0, prev: 0, info: 0, rmid: 0, crc: 0 },
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
        let rec = self;
        rec.header = Header::parse(raw)?;
        if usize::try_from(rec.header.total_len) != Ok(raw.len()) {
            return Err(Error::Length { announced: rec.header.total_len, actual: raw.len() });
        }
        rec.raw = raw;
        rec.blocks.clear();
        (rec.main, rec.origin, rec.toplevel_xid) = (&[], None, None);
        let mut c = Cursor::new(raw, "record");
        c.skip(HEADER_SIZE)?;
        let mut sizes: ArrayVec<Announced, 33> = ArrayVec::new();
        let mut payload = 0usize;
        let mut main_len = 0usize;
        while c.left() > payload {
            let at = c.position();
            match c.u8()? {
                id @ 0..=MAX_BLOCK_ID => {
                    if rec.blocks.last().is_some_and(|b| b.id >= id) {
                        return Err(Error::BlockOrder { at, id });
                    }
                    let (block, image_len, data_len) =
                        block_header(&mut c, id, rec.blocks.last().map(|b| b.rel), version)?;
                    payload = payload.saturating_add(image_len).saturating_add(data_len);
                    sizes.push(Announced {
                        block: rec.blocks.len(),
                        image_len,
                        data_len,
                    });
                    rec.blocks.push(block);
                }
                252 => rec.toplevel_xid = Some(c.u32()?),
                253 => rec.origin = Some(c.u16()?),
                id @ (254 | 255) => {
                    main_len = if id == 255 {
                        usize::from(c.u8()?)
                    } else {
                        usize::try_from(c.u32()?).unwrap_or(usize::MAX)
                    };
                    payload = payload.saturating_add(main_len);
                    break;
                }
                id => return Err(Error::FragmentId { at, id }),
            }
        }
        if c.left() != payload {
            return Err(Error::Payload {
                announced: payload,
                left: c.left(),
            });
        }
        for s in sizes {
            let image = c.take(s.image_len)?;
            let data = c.take(s.data_len)?;
            if let Some(b) = rec.blocks.get_mut(s.block) {
                if let Some(i) = &mut b.image {
                    i.data = image;
                }
                b.data = data;
            }
        }
        rec.main = c.take(main_len)?;
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

fn block_header<'a>(
    c: &mut Cursor<'a>,
    id: u8,
    previous: Option<RelTag>,
    version: PgMajor,
) -> Result<(Block<'a>, usize, usize), Error> {
    let at = c.position();
    let rule = |rule| Error::Rule { at, id, rule };
    let flags = c.u8()?;
    let fork = Fork::from_u8(flags & 0x0F).ok_or(rule("unknown fork"))?;
    let data_len = usize::from(c.u16()?);
    let has_data = flags & BKP_HAS_DATA != 0;
    if has_data != (data_len != 0) {
        return Err(rule("data length and HAS_DATA disagree"));
    }
    let mut image = None;
    let mut image_len = 0;
    if flags & BKP_HAS_IMAGE != 0 {
        let len = c.u16()?;
        image_len = usize::from(len);
        image = Some(image_header(c, len, version).map_err(|e| match e {
            ImageError::Short(s) => Error::Short(s),
            ImageError::Rule(r) => rule(r),
        })?);
    }
    let rel = if flags & BKP_SAME_REL != 0 {
        previous
            .ok_or(rule("SAME_REL without a previous reference"))?
            .with_fork(fork)
    } else {
        RelTag {
            spc: c.u32()?,
            db: c.u32()?,
            rel: c.u32()?,
            fork,
        }
    };
    let block = c.u32()?;
    let will_init = flags & BKP_WILL_INIT != 0;
    Ok((
        Block {
            id,
            rel,
            block,
            will_init,
            image,
            data: &[],
            has_data,
        },
        image_len,
        data_len,
    ))
}

enum ImageError {
    Short(Short),
    Rule(&'static str),
}

impl From<Short> for ImageError {
    fn from(s: Short) -> Self {
        ImageError::Short(s)
    }
}

fn image_header<'a>(
    c: &mut Cursor<'a>,
    len: u16,
    version: PgMajor,
) -> Result<Image<'a>, ImageError> {
    const PAGE: u16 = 8192;
    let hole_offset = c.u16()?;
    let info = c.u8()?;
    let has_hole = info & 0x01 != 0;
    let (apply, compression) = match version {
        PgMajor::V14 => (
            info & 0x04 != 0,
            if info & 0x02 != 0 {
                Compression::Pglz
            } else {
                Compression::None
            },
        ),
        _ => (
            info & 0x02 != 0,
            match info & 0x1C {
                0 => Compression::None,
                0x04 => Compression::Pglz,
                0x08 => Compression::Lz4,
                0x10 => Compression::Zstd,
                _ => return Err(ImageError::Rule("image names more than one compression")),
            },
        ),
    };
    let compressed = compression != Compression::None;
    if len > PAGE {
        return Err(ImageError::Rule("image longer than a page"));
    }
    let hole_length = match (compressed, has_hole) {
        (true, true) => c.u16()?,
        (true, false) => 0,
        (false, _) => PAGE - len,
    };
    // A zero-length uncompressed image is a page that is all hole (written by Neon computes only).
    let all_hole = !compressed && len == 0;
    if has_hole && !all_hole && (hole_offset == 0 || hole_length == 0 || len == PAGE) {
        return Err(ImageError::Rule("hole flag set but the hole is empty"));
    }
    if !has_hole && !all_hole && (hole_offset != 0 || hole_length != 0) {
        return Err(ImageError::Rule("hole without the hole flag"));
    }
    if compressed && len == PAGE {
        return Err(ImageError::Rule(
            "compressed image is not smaller than a page",
        ));
    }
    if u32::from(hole_offset) + u32::from(hole_length) > u32::from(PAGE) {
        return Err(ImageError::Rule("hole reaches past the page"));
    }
    Ok(Image {
        data: &[],
        hole_offset,
        hole_length,
        compression,
        apply,
    })
}

#[cfg(test)]
mod tests;
