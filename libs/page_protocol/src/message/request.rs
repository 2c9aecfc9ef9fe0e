//! Requests: tag, header, key.

use super::{DecodeError, Header, Relation, Version};
use bytes::{BufMut, BytesMut};
use types::be::Reader;

pub(super) const EXISTS: u8 = 0;
pub(super) const NBLOCKS: u8 = 1;
pub(super) const GET_PAGE: u8 = 2;
pub(super) const DB_SIZE: u8 = 3;
pub(super) const GET_SLRU_SEGMENT: u8 = 4;
pub(super) const TEST: u8 = 99;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Id and positions.
    pub header: Header,
    /// What is asked.
    pub query: Query,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Does this relation fork exist?
    Exists(Relation),
    /// How many blocks does it have?
    Nblocks(Relation),
    /// One page.
    GetPage {
        /// The relation fork.
        rel: Relation,
        /// The block.
        block: u32,
    },
    /// Size of a database in bytes.
    DbSize {
        /// Database oid.
        db: u32,
    },
    /// All pages of an SLRU segment.
    GetSlruSegment {
        /// Number of the SLRU, 0 to 2 if valid.
        kind: u8,
        /// Segment number.
        segment: u32,
    },
    /// Asks for itself; only test servers answer.
    Test {
        /// Free for the test's use.
        batch_key: u64,
        /// Free text.
        message: String,
    },
}

impl Request {
    /// Decodes one request. Bytes behind it are ignored.
    pub fn decode(version: Version, bytes: &[u8]) -> Result<Request, DecodeError> {
        let r = &mut Reader::new(bytes);
        let tag = r.u8()?;
        if !matches!(tag, EXISTS..=GET_SLRU_SEGMENT | TEST) {
            return Err(DecodeError::Tag(tag));
        }
        let header = Header::decode(version, r)?;
        Ok(Request {
            header,
            query: Query::decode(tag, r)?,
        })
    }

    /// Appends the request, unframed.
    pub fn encode(&self, version: Version, buf: &mut BytesMut) {
        buf.put_u8(self.query.tag());
        self.header.encode(version, buf);
        self.query.encode(buf);
    }

    /// True for a request of one page, the only kind that is batched.
    pub const fn is_get_page(&self) -> bool {
        matches!(self.query, Query::GetPage { .. })
    }
}

impl Query {
    pub(super) const fn tag(&self) -> u8 {
        match self {
            Query::Exists(_) => EXISTS,
            Query::Nblocks(_) => NBLOCKS,
            Query::GetPage { .. } => GET_PAGE,
            Query::DbSize { .. } => DB_SIZE,
            Query::GetSlruSegment { .. } => GET_SLRU_SEGMENT,
            Query::Test { .. } => TEST,
        }
    }

    /// The name of the kind of request, as used in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Query::Exists(_) => "get_rel_exists",
            Query::Nblocks(_) => "get_rel_size",
            Query::GetPage { .. } => "get_page_at_lsn",
            Query::DbSize { .. } => "get_db_size",
            Query::GetSlruSegment { .. } => "get_slru_segment",
            Query::Test { .. } => "test",
        }
    }

    pub(super) fn decode(tag: u8, r: &mut Reader<'_>) -> Result<Query, DecodeError> {
        Ok(match tag {
            EXISTS => Query::Exists(Relation::decode(r)?),
            NBLOCKS => Query::Nblocks(Relation::decode(r)?),
            GET_PAGE => Query::GetPage {
                rel: Relation::decode(r)?,
                block: r.u32()?,
            },
            DB_SIZE => Query::DbSize { db: r.u32()? },
            GET_SLRU_SEGMENT => Query::GetSlruSegment {
                kind: r.u8()?,
                segment: r.u32()?,
            },
            TEST => {
                let batch_key = r.u64()?;
                let length = r.u64()?;
                let length =
                    usize::try_from(length).map_err(|_| DecodeError::TextLength(length))?;
                let at = r.position();
                let text = std::str::from_utf8(r.take(length)?);
                let message = text.map_err(|_| DecodeError::Utf8 { at })?.to_owned();
                Query::Test { batch_key, message }
            }
            other => return Err(DecodeError::Tag(other)),
        })
    }

    pub(super) fn encode(&self, buf: &mut BytesMut) {
        match self {
            Query::Exists(rel) | Query::Nblocks(rel) => rel.encode(buf),
            Query::GetPage { rel, block } => {
                rel.encode(buf);
                buf.put_u32(*block);
            }
            Query::DbSize { db } => buf.put_u32(*db),
            Query::GetSlruSegment { kind, segment } => {
                buf.put_u8(*kind);
                buf.put_u32(*segment);
            }
            Query::Test { batch_key, message } => {
                buf.put_u64(*batch_key);
                buf.put_u64(u64::try_from(message.len()).unwrap_or(u64::MAX));
                buf.put_slice(message.as_bytes());
            }
        }
    }
}
