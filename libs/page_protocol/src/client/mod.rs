//! A client of the page service, for tests, benchmarks and tools.
//!
//! One [`Connection`] runs one command at a time; [`Connection::page_stream`] turns it into a
//! [`PageStream`]. Nothing is retried and there are no time-outs of its own.

mod copy;
mod pages;

pub use copy::CopyStream;
pub use pages::{Page, PageStream};

use crate::backend::{Backend, Report};
use crate::command::{BaseBackup, Command, FullBackup, LeaseLsn};
use crate::frame::{self, HEAD_SIZE, MAX_BACKEND_LENGTH};
use crate::frontend::Frontend;
use crate::message::{DecodeError, Version};
use crate::startup::{PROTOCOL_3_0, Packet, Startup};
use bytes::{Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use types::{TenantId, TimelineId};

/// Rows and parameters kept of one reply; more is an error.
const MAX_KEPT: usize = 10_000;
/// Room made for each read, in bytes.
const READ_SIZE: usize = 32 << 10;

/// Why a call failed. After all but [`Error::Server`] in reply to a command and
/// [`Error::Page`] the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The byte stream failed or ended.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server sent an ErrorResponse.
    #[error("server error {}: {}", .0.sqlstate, .0.message)]
    Server(Report),
    /// The server answered one request of a pagestream with an error.
    #[error("page request failed: {0}")]
    Page(String),
    /// A message is not of the protocol.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// A pagestream message is not of the protocol.
    #[error(transparent)]
    Message(#[from] DecodeError),
    /// A message is out of place.
    #[error("unexpected message while waiting for {0}")]
    Unexpected(&'static str),
    /// A response does not belong to the request whose turn it is.
    #[error("response does not match its request")]
    Mismatch,
    /// The server wants a token and none was given.
    #[error("server wants a token")]
    TokenWanted,
    /// The server wants an authentication method that is not supported.
    #[error("unsupported authentication method {0}")]
    Authentication(u32),
    /// A reply is larger than the client keeps.
    #[error("reply too large")]
    TooLarge,
    /// A response was awaited although no request is under way.
    #[error("no request is under way")]
    NothingPending,
}

/// What a client says of itself.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Startup parameters.
    pub parameters: Vec<(String, String)>,
    /// Token sent if the server asks for one.
    pub token: Option<String>,
}

/// Which messages carry a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One Query.
    Simple,
    /// Parse, Describe, Sync, then Bind, Execute, Sync, as launchers do.
    Extended,
}

/// Rows of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<String>,
    /// Values; `None` is NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// The tag of completion, if the command completed.
    pub tag: Option<String>,
}

/// A connection that awaits commands.
#[derive(Debug)]
pub struct Connection<S> {
    io: S,
    input: BytesMut,
    output: BytesMut,
    parameters: Vec<(String, String)>,
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message {
    tag: u8,
    bytes: BytesMut,
}

impl Message {
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(HEAD_SIZE..).unwrap_or_default()
    }

    pub(crate) fn decode(&self) -> Result<Backend<'_>, frame::Error> {
        Backend::decode(self.tag, self.body())
    }
}

impl Connection<TcpStream> {
    /// Connects in clear over TCP.
    pub async fn connect(address: impl ToSocketAddrs, options: &Options) -> Result<Self, Error> {
        let io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        Self::handshake(io, options).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Starts and authenticates over a byte stream.
    pub async fn handshake(io: S, options: &Options) -> Result<Self, Error> {
        let mut this = Connection {
            io,
            input: BytesMut::new(),
            output: BytesMut::new(),
            parameters: Vec::new(),
        };
        let parameters = options.parameters.clone();
        let startup = Startup {
            version: PROTOCOL_3_0,
            parameters,
        };
        Packet::Startup(startup).encode(&mut this.output);
        this.flush().await?;
        loop {
            let message = this.message().await?;
            match message.decode()? {
                Backend::AuthenticationOk | Backend::BackendKeyData => {}
                Backend::NoticeResponse(_) => {}
                Backend::AuthenticationCleartext => {
                    let token = options.token.as_deref().ok_or(Error::TokenWanted)?;
                    Frontend::Password(token.as_bytes()).encode(&mut this.output);
                    this.flush().await?;
                }
                Backend::AuthenticationOther(method) => return Err(Error::Authentication(method)),
                Backend::ParameterStatus(name, value) => {
                    if this.parameters.len() >= MAX_KEPT {
                        return Err(Error::TooLarge);
                    }
                    this.parameters
                        .push((name.into_owned(), value.into_owned()));
                }
                Backend::ErrorResponse(report) => return Err(Error::Server(report)),
                Backend::ReadyForQuery => return Ok(this),
                _ => return Err(Error::Unexpected("the end of startup")),
            }
        }
    }

    /// Settings the server announced, in its order.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Runs any command that answers with rows or nothing.
    pub async fn query(&mut self, text: &str, form: Form) -> Result<Rows, Error> {
        self.send_command(text, form).await?;
        let mut rows = Rows::default();
        let mut failed = None;
        loop {
            let message = match self.message().await {
                Ok(message) => message,
                // A server may close right behind its error.
                Err(error) => return Err(failed.map_or(error, Error::Server)),
            };
            match message.decode()? {
                Backend::RowDescription(columns) => {
                    rows.columns = columns.into_iter().map(|c| c.into_owned()).collect();
                }
                Backend::DataRow(values) => {
                    if rows.rows.len() >= MAX_KEPT {
                        return Err(Error::TooLarge);
                    }
                    let values = values.into_iter().map(|v| v.map(Bytes::copy_from_slice));
                    rows.rows.push(values.collect());
                }
                Backend::CommandComplete(tag) => rows.tag = Some(tag.into_owned()),
                Backend::ErrorResponse(report) => failed = Some(report),
                Backend::ReadyForQuery => {
                    return failed.map_or(Ok(rows), |r| Err(Error::Server(r)));
                }
                Backend::NoticeResponse(_)
                | Backend::EmptyQuery
                | Backend::ParameterStatus(..)
                | Backend::BindComplete
                | Backend::NoData
                | Backend::ParameterDescription => {}
                _ => return Err(Error::Unexpected("the end of a command")),
            }
        }
    }

    /// Leases a position. Returns until when, in milliseconds of Unix time, or `None` if it was
    /// refused.
    pub async fn lease_lsn(&mut self, command: &LeaseLsn) -> Result<Option<u64>, Error> {
        let text = Command::LeaseLsn(*command).to_string();
        let rows = self.query(&text, Form::Simple).await?;
        let value = rows.rows.first().and_then(|row| row.first());
        match value.ok_or(Error::Unexpected("a lease"))? {
            None => Ok(None),
            Some(digits) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .map(Some)
                .ok_or(Error::Unexpected("a lease")),
        }
    }

    /// Asks for a base backup: a tar, compressed if the command says so.
    pub async fn base_backup(
        &mut self,
        command: &BaseBackup,
        form: Form,
    ) -> Result<CopyStream<'_, S>, Error> {
        self.copy_out(&Command::BaseBackup(*command).to_string(), form)
            .await
    }

