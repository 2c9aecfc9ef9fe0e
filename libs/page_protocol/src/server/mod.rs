//! Drives one connection: startup, authentication, commands, pagestreams, backups.
//!
//! [`serve`] takes any byte stream and a [`Handler`], which knows tenants and pages. The driver
//! keeps the order of responses, reads ahead while the handler works and while responses are
//! being written, and bounds everything a peer can make it hold: one message, the bytes read
//! ahead, a batch of requests and two batches of responses.
//!
//! While a handler works the driver watches the peer: a broken connection or a stopping server
//! drops the handler's future, a closed sending side does so after
//! [`Config::half_close_grace`]. Handlers therefore have to be cancel-safe.
//!
//! It does not listen, log or count; [`serve`] returns how the connection ended.

mod commands;
mod copy_out;
mod handshake;
mod responses;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

pub use copy_out::CopyOut;
pub use responses::{Misuse, Pages, Responses};

use crate::command::{BaseBackup, FullBackup, LeaseLsn, PageStream as OpenStream};
use crate::error::Error;
use crate::message::Request;
use crate::startup::Startup;
use crate::{frame, startup};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use types::TenantId;

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// They need not.
    Trust,
    /// With a token, sent as a password in clear text.
    Token,
}

/// What the driver asks of the page server. Futures may be dropped at any await point.
pub trait Handler: Send + Sync {
    /// What is known of an authenticated client.
    type Session: Send + Sync;
    /// An open pagestream.
    type Stream: PageStream;

    /// Whether clients need a token.
    fn authentication(&self) -> Authentication;

    /// Admits a client, or not. `token` is `None` exactly with [`Authentication::Trust`].
    fn authenticate(
        &self,
        startup: &Startup,
        token: Option<&str>,
    ) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    /// Whether the client may use this tenant. Called before each command about a tenant.
    fn authorize(&self, session: &Self::Session, tenant: TenantId) -> Result<(), Error>;

    /// Opens a pagestream. A tenant that is not here is better refused by the first request
    /// than here, because stock clients take any reply to the command for success.
    fn open_stream(
        &self,
        session: &Self::Session,
        command: &OpenStream,
    ) -> impl Future<Output = Result<Self::Stream, Error>> + Send;

