//! The messages inside a pagestream, one per CopyData (`docs/format/page-service.md`,
//! "Pagestream"). All integers are big-endian. Version 3 adds a request id and echoes the whole
//! request in its response.

mod request;
mod response;

pub use request::{Query, Request};
pub use response::{Answer, Echo, Response, page_head, slru_head};

use bytes::{BufMut, BytesMut};
use types::be::{self, Reader};
use types::{Fork, Lsn, RelTag};

/// Most pages of an SLRU segment response; the client's buffer holds no more.
pub const MAX_SLRU_PAGES: usize = 32;

/// Version of the messages, fixed for the life of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Requests carry no id, responses no echo.
    V2,
    /// Requests carry an id, responses echo the request.
    V3,
}

impl Version {
    /// 2 or 3.
    pub const fn number(self) -> u8 {
        match self {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

/// Bytes that are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field, or a response is longer than its fields.
    #[error("failed to fill whole buffer: {0}")]
    Layout(#[from] be::Error),
    /// The first byte names no message.
    #[error("invalid tag {0}")]
    Tag(u8),
    /// A text is not UTF-8.
    #[error("text at byte {at} is not UTF-8")]
    Utf8 {
        /// Offset of the text.
        at: usize,
    },
    /// A text lacks its terminating NUL.
    #[error("text without terminating NUL")]
    Unterminated,
    /// An SLRU segment of more pages than a segment has.
    #[error("SLRU segment of {0} pages, at most {MAX_SLRU_PAGES} allowed")]
    SlruPages(u32),
    /// A text is said to be longer than any length this machine can address.
    #[error("text of {0} bytes")]
    TextLength(u64),
}

/// What every request starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// Chosen by the client, echoed by the server; 0 in version 2.
    pub reqid: u64,
    /// Read as of this position; [`Lsn::MAX`] for the latest.
    pub request_lsn: Lsn,
    /// The object was not modified between this position and `request_lsn`.
    pub not_modified_since: Lsn,
}

impl Header {
    fn decode(version: Version, r: &mut Reader<'_>) -> Result<Header, DecodeError> {
        let reqid = match version {
            Version::V2 => 0,
            Version::V3 => r.u64()?,
        };
        let request_lsn = Lsn(r.u64()?);
        Ok(Header {
            reqid,
            request_lsn,
            not_modified_since: Lsn(r.u64()?),
        })
    }

    fn encode(&self, version: Version, buf: &mut BytesMut) {
        if version == Version::V3 {
            buf.put_u64(self.reqid);
        }
        buf.put_u64(self.request_lsn.0);
        buf.put_u64(self.not_modified_since.0);
    }
}

/// A relation fork as it stands on the wire. The fork byte is kept as sent, because version 3
/// echoes it; [`Relation::tag`] checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relation {
    /// Tablespace oid.
    pub spc: u32,
    /// Database oid.
    pub db: u32,
    /// Relation file number.
    pub rel: u32,
    /// Fork number, 0 to 3 if valid.
    pub fork: u8,
}

impl Relation {
    /// The relation fork, or `None` if the relation number is 0 or the fork number above 3.
    pub const fn tag(&self) -> Option<RelTag> {
        match Fork::from_u8(self.fork) {
            Some(fork) if self.rel != 0 => Some(RelTag {
                spc: self.spc,
                db: self.db,
                rel: self.rel,
                fork,
            }),
            _ => None,
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Relation, DecodeError> {
        Ok(Relation {
            spc: r.u32()?,
            db: r.u32()?,
            rel: r.u32()?,
            fork: r.u8()?,
        })
    }

    fn encode(&self, buf: &mut BytesMut) {
        buf.put_u32(self.spc);
        buf.put_u32(self.db);
        buf.put_u32(self.rel);
        buf.put_u8(self.fork);
    }
}

impl From<RelTag> for Relation {
    fn from(tag: RelTag) -> Relation {
        Relation {
            spc: tag.spc,
            db: tag.db,
            rel: tag.rel,
            fork: tag.fork as u8,
        }
    }
}
