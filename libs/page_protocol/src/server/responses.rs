//! Where a handler writes the answers to a batch of requests.

use crate::backend::copy_data;
use crate::frame;
use crate::message::{Answer, MAX_SLRU_PAGES, Request, Version, page_head, slru_head};
use bytes::BytesMut;
use std::borrow::Cow;
use types::PAGE_SIZE;

/// A handler's answer does not fit the request whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// All requests are answered.
    #[error("an answer without a request")]
    NoRequest,
    /// The request is of another kind.
    #[error("{answer} answers a request of kind {request}")]
    Kind {
        /// Kind of the answer.
        answer: &'static str,
        /// Kind of the request.
        request: &'static str,
    },
    /// Not a whole number of pages, or too many.
    #[error("SLRU segment of {0} bytes")]
    Segment(usize),
}

impl From<Misuse> for crate::Error {
    fn from(misuse: Misuse) -> Self {
        crate::Error::internal(misuse.to_string())
    }
}

/// Answers to a batch, in the order of its requests. Each call answers the next request.
#[derive(Debug)]
pub struct Responses<'a> {
    version: Version,
    requests: &'a [Request],
    answered: usize,
    buf: &'a mut BytesMut,
}

impl<'a> Responses<'a> {
    /// Answers to `requests`, framed as CopyData and appended to `buf`.
    pub fn new(version: Version, requests: &'a [Request], buf: &'a mut BytesMut) -> Self {
        Responses {
            version,
            requests,
            answered: 0,
            buf,
        }
    }

    /// How many requests are answered.
    pub const fn answered(&self) -> usize {
        self.answered
    }

    fn next(
        &self,
        answer: &'static str,
        fits: impl Fn(&Request) -> bool,
    ) -> Result<&'a Request, Misuse> {
        let request = self.requests.get(self.answered).ok_or(Misuse::NoRequest)?;
        match fits(request) {
            true => Ok(request),
            false => Err(Misuse::Kind {
                answer,
                request: request.query.name(),
            }),
        }
    }

    /// Any answer. For pages, [`Responses::page`] and [`Responses::pages`] save a copy.
    pub fn answer(&mut self, answer: &Answer<'_>) -> Result<(), Misuse> {
        let request = self.next("answer", |request| answer.fits(&request.query))?;
        if let Answer::SlruSegment(pages) = answer
            && (pages.len() % PAGE_SIZE != 0 || pages.len() / PAGE_SIZE > MAX_SLRU_PAGES)
        {
            return Err(Misuse::Segment(pages.len()));
        }
        let version = self.version;
        frame::put(self.buf, b'd', |buf| answer.encode(version, request, buf));
        self.answered += 1;
        Ok(())
    }

    /// The request failed for good; clients show the text to their users.
    pub fn error(&mut self, text: &str) -> Result<(), Misuse> {
        self.answer(&Answer::Error(Cow::Borrowed(text)))
    }

    /// Answers a page request with what `fill` leaves in a zeroed page. If it fails, nothing is
    /// answered and its error is returned.
    pub fn page<E: From<Misuse>>(
        &mut self,
        fill: impl FnOnce(&mut [u8; PAGE_SIZE]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pages = self.pages(1)?;
        if let Some(slot) = pages.slots().next() {
            fill(slot)?;
        }
        pages.finish(&[])?;
        Ok(())
    }

    /// Room for the answers to the next `n` requests, all of one page, to be filled in any
    /// order.
    pub fn pages(&mut self, n: usize) -> Result<Pages<'_, 'a>, Misuse> {
        let end = self.answered.saturating_add(n);
        let requests = self
            .requests
            .get(self.answered..end)
            .ok_or(Misuse::NoRequest)?;
        if let Some(other) = requests.iter().find(|request| !request.is_get_page()) {
            return Err(Misuse::Kind {
                answer: "page",
                request: other.query.name(),
            });
        }
        let start = self.buf.len();
        for request in requests {
            let at = frame::open(self.buf, b'd');
            page_head(self.version, request, self.buf);
            let page = self.buf.len();
            self.buf.resize(page.saturating_add(PAGE_SIZE), 0);
            frame::close(self.buf, at);
        }
        let stride = self
            .buf
            .len()
            .saturating_sub(start)
            .checked_div(n)
            .unwrap_or(0);
        Ok(Pages {
            start,
            stride,
            requests,
            finished: false,
            out: self,
        })
    }

    /// Answers a segment request with what `fill` leaves in `count` zeroed pages. If it fails,
    /// nothing is answered and its error is returned.
    pub fn slru_segment<E: From<Misuse>>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let fits = |r: &Request| Answer::SlruSegment(&[]).fits(&r.query);
        let request = self.next("SLRU segment", fits)?;
        let size = count.saturating_mul(PAGE_SIZE);
        let pages = match u32::try_from(count) {
            Ok(pages) if count <= MAX_SLRU_PAGES => pages,
            _ => return Err(Misuse::Segment(size).into()),
        };
        let at = frame::open(self.buf, b'd');
        slru_head(self.version, request, pages, self.buf);
        let start = self.buf.len();
        self.buf.resize(start.saturating_add(size), 0);
        if let Err(error) = fill(self.buf.get_mut(start..).unwrap_or_default()) {
            self.buf.truncate(at);
            return Err(error);
        }
        frame::close(self.buf, at);
        self.answered += 1;
        Ok(())
    }
}

/// Room for consecutive page responses. Dropped without [`Pages::finish`], none is given.
#[derive(Debug)]
pub struct Pages<'s, 'a> {
    out: &'s mut Responses<'a>,
    requests: &'a [Request],
    start: usize,
    stride: usize,
    finished: bool,
}

impl Pages<'_, '_> {
    /// The pages, in the order of the requests.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [u8; PAGE_SIZE]> {
        let all = self.out.buf.get_mut(self.start..).unwrap_or_default();
        all.chunks_exact_mut(self.stride.max(1))
            .filter_map(|m| m.last_chunk_mut())
    }

    /// Gives the answers. `failed` lists the positions of pages that could not be had, with
    /// texts for the user; those become errors.
    pub fn finish(mut self, failed: &[(usize, &str)]) -> Result<(), Misuse> {
        self.finished = true;
        self.out.answered += self.requests.len();
        if failed.is_empty() {
            return Ok(());
        }
        let messages = self.out.buf.split_off(self.start);
        for (at, (message, request)) in messages
            .chunks_exact(self.stride.max(1))
            .zip(self.requests)
            .enumerate()
        {
            match failed.iter().find(|(position, _)| *position == at) {
                None => self.out.buf.extend_from_slice(message),
                Some((_, text)) => {
                    let mut error = BytesMut::new();
                    Answer::Error(Cow::Borrowed(text)).encode(
                        self.out.version,
                        request,
                        &mut error,
                    );
                    copy_data(self.out.buf, &error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Pages<'_, '_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.buf.truncate(self.start);
        }
    }
}