    /// Writes a base backup as tar. An error before the first byte is a plain failure; after
    /// it, the client sees an aborted copy.
    fn base_backup(
        &self,
        session: &Self::Session,
        command: &BaseBackup,
        out: &mut CopyOut<'_>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Writes a full backup as tar; errors as in [`Handler::base_backup`].
    fn full_backup(
        &self,
        session: &Self::Session,
        command: &FullBackup,
        out: &mut CopyOut<'_>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps pages readable at a position. Returns until when, in milliseconds of Unix time, or
    /// `None` if the position can no longer be kept.
    fn lease_lsn(
        &self,
        session: &Self::Session,
        command: &LeaseLsn,
    ) -> impl Future<Output = Result<Option<u64>, Error>> + Send;
}

/// An open pagestream.
pub trait PageStream: Send {
    /// Answers all `requests`, in order, into `out`. They are either up to
    /// [`Config::max_batch`] consecutive page requests or one request of another kind.
    ///
    /// A request that fails for good gets [`Responses::error`] and does not disturb the others.
    /// An `Err` ends the stream after the answers given so far.
    fn handle(
        &mut self,
        requests: &[Request],
        out: &mut Responses<'_>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Turns a plain byte stream into an encrypted one, as server.
pub trait Upgrade<S>: Sync {
    /// The encrypted stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;
    /// Does the handshake.
    fn upgrade(&self, io: S) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Limits and time-outs of a connection.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most page requests handed over at once. Default 32; 0 counts as 1.
    pub max_batch: usize,
    /// Largest length field of a client's message, in bytes.
    /// Default [`frame::MAX_FRONTEND_LENGTH`].
    pub max_message: usize,
    /// Bytes read ahead while the handler works. Default 16 KiB.
    pub read_ahead: usize,
    /// Size of the CopyData chunks of a backup, in bytes. Default 64 KiB; at least 1 KiB.
    pub copy_chunk: usize,
    /// How long a client may be silent when it is its turn. Default 10 minutes.
    pub idle_timeout: Duration,
    /// How long startup and authentication may take. Default 30 seconds.
    pub handshake_timeout: Duration,
    /// How long work goes on for a client that has closed its sending side. Default 10 seconds.
    pub half_close_grace: Duration,
    /// Pause before a reply to which stock clients react by reconnecting without back-off.
    /// Default 50 milliseconds.
    pub refusal_pause: Duration,
    /// How long a last error may take to be written when the server stops. Default 500
    /// milliseconds.
    pub shutdown_flush: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_batch: 32,
            max_message: frame::MAX_FRONTEND_LENGTH,
            read_ahead: 16 << 10,
            copy_chunk: 64 << 10,
            idle_timeout: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(30),
            half_close_grace: Duration::from_secs(10),
            refusal_pause: Duration::from_millis(50),
            shutdown_flush: Duration::from_millis(500),
        }
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The client said goodbye.
    Terminated,
    /// The client closed its sending side.
    Eof,
    /// The client was silent for too long.
    Idle,
    /// The client wanted another connection's query cancelled.
    CancelRequest,
    /// The server is stopping.
    ServerStopping,
    /// The handler asked the client to connect again, or is stopping itself.
    SentAway,
    /// The client closed its sending side and did not get its answer within the grace.
    Abandoned,
}

/// Why a connection broke.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The byte stream failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The first bytes are not of this protocol, or ask for what is not served.
    #[error("startup failed")]
    Startup(#[from] startup::Error),
    /// A message is not of this protocol.
    #[error("protocol violation")]
    Protocol(#[from] frame::Error),
    /// A message is out of place.
    #[error("message {tag:#04x} is out of place {phase}")]
    OutOfPlace {
        /// Its type byte.
        tag: u8,
        /// Where it came.
        phase: &'static str,
    },
    /// The client did not get in.
    #[error("authentication failed: {0}")]
    Authentication(Error),
    /// The client wants to start without TLS.
    #[error("client refuses TLS")]
    TlsRequired,
    /// Bytes followed a request for TLS before it was granted.
    #[error("{0} bytes sent in clear behind SSLRequest")]
    BytesBeforeTls(usize),
    /// The client asked for encryption again and again.
    #[error("too many requests for encryption")]
    Negotiation,
}

/// Refuses TLS. Has no values.
#[derive(Debug, Clone, Copy)]
pub enum NoTls {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Upgrade<S> for NoTls {
    type Stream = S;
    async fn upgrade(&self, io: S) -> io::Result<S> {
        Ok(io)
    }
}

/// Serves a connection in clear until it ends. `stop` is the server's wish to stop.
pub async fn serve<S, H>(
    io: S,
    handler: &H,
    config: &Config,
    stop: &CancellationToken,
) -> Result<Closed, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    serve_tls::<S, H, NoTls>(io, handler, config, stop, None).await
}

/// Serves a connection until it ends. With `tls`, clients have to encrypt.
pub async fn serve_tls<S, H, U>(
    io: S,
    handler: &H,
    config: &Config,
    stop: &CancellationToken,
    tls: Option<&U>,
) -> Result<Closed, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
    U: Upgrade<S>,
{
    let deadline = tokio::time::Instant::now() + config.handshake_timeout;
    let negotiated = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Closed::ServerStopping),
        done = tokio::time::timeout_at(deadline, handshake::negotiate(io, tls)) => match done {
            Ok(done) => done?,
            Err(_) => return Ok(Closed::Idle),
        },
    };
    match negotiated {
        handshake::Negotiated::Done(closed) => Ok(closed),
        handshake::Negotiated::Plain(opened) => {
            commands::run(opened, handler, config, stop, deadline).await
        }
        handshake::Negotiated::Encrypted(opened) => {
            commands::run(opened, handler, config, stop, deadline).await
        }
    }
}
