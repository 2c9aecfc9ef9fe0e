//! Responses: tag, in version 3 an echo of the request, payload.

use super::request::{DB_SIZE, EXISTS, GET_PAGE, GET_SLRU_SEGMENT, NBLOCKS, TEST};
use super::{DecodeError, Header, MAX_SLRU_PAGES, Query, Request, Version};
use crate::backend::cut;
use crate::frame::put_cstr;
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;
use types::PAGE_SIZE;
use types::be::{self, Reader};

/// A response's tag is its request's plus this.
const RESPONSE: u8 = 100;
const ERROR: u8 = 103;
/// Responses to [`DB_SIZE`] and [`GET_SLRU_SEGMENT`] stand behind the error's tag.
const DB_SIZE_RESPONSE: u8 = 104;
const SLRU_RESPONSE: u8 = 105;
const TEST_RESPONSE: u8 = 199;

/// What a server has to say to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Whether the relation fork exists.
    Exists(bool),
    /// Its size in blocks.
    Nblocks(u32),
    /// The page.
    Page(&'a [u8; PAGE_SIZE]),
    /// Size of the database in bytes.
    DbSize(i64),
    /// The pages of the segment, a multiple of the page size, at most [`MAX_SLRU_PAGES`].
    SlruSegment(&'a [u8]),
    /// The request again.
    Test {
        /// As in the request.
        batch_key: u64,
        /// As in the request.
        message: Cow<'a, str>,
    },
    /// The request failed for good; a client shows the text to its user.
    Error(Cow<'a, str>),
}

/// What a version 3 response repeats of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Echo {
    /// An answer repeats everything.
    Request(Request),
    /// An error repeats the header.
    Header(Header),
}

/// A response as decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    /// The repeated request; `None` in version 2.
    pub echo: Option<Echo>,
    /// The payload.
    pub answer: Answer<'a>,
}

const fn tag_of(query: &Query) -> u8 {
    match query.tag() {
        DB_SIZE => DB_SIZE_RESPONSE,
        GET_SLRU_SEGMENT => SLRU_RESPONSE,
        tag => tag.saturating_add(RESPONSE),
    }
}

/// Appends everything of an answer to `request` that stands before its payload.
fn put_head(version: Version, request: &Request, buf: &mut BytesMut) {
    buf.put_u8(tag_of(&request.query));
    if version == Version::V3 {
        request.header.encode(version, buf);
        // The payload of a test response is the repeated request itself.
        if request.query.tag() != TEST {
            request.query.encode(buf);
        }
    }
}

/// Appends everything of a page response but the page; the caller appends exactly
/// [`PAGE_SIZE`] bytes.
pub fn page_head(version: Version, request: &Request, buf: &mut BytesMut) {
    put_head(version, request, buf);
}

/// Appends everything of an SLRU response but the pages; the caller appends exactly `pages`
/// pages.
pub fn slru_head(version: Version, request: &Request, pages: u32, buf: &mut BytesMut) {
    put_head(version, request, buf);
    buf.put_u32(pages);
}

impl Answer<'_> {
    /// True if this answers such a query. An error answers all.
    pub const fn fits(&self, query: &Query) -> bool {
        matches!(
            (self, query),
            (Answer::Error(_), _)
                | (Answer::Exists(_), Query::Exists(_))
                | (Answer::Nblocks(_), Query::Nblocks(_))
                | (Answer::Page(_), Query::GetPage { .. })
                | (Answer::DbSize(_), Query::DbSize { .. })
                | (Answer::SlruSegment(_), Query::GetSlruSegment { .. })
                | (Answer::Test { .. }, Query::Test { .. })
        )
    }

    /// Appends the response to `request`, unframed. Texts of errors are cut at
    /// [`crate::backend::MAX_ERROR_TEXT`] bytes and lose NULs; segments are cut to whole pages.
    /// The answer has to fit the request.
    pub fn encode(&self, version: Version, request: &Request, buf: &mut BytesMut) {
        if let Answer::Error(text) = self {
            buf.put_u8(ERROR);
            if version == Version::V3 {
                request.header.encode(version, buf);
            }
            return put_cstr(buf, cut(text));
        }
        put_head(version, request, buf);
        match self {
            Answer::Exists(exists) => buf.put_u8(u8::from(*exists)),
            Answer::Nblocks(blocks) => buf.put_u32(*blocks),
            Answer::Page(page) => buf.put_slice(*page),
            Answer::DbSize(bytes) => buf.put_i64(*bytes),
            Answer::SlruSegment(pages) => {
                let count = (pages.len() / PAGE_SIZE).min(MAX_SLRU_PAGES);
                buf.put_u32(u32::try_from(count).unwrap_or(0));
                buf.put_slice(
                    pages
                        .get(..count.saturating_mul(PAGE_SIZE))
                        .unwrap_or_default(),
                );
            }
            Answer::Test { batch_key, message } => {
                let message = message.clone().into_owned();
                Query::Test {
                    batch_key: *batch_key,
                    message,
                }
                .encode(buf);
            }
            Answer::Error(_) => {}
        }
    }
}

