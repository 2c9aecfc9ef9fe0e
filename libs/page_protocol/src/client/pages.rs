//! A pagestream, as seen by its client.

use super::{Connection, Error, Message};
use crate::backend::Backend;
use crate::frame;
use crate::frontend::Frontend;
use crate::message::{Answer, Header, Query, Relation, Request, Response, Version};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use types::{Lsn, PAGE_SIZE};

/// One page.
pub type Page = Box<[u8; PAGE_SIZE]>;

/// An open pagestream. Requests may be sent ahead; responses come in their order and are
/// checked against them.
#[derive(Debug)]
pub struct PageStream<S> {
    connection: Connection<S>,
    version: Version,
    pending: VecDeque<Request>,
    current: Message,
    next_id: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PageStream<S> {
    pub(super) fn new(connection: Connection<S>, version: Version) -> Self {
        let current = Message {
            tag: 0,
            bytes: BytesMut::new(),
        };
        PageStream {
            connection,
            version,
            pending: VecDeque::new(),
            current,
            next_id: 1,
        }
    }

    /// Version of the messages.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How many requests wait for their response.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Adds a request to the output buffer. [`PageStream::flush`] sends it.
    pub fn push(&mut self, request: Request) {
        let version = self.version;
        frame::put(&mut self.connection.output, b'd', |buf| {
            request.encode(version, buf)
        });
        self.pending.push_back(request);
    }

    /// Adds a request with the next free id (none in version 2) to the output buffer.
    pub fn ask(&mut self, query: Query, request_lsn: Lsn, not_modified_since: Lsn) {
        let reqid = match self.version {
            Version::V2 => 0,
            Version::V3 => self.next_id,
        };
        self.next_id = self.next_id.wrapping_add(1);
        let header = Header {
            reqid,
            request_lsn,
            not_modified_since,
        };
        self.push(Request { header, query });
    }

    /// Sends what was added.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.connection.flush().await
    }

    /// The next response with its request. Cancel-safe.
    pub async fn receive(&mut self) -> Result<(Request, Answer<'_>), Error> {
        if self.pending.is_empty() {
            return Err(Error::NothingPending);
        }
        self.current = loop {
            let message = self.connection.message().await?;
            match message.decode()? {
                Backend::CopyData(_) => break message,
                Backend::ErrorResponse(report) => return Err(Error::Server(report)),
                Backend::NoticeResponse(_) => {}
                _ => return Err(Error::Unexpected("a page response")),
            }
        };
        let response = Response::decode(self.version, self.current.body())?;
        let request = self.pending.pop_front().ok_or(Error::NothingPending)?;
        if !response.matches(&request) {
            return Err(Error::Mismatch);
        }
        Ok((request, response.answer))
    }

