//! Everything before the first command: encryption requests, startup, authentication.

use super::wire::Wire;
use super::{Authentication, Closed, Config, Failure, Handler, Upgrade};
use crate::backend;
use crate::error::{Error, INTERNAL_ERROR};
use crate::frontend::Frontend;
use crate::startup::{MAX_LENGTH, Packet, Startup};
use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Encryption requests answered before the client has to start.
const MAX_NEGOTIATIONS: usize = 4;

/// A byte stream behind its startup packet, with what was read behind it.
pub(super) struct Opened<S> {
    pub(super) io: S,
    pub(super) input: BytesMut,
    pub(super) startup: Startup,
}

pub(super) enum Negotiated<S, E> {
    Plain(Opened<S>),
    Encrypted(Opened<E>),
    Done(Closed),
}

/// The next startup packet, or `None` if the peer left before sending one.
async fn packet<S: AsyncRead + Unpin>(
    io: &mut S,
    input: &mut BytesMut,
) -> Result<Option<Packet>, Failure> {
    loop {
        if let Some((packet, size)) = Packet::decode(input)? {
            drop(input.split_to(size));
            return Ok(Some(packet));
        }
        input.reserve(MAX_LENGTH);
        if io.read_buf(input).await? == 0 {
            return if input.is_empty() {
                Ok(None)
            } else {
                Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()))
            };
        }
    }
}

async fn reply<S: AsyncWrite + Unpin>(io: &mut S, bytes: &[u8]) -> Result<(), Failure> {
    io.write_all(bytes).await?;
    io.flush().await?;
    Ok(())
}

/// Answers encryption requests until the client starts.
pub(super) async fn negotiate<S, U>(
    mut io: S,
    tls: Option<&U>,
) -> Result<Negotiated<S, U::Stream>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    U: Upgrade<S>,
{
    let mut input = BytesMut::new();
    for _ in 0..MAX_NEGOTIATIONS {
        match (packet(&mut io, &mut input).await?, tls) {
            (None, _) => return Ok(Negotiated::Done(Closed::Eof)),
            (Some(Packet::Cancel), _) => return Ok(Negotiated::Done(Closed::CancelRequest)),
            (Some(Packet::Gss), _) | (Some(Packet::Ssl), None) => reply(&mut io, b"N").await?,
            (Some(Packet::Ssl), Some(upgrade)) => {
                if !input.is_empty() {
                    return Err(Failure::BytesBeforeTls(input.len()));
                }
                reply(&mut io, b"S").await?;
                return encrypted(upgrade.upgrade(io).await?).await;
            }
            (Some(Packet::Startup(startup)), None) => {
                return Ok(Negotiated::Plain(Opened { io, input, startup }));
            }
            (Some(Packet::Startup(_)), Some(_)) => {
                let mut out = BytesMut::new();
                backend::error_response(&mut out, INTERNAL_ERROR, "must connect with TLS");
                reply(&mut io, &out).await?;
                return Err(Failure::TlsRequired);
            }
        }
    }
    Err(Failure::Negotiation)
}

async fn encrypted<S, E>(mut io: E) -> Result<Negotiated<S, E>, Failure>
where
    E: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut input = BytesMut::new();
    for _ in 0..MAX_NEGOTIATIONS {
        match packet(&mut io, &mut input).await? {
            None => return Ok(Negotiated::Done(Closed::Eof)),
            Some(Packet::Cancel) => return Ok(Negotiated::Done(Closed::CancelRequest)),
            Some(Packet::Gss | Packet::Ssl) => reply(&mut io, b"N").await?,
            Some(Packet::Startup(startup)) => {
                return Ok(Negotiated::Encrypted(Opened { io, input, startup }));
            }
        }
    }
    Err(Failure::Negotiation)
}

/// Asks for a token if the handler wants one, and greets the client. `None` if the client left.
pub(super) async fn authenticate<S, H>(
    wire: &mut Wire<S>,
    startup: &Startup,
    handler: &H,
    config: &Config,
) -> Result<Option<H::Session>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    let admitted = match handler.authentication() {
        Authentication::Trust => handler.authenticate(startup, None).await,
        Authentication::Token => {
            backend::authentication_cleartext(&mut wire.output);
            wire.flush().await?;
            let Some(message) = wire.message(config.max_message).await? else {
                return Ok(None);
            };
            let token = match message.decode()? {
                Frontend::Password(token) => token,
                Frontend::Terminate => return Ok(None),
                _ => {
                    let phase = "where a password is expected";
                    return Err(Failure::OutOfPlace {
                        tag: message.tag,
                        phase,
                    });
                }
            };
            match std::str::from_utf8(token) {
                Ok(token) => handler.authenticate(startup, Some(token)).await,
                Err(_) => Err(Error::internal("jwt response is not UTF-8")),
            }
        }
    };
    let session = match admitted {
        Ok(session) => session,
        Err(error) => {
            tokio::time::sleep(config.refusal_pause).await;
            backend::error_response(&mut wire.output, error.sqlstate(), &error.simple_text());
            wire.flush().await?;
            return Err(Failure::Authentication(error));
        }
    };
    let out = &mut wire.output;
    backend::authentication_ok(out);
    backend::parameter_status(out, "client_encoding", "UTF8");
    if handler.authentication() == Authentication::Trust {
        backend::parameter_status(out, "integer_datetimes", "on");
        backend::parameter_status(out, "server_version", "14.1");
    }
    backend::ready_for_query(out);
    wire.flush().await?;
    Ok(Some(session))
}
