//! The command loop: simple and extended queries, and what each command answers.

use super::handshake::{self, Opened};
use super::stream::{self, StreamEnd};
use super::wire::{Input, Interrupt, Wire, send, slim};
use super::{Closed, Config, CopyOut, Failure, Handler};
use crate::backend;
use crate::command::{Command, LeaseLsn};
use crate::error::{Error, PROTOCOL_VIOLATION};
use crate::frame;
use crate::frontend::Frontend;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Replies gathered before they are written although more messages wait, in bytes.
const MAX_GATHERED: usize = 16 << 10;

/// How a command was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Simple,
    Extended,
}

/// Why a command did not end well.
enum Stop {
    /// It failed; the error is still to be sent.
    Failed(Error),
    /// It failed with its own kind of text; ReadyForQuery follows in any case.
    Reported,
    /// The connection ends, with nothing left to say.
    Closed(Closed),
    /// The connection ends with this error.
    Fatal(Error, Closed),
    /// The connection broke.
    Broken(Failure),
}

impl From<Interrupt> for Stop {
    fn from(interrupt: Interrupt) -> Stop {
        match interrupt {
            Interrupt::Stopping => Stop::Fatal(Error::Shutdown, Closed::ServerStopping),
            Interrupt::Abandoned => Stop::Closed(Closed::Abandoned),
            Interrupt::Broken(error) => Stop::Broken(error.into()),
        }
    }
}

/// What follows a message.
enum Next {
    Continue,
    Close(Closed),
}

/// Serves a connection from its startup packet to its end.
pub(super) async fn run<S, H>(
    opened: Opened<S>,
    handler: &H,
    config: &Config,
    stop: &CancellationToken,
    deadline: Instant,
) -> Result<Closed, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    let Opened { io, input, startup } = opened;
    let mut wire = Wire::new(io, input);
    let login = handshake::authenticate(&mut wire, &startup, handler, config);
    let session = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Closed::ServerStopping),
        done = tokio::time::timeout_at(deadline, login) => match done {
            Ok(done) => done?,
            Err(_) => return Ok(Closed::Idle),
        },
    };
    let Some(session) = session else {
        return Ok(Closed::Eof);
    };
    let mut loop_ = Commands {
        wire,
        handler,
        session,
        config,
        stop,
        statement: None,
        skipping: false,
    };
    loop_.run().await
}

struct Commands<'a, S, H: Handler> {
    wire: Wire<S>,
    handler: &'a H,
    session: H::Session,
    config: &'a Config,
    stop: &'a CancellationToken,
    /// The text of the last Parse.
    statement: Option<BytesMut>,
    /// True after a failed Execute: everything up to Sync is skipped.
    skipping: bool,
}