    /// Asks for a full backup: a tar.
    pub async fn full_backup(
        &mut self,
        command: &FullBackup,
        form: Form,
    ) -> Result<CopyStream<'_, S>, Error> {
        self.copy_out(&Command::FullBackup(*command).to_string(), form)
            .await
    }

    /// Runs any command that answers with a copy stream.
    pub async fn copy_out(&mut self, text: &str, form: Form) -> Result<CopyStream<'_, S>, Error> {
        self.send_command(text, form).await?;
        loop {
            let message = self.message().await?;
            match message.decode()? {
                Backend::CopyOut => return Ok(CopyStream::new(self)),
                Backend::ErrorResponse(report) => return Err(self.failed(report).await),
                Backend::NoticeResponse(_) | Backend::BindComplete => {}
                _ => return Err(Error::Unexpected("a copy")),
            }
        }
    }

    /// Opens a pagestream. The connection serves nothing else from then on.
    pub async fn page_stream(
        mut self,
        version: Version,
        tenant: TenantId,
        timeline: TimelineId,
    ) -> Result<PageStream<S>, Error> {
        let command = crate::command::PageStream {
            version,
            tenant,
            timeline,
        };
        let text = Command::PageStream(command).to_string();
        self.send_command(&text, Form::Simple).await?;
        loop {
            let message = self.message().await?;
            match message.decode()? {
                Backend::CopyBoth => return Ok(PageStream::new(self, version)),
                Backend::ErrorResponse(report) => return Err(self.failed(report).await),
                Backend::NoticeResponse(_) => {}
                _ => return Err(Error::Unexpected("a pagestream")),
            }
        }
    }

    /// Says goodbye and closes.
    pub async fn close(mut self) -> Result<(), Error> {
        Frontend::Terminate.encode(&mut self.output);
        self.flush().await?;
        self.io.shutdown().await?;
        Ok(())
    }

    async fn send_command(&mut self, text: &str, form: Form) -> Result<(), Error> {
        let text = text.as_bytes();
        match form {
            Form::Simple => Frontend::Query(text).encode(&mut self.output),
            Form::Extended => {
                for message in [Frontend::Parse(text), Frontend::Describe, Frontend::Sync] {
                    message.encode(&mut self.output);
                }
                self.flush().await?;
                self.prepared().await?;
                for message in [Frontend::Bind, Frontend::Execute, Frontend::Sync] {
                    message.encode(&mut self.output);
                }
            }
        }
        self.flush().await
    }

    async fn prepared(&mut self) -> Result<(), Error> {
        loop {
            let message = self.message().await?;
            match message.decode()? {
                Backend::ParseComplete
                | Backend::ParameterDescription
                | Backend::NoData
                | Backend::NoticeResponse(_) => {}
                Backend::ReadyForQuery => return Ok(()),
                Backend::ErrorResponse(report) => return Err(self.failed(report).await),
                _ => return Err(Error::Unexpected("a prepared statement")),
            }
        }
    }

    /// The error, once the server is ready again or gone.
    async fn failed(&mut self, report: Report) -> Error {
        while let Ok(message) = self.message().await {
            if matches!(message.decode(), Ok(Backend::ReadyForQuery)) {
                break;
            }
        }
        Error::Server(report)
    }

    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        self.io.write_all_buf(&mut self.output).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// The next message, if it is already here.
    pub(crate) fn buffered(&mut self) -> Result<Option<Message>, Error> {
        let Some(head) = frame::peek(&self.input, MAX_BACKEND_LENGTH)? else {
            return Ok(None);
        };
        if head.total > self.input.len() {
            let missing = head.total.saturating_sub(self.input.len());
            self.input.reserve(missing.max(READ_SIZE));
            return Ok(None);
        }
        Ok(Some(Message {
            tag: head.tag,
            bytes: self.input.split_to(head.total),
        }))
    }

    pub(crate) async fn fill(&mut self) -> Result<(), Error> {
        self.input.reserve(READ_SIZE);
        match self.io.read_buf(&mut self.input).await? {
            0 => Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    pub(crate) async fn message(&mut self) -> Result<Message, Error> {
        loop {
            match self.buffered()? {
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }
}