impl<'a> Response<'a> {
    /// Decodes one response, which has to fill `bytes` exactly.
    pub fn decode(version: Version, bytes: &'a [u8]) -> Result<Response<'a>, DecodeError> {
        let r = &mut Reader::new(bytes);
        let tag = r.u8()?;
        let query = match tag {
            ERROR => return Self::decode_error(version, r),
            DB_SIZE_RESPONSE => DB_SIZE,
            SLRU_RESPONSE => GET_SLRU_SEGMENT,
            TEST_RESPONSE => return Self::decode_test(version, r),
            _ => match tag.checked_sub(RESPONSE) {
                Some(query @ (EXISTS | NBLOCKS | GET_PAGE)) => query,
                _ => return Err(DecodeError::Tag(tag)),
            },
        };
        let echo = match version {
            Version::V2 => None,
            Version::V3 => {
                let header = Header::decode(version, r)?;
                Some(Echo::Request(Request {
                    header,
                    query: Query::decode(query, r)?,
                }))
            }
        };
        let answer = match query {
            EXISTS => Answer::Exists(r.bool("exists")?),
            NBLOCKS => Answer::Nblocks(r.u32()?),
            GET_PAGE => Answer::Page(page(r)?),
            DB_SIZE => Answer::DbSize(r.i64()?),
            _ => {
                let count = r.u32()?;
                let pages = usize::try_from(count).ok().filter(|n| *n <= MAX_SLRU_PAGES);
                let pages = pages.ok_or(DecodeError::SlruPages(count))?;
                Answer::SlruSegment(r.take(pages.saturating_mul(PAGE_SIZE))?)
            }
        };
        finish(r)?;
        Ok(Response { echo, answer })
    }

    fn decode_error(version: Version, r: &mut Reader<'a>) -> Result<Response<'a>, DecodeError> {
        let echo = match version {
            Version::V2 => None,
            Version::V3 => Some(Echo::Header(Header::decode(version, r)?)),
        };
        let text = r
            .take(r.left())?
            .strip_suffix(&[0])
            .ok_or(DecodeError::Unterminated)?;
        Ok(Response {
            echo,
            answer: Answer::Error(String::from_utf8_lossy(text)),
        })
    }

    fn decode_test(version: Version, r: &mut Reader<'a>) -> Result<Response<'a>, DecodeError> {
        let header = match version {
            Version::V2 => None,
            Version::V3 => Some(Header::decode(version, r)?),
        };
        let query = Query::decode(TEST, r)?;
        finish(r)?;
        let answer = match &query {
            Query::Test { batch_key, message } => Answer::Test {
                batch_key: *batch_key,
                message: Cow::Owned(message.clone()),
            },
            _ => return Err(DecodeError::Tag(TEST_RESPONSE)),
        };
        Ok(Response {
            echo: header.map(|header| Echo::Request(Request { header, query })),
            answer,
        })
    }

    /// True if this is a response to `request`: the kind fits and what is echoed is equal.
    pub fn matches(&self, request: &Request) -> bool {
        let echoed = match &self.echo {
            None => true,
            Some(Echo::Header(header)) => *header == request.header,
            Some(Echo::Request(echo)) => echo == request,
        };
        echoed && self.answer.fits(&request.query)
    }
}

fn page<'a>(r: &mut Reader<'a>) -> Result<&'a [u8; PAGE_SIZE], DecodeError> {
    let at = r.position();
    let bytes = r.take(PAGE_SIZE)?;
    let left = bytes.len();
    bytes
        .first_chunk()
        .ok_or(DecodeError::Layout(be::Error::Truncated {
            at,
            wanted: PAGE_SIZE,
            left,
        }))
}

fn finish(r: &Reader<'_>) -> Result<(), DecodeError> {
    match r.left() {
        0 => Ok(()),
        left => Err(DecodeError::Layout(be::Error::Trailing(left))),
    }
}