    /// Sends one request and waits for its response; none may be under way.
    async fn exchange(&mut self, query: Query, at: Lsn, since: Lsn) -> Result<Answer<'_>, Error> {
        if !self.pending.is_empty() {
            return Err(Error::Unexpected("responses under way"));
        }
        self.ask(query, at, since);
        self.flush().await?;
        match self.receive().await? {
            (_, Answer::Error(text)) => Err(Error::Page(text.into_owned())),
            (_, answer) => Ok(answer),
        }
    }

    /// Whether a relation fork exists.
    pub async fn exists(&mut self, rel: Relation, at: Lsn, since: Lsn) -> Result<bool, Error> {
        match self.exchange(Query::Exists(rel), at, since).await? {
            Answer::Exists(exists) => Ok(exists),
            _ => Err(Error::Mismatch),
        }
    }

    /// Size of a relation fork in blocks.
    pub async fn nblocks(&mut self, rel: Relation, at: Lsn, since: Lsn) -> Result<u32, Error> {
        match self.exchange(Query::Nblocks(rel), at, since).await? {
            Answer::Nblocks(blocks) => Ok(blocks),
            _ => Err(Error::Mismatch),
        }
    }

    /// One page.
    pub async fn page(
        &mut self,
        rel: Relation,
        block: u32,
        at: Lsn,
        since: Lsn,
    ) -> Result<Page, Error> {
        match self
            .exchange(Query::GetPage { rel, block }, at, since)
            .await?
        {
            Answer::Page(page) => boxed(page),
            _ => Err(Error::Mismatch),
        }
    }

    /// Size of a database in bytes.
    pub async fn db_size(&mut self, db: u32, at: Lsn, since: Lsn) -> Result<i64, Error> {
        match self.exchange(Query::DbSize { db }, at, since).await? {
            Answer::DbSize(bytes) => Ok(bytes),
            _ => Err(Error::Mismatch),
        }
    }

    /// All pages of an SLRU segment.
    pub async fn slru_segment(
        &mut self,
        kind: u8,
        segment: u32,
        at: Lsn,
        since: Lsn,
    ) -> Result<Bytes, Error> {
        match self
            .exchange(Query::GetSlruSegment { kind, segment }, at, since)
            .await?
        {
            Answer::SlruSegment(pages) => Ok(Bytes::copy_from_slice(pages)),
            _ => Err(Error::Mismatch),
        }
    }

    /// Many pages with at most `depth` requests under way (0 counts as 1), in the order asked.
    /// A page that failed for good is an `Err` in its place.
    pub async fn pages(
        &mut self,
        asked: &[(Relation, u32)],
        at: Lsn,
        since: Lsn,
        depth: usize,
    ) -> Result<Vec<Result<Page, String>>, Error> {
        if !self.pending.is_empty() {
            return Err(Error::Unexpected("responses under way"));
        }
        let mut pages = Vec::with_capacity(asked.len());
        let mut rest = asked.iter();
        while pages.len() < asked.len() {
            let room = depth.max(1).saturating_sub(self.pending.len());
            for &(rel, block) in rest.by_ref().take(room) {
                self.ask(Query::GetPage { rel, block }, at, since);
            }
            self.flush().await?;
            pages.push(match self.receive().await? {
                (_, Answer::Page(page)) => Ok(boxed(page)?),
                (_, Answer::Error(text)) => Err(text.into_owned()),
                _ => return Err(Error::Mismatch),
            });
        }
        Ok(pages)
    }

    /// Closes the sending side; responses to what was sent still come.
    pub async fn half_close(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.connection.io.shutdown().await?;
        Ok(())
    }

    /// Says goodbye. Responses under way are lost.
    pub async fn close(mut self) -> Result<(), Error> {
        Frontend::Terminate.encode(&mut self.connection.output);
        self.flush().await?;
        self.connection.io.shutdown().await?;
        Ok(())
    }

    /// Returns to commands after the server ended the stream with an error.
    pub async fn into_connection(mut self) -> Result<Connection<S>, Error> {
        loop {
            let message = self.connection.message().await?;
            match message.decode()? {
                Backend::ReadyForQuery => return Ok(self.connection),
                Backend::CopyData(_) | Backend::ErrorResponse(_) => {}
                _ => return Err(Error::Unexpected("the end of a pagestream")),
            }
        }
    }
}

fn boxed(page: &[u8; PAGE_SIZE]) -> Result<Page, Error> {
    Box::<[u8]>::from(page.as_slice())
        .try_into()
        .map_err(|_| Error::Mismatch)
}

#[cfg(test)]
impl<S: AsyncRead + AsyncWrite + Unpin> PageStream<S> {
    /// What is to be sent, for tests that send what a client would not.
    pub(crate) const fn connection_output(&mut self) -> &mut BytesMut {
        &mut self.connection.output
    }

    /// Expects a response without a request.
    pub(crate) fn ask_nothing(&mut self) {
        let header = Header {
            reqid: 0,
            request_lsn: Lsn(0),
            not_modified_since: Lsn(0),
        };
        self.pending.push_back(Request {
            header,
            query: Query::DbSize { db: 0 },
        });
    }

    /// The byte stream.
    pub(crate) fn into_io(self) -> S {
        self.connection.io
    }
}