impl<S, H> Commands<'_, S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: Handler,
{
    async fn run(&mut self) -> Result<Closed, Failure> {
        loop {
            let message = match self.wire.input.take(self.config.max_message) {
                Ok(message) => message,
                Err(error) => return Err(self.violation(error).await),
            };
            let gathered = self.wire.output.len() > MAX_GATHERED;
            if (message.is_none() || gathered) && !self.wire.output.is_empty() {
                let Wire {
                    input,
                    writer,
                    output,
                } = &mut self.wire;
                match input
                    .attend(send(writer, output), self.config, self.stop)
                    .await
                {
                    Ok(sent) => sent?,
                    Err(Interrupt::Stopping) => return Ok(Closed::ServerStopping),
                    Err(Interrupt::Abandoned) => return Ok(Closed::Abandoned),
                    Err(Interrupt::Broken(error)) => return Err(error.into()),
                }
                if message.is_none() {
                    continue;
                }
            }
            let Some(message) = message else {
                if self.wire.input.eof {
                    return Ok(Closed::Eof);
                }
                self.wire.slim();
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Ok(Closed::ServerStopping),
                    read = tokio::time::timeout(self.config.idle_timeout, self.wire.input.fill()) => {
                        match read {
                            Ok(read) => read?,
                            Err(_) => return Ok(Closed::Idle),
                        }
                    }
                }
                continue;
            };
            match self.message(message.tag, message.decode()?).await? {
                Next::Continue => {}
                Next::Close(closed) => return Ok(closed),
            }
        }
    }

    /// Tells the peer of a message beyond the limits. Other violations end the connection
    /// without a word.
    async fn violation(&mut self, error: frame::Error) -> Failure {
        if matches!(error, frame::Error::Oversize { .. }) {
            backend::error_response(
                &mut self.wire.output,
                PROTOCOL_VIOLATION,
                &error.to_string(),
            );
        }
        self.last_words().await;
        error.into()
    }

    async fn last_words(&mut self) {
        let flush = self.wire.flush();
        // The connection ends either way; who cannot be told is not told.
        drop(tokio::time::timeout(self.config.shutdown_flush, flush).await);
    }

    async fn message(&mut self, tag: u8, message: Frontend<'_>) -> Result<Next, Failure> {
        let out = &mut self.wire.output;
        match message {
            Frontend::Query(text) => {
                self.skipping = false;
                return self.execute(text, Form::Simple).await;
            }
            Frontend::Sync => {
                self.skipping = false;
                backend::ready_for_query(out);
            }
            Frontend::Terminate => {
                self.last_words().await;
                return Ok(Next::Close(Closed::Terminated));
            }
            Frontend::Parse(_)
            | Frontend::Describe
            | Frontend::Bind
            | Frontend::Execute
            | Frontend::Close
                if self.skipping => {}
            Frontend::Parse(text) => {
                self.statement = Some(BytesMut::from(text));
                backend::parse_complete(out);
            }
            Frontend::Describe => backend::no_description(out),
            Frontend::Bind => backend::bind_complete(out),
            Frontend::Close => backend::close_complete(out),
            Frontend::Execute => {
                let text = self.statement.clone().unwrap_or_default();
                return self.execute(&text, Form::Extended).await;
            }
            Frontend::CopyData(_)
            | Frontend::CopyDone
            | Frontend::CopyFail(_)
            | Frontend::Password(_) => {
                self.last_words().await;
                return Err(Failure::OutOfPlace {
                    tag,
                    phase: "outside of a copy",
                });
            }
        }
        Ok(Next::Continue)
    }

    async fn execute(&mut self, text: &[u8], form: Form) -> Result<Next, Failure> {
        match self.command(text).await {
            Ok(()) => {}
            Err(Stop::Reported) => self.skipping = form == Form::Extended,
            Err(Stop::Failed(error)) => {
                if error.invites_retry() {
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(self.config.refusal_pause) => {}
                    }
                }
                let text = match form {
                    Form::Simple => error.simple_text(),
                    Form::Extended => error.extended_text(),
                };
                backend::error_response(&mut self.wire.output, error.sqlstate(), &text);
                if form == Form::Simple && error.ends_connection() {
                    self.last_words().await;
                    return Ok(Next::Close(Closed::SentAway));
                }
                self.skipping = form == Form::Extended;
            }
            Err(Stop::Fatal(error, closed)) => {
                let text = error.simple_text();
                backend::error_response(&mut self.wire.output, error.sqlstate(), &text);
                self.last_words().await;
                return Ok(Next::Close(closed));
            }
            Err(Stop::Closed(closed)) => {
                if form == Form::Simple {
                    backend::ready_for_query(&mut self.wire.output);
                }
                self.last_words().await;
                return Ok(Next::Close(closed));
            }
            Err(Stop::Broken(failure)) => {
                self.last_words().await;
                return Err(failure);
            }
        }
        if form == Form::Simple {
            backend::ready_for_query(&mut self.wire.output);
        }
        Ok(Next::Continue)
    }

    async fn command(&mut self, text: &[u8]) -> Result<(), Stop> {
        let command = std::str::from_utf8(text)
            .map_err(|_| Error::internal("cannot parse query: it is not UTF-8"))
            .and_then(|text| text.parse::<Command>().map_err(|e| Error::chain(&e)))
            .map_err(Stop::Failed)?;
        if let Some(tenant) = command.tenant() {
            self.handler
                .authorize(&self.session, tenant)
                .map_err(Stop::Failed)?;
        }
        let Self {
            wire:
                Wire {
                    input,
                    writer,
                    output,
                },
            handler,
            session,
            config,
            stop,
            ..
        } = self;
        match command {
            Command::Set => {
                backend::command_complete(output);
                Ok(())
            }
            Command::PageStream(command) => {
                let opening = handler.open_stream(session, &command);
                let opened = input.attend(opening, config, stop).await?;
                let mut pages = opened.map_err(Stop::Failed)?;
                backend::copy_both_response(output);
                match stream::run(
                    input,
                    writer,
                    output,
                    &mut pages,
                    command.version,
                    config,
                    stop,
                )
                .await
                {
                    StreamEnd::Terminated => Err(Stop::Closed(Closed::Terminated)),
                    StreamEnd::Eof => Err(Stop::Closed(Closed::Eof)),
                    StreamEnd::Idle => {
                        let text = "timed out";
                        backend::error_response(output, crate::error::CONNECTION_FAILURE, text);
                        Err(Stop::Closed(Closed::Idle))
                    }
                    StreamEnd::Failed(error) => Err(Stop::Failed(error)),
                    StreamEnd::Violation(error) => {
                        if matches!(error, frame::Error::Oversize { .. }) {
                            let text = error.to_string();
                            backend::error_response(output, PROTOCOL_VIOLATION, &text);
                        }
                        Err(Stop::Broken(error.into()))
                    }
                    StreamEnd::Interrupted(interrupt) => Err(interrupt.into()),
                    StreamEnd::Io(error) => Err(Stop::Broken(error.into())),
                }
            }
            Command::BaseBackup(command) => {
                let mut out = CopyOut::new(writer, output, config.copy_chunk);
                let work = handler.base_backup(session, &command, &mut out);
                let done = input.attend(work, config, stop).await;
                finish_copy(out, done).await?;
                after_copy(input, writer, output, config, stop).await
            }
            Command::FullBackup(command) => {
                let mut out = CopyOut::new(writer, output, config.copy_chunk);
                let work = handler.full_backup(session, &command, &mut out);
                let done = input.attend(work, config, stop).await;
                finish_copy(out, done).await?;
                after_copy(input, writer, output, config, stop).await
            }
            Command::LeaseLsn(command) => self.lease(&command).await,
        }
    }

    async fn lease(&mut self, command: &LeaseLsn) -> Result<(), Stop> {
        let Wire { input, output, .. } = &mut self.wire;
        let work = self.handler.lease_lsn(&self.session, command);
        match input.attend(work, self.config, self.stop).await? {
            Ok(until) => {
                let text = until.map(|millis| millis.to_string());
                backend::row_description(output, &["valid_until"]);
                backend::data_row(output, &[text.as_deref().map(str::as_bytes)]);
                backend::command_complete(output);
                Ok(())
            }
            Err(error) => {
                backend::error_response(output, error.sqlstate(), &error.extended_text());
                Err(Stop::Reported)
            }
        }
    }
}

/// Turns the outcome of a backup into the end of its copy stream.
async fn finish_copy(
    mut out: CopyOut<'_>,
    done: Result<Result<(), Error>, Interrupt>,
) -> Result<(), Stop> {
    let done = match done {
        Ok(Ok(())) => match out.complete().await {
            Ok(()) => return Ok(()),
            Err(error) => Stop::Failed(error),
        },
        Ok(Err(error)) => Stop::Failed(error),
        Err(interrupt) => interrupt.into(),
    };
    match out.abort() {
        Some(broken) => Err(Stop::Broken(broken.into())),
        None => Err(done),
    }
}

/// Writes the end of a copy and completes its command.
async fn after_copy<S: AsyncRead + AsyncWrite>(
    input: &mut Input<S>,
    writer: &mut WriteHalf<S>,
    output: &mut BytesMut,
    config: &Config,
    stop: &CancellationToken,
) -> Result<(), Stop> {
    backend::command_complete(output);
    match input.attend(send(writer, output), config, stop).await? {
        Ok(()) => {
            slim(output);
            Ok(())
        }
        Err(error) => Err(Stop::Broken(error.into())),
    }
}
