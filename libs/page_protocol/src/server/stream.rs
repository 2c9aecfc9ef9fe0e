//! The inside of a pagestream: requests in, batches to the handler, responses out.
//!
//! Three things go on at once: the responses of a batch are written while the next batch is
//! worked on, and input is read ahead meanwhile. At most two batches of responses exist.

use super::responses::Responses;
use super::wire::{Input, Interrupt, send, slim};
use super::{Config, PageStream};
use crate::error::Error;
use crate::frame;
use crate::frontend;
use crate::message::{Request, Version};
use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio_util::sync::CancellationToken;

/// How a stream came to its end. Whatever is left in the output goes before.
pub(super) enum StreamEnd {
    /// The client left.
    Terminated,
    /// The client closed its sending side.
    Eof,
    /// The client was silent for too long.
    Idle,
    /// A request or the handler failed it.
    Failed(Error),
    /// A message is not of this protocol.
    Violation(frame::Error),
    /// The server stops, or the peer is gone.
    Interrupted(Interrupt),
    /// Reading or writing failed.
    Io(io::Error),
}

/// What is at the front of the input.
enum Front {
    /// Requests, to be handled together.
    Batch,
    /// Nothing whole.
    Incomplete,
    /// The end.
    End(StreamEnd),
}

/// Takes whole requests that may be handled together off the input.
fn gather<S: AsyncRead>(
    input: &mut Input<S>,
    version: Version,
    config: &Config,
    batch: &mut Vec<Request>,
) -> Front {
    batch.clear();
    let front = loop {
        let (head, body) = match input.split(config.max_message) {
            Ok(Some(message)) => message,
            Ok(None) => break Front::Incomplete,
            Err(error) => break Front::End(StreamEnd::Violation(error)),
        };
        match head.tag {
            b'd' => {}
            b'X' => break Front::End(StreamEnd::Terminated),
            tag => {
                let name = frontend::name(tag).unwrap_or("?");
                let text = format!("unexpected message: {name} during COPY");
                if !batch.is_empty() {
                    break Front::Batch;
                }
                input.consume(head.total);
                break Front::End(StreamEnd::Failed(Error::internal(text)));
            }
        }
        match Request::decode(version, body) {
            Ok(request) if batch.is_empty() || request.is_get_page() => {
                input.consume(head.total);
                let alone = !request.is_get_page();
                batch.push(request);
                if alone || batch.len() >= config.max_batch.max(1) {
                    break Front::Batch;
                }
            }
            Ok(_) => break Front::Batch,
            Err(_) if !batch.is_empty() => break Front::Batch,
            Err(error) => {
                input.consume(head.total);
                break Front::End(StreamEnd::Failed(Error::internal(error.to_string())));
            }
        }
    };
    if batch.is_empty() {
        front
    } else {
        Front::Batch
    }
}

/// Runs a stream to its end. `output` may hold bytes that go first; at the end it holds what
/// was not written.
pub(super) async fn run<S, P>(
    input: &mut Input<S>,
    writer: &mut WriteHalf<S>,
    output: &mut BytesMut,
    pages: &mut P,
    version: Version,
    config: &Config,
    stop: &CancellationToken,
) -> StreamEnd
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    P: PageStream,
{
    let mut batch = Vec::new();
    let mut answers = BytesMut::new();
    loop {
        match gather(input, version, config, &mut batch) {
            Front::Batch => {
                let work = async {
                    let mut out = Responses::new(version, &batch, &mut answers);
                    let handling = async {
                        let done = pages.handle(&batch, &mut out).await;
                        (done, out.answered())
                    };
                    tokio::join!(send(writer, output), handling)
                };
                let (sent, (done, answered)) = match input.attend(work, config, stop).await {
                    Ok(done) => done,
                    // The answers of an interrupted batch may end inside a page.
                    Err(interrupt) => return StreamEnd::Interrupted(interrupt),
                };
                if let Err(error) = sent {
                    return StreamEnd::Io(error);
                }
                std::mem::swap(output, &mut answers);
                answers.clear();
                if let Err(error) = done {
                    return StreamEnd::Failed(error);
                }
                if answered != batch.len() {
                    let text = format!("{answered} of {} requests answered", batch.len());
                    return StreamEnd::Failed(Error::internal(text));
                }
            }
            Front::Incomplete if !output.is_empty() => {
                match input.attend(send(writer, output), config, stop).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return StreamEnd::Io(error),
                    Err(interrupt) => return StreamEnd::Interrupted(interrupt),
                }
            }
            Front::Incomplete if input.eof => return StreamEnd::Eof,
            Front::Incomplete => {
                for buf in [&mut *output, &mut answers, &mut input.buf] {
                    slim(buf);
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return StreamEnd::Interrupted(Interrupt::Stopping),
                    read = tokio::time::timeout(config.idle_timeout, input.fill()) => match read {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return StreamEnd::Io(error),
                        Err(_) => return StreamEnd::Idle,
                    },
                }
            }
            Front::End(end) => {
                return match input.attend(send(writer, output), config, stop).await {
                    Ok(Ok(())) => end,
                    Ok(Err(error)) => StreamEnd::Io(error),
                    Err(interrupt) => StreamEnd::Interrupted(interrupt),
                };
            }
        }
    }
}
