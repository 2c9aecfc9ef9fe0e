//! Streaming WAL from a physical primary or standby.
//!
//! [`WalStream::next`] yields WAL in order and without holes (a hole is [`Error::Gap`]), and sends
//! status messages while it waits: every [`Options::status_interval`], when the server asks, and
//! when [`WalStream::report`] was given a newer position and no received message is left to hand
//! out, so that one burst of WAL costs one answer. It is cancel safe: `select!` it against
//! whatever produces new positions.
//!
//! Reported positions never go back, because a server moves a slot backwards as readily as
//! forwards. A server that is silent for half of [`Options::receive_timeout`] is asked for a sign
//! of life.
//!
//! Message layouts: "Streaming Replication Protocol" in Postgres's manual, XLogData, Primary
//! keepalive, Standby status update.

use crate::commands::check_slot_name;
use crate::connection::{Connection, row, unexpected};
use crate::error::Error;
use crate::wire::{Incoming, split_tag};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use types::Lsn;

/// Seconds from the Unix epoch to 2000-01-01, the origin of Postgres's timestamps.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// Microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub i64);

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Timestamp {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let origin = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
        Timestamp(match t.duration_since(origin) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

/// Which WAL to stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Slot that retains WAL from the reported flush position on.
    pub slot: Option<String>,
    /// First byte wanted; at most the server's flushed position.
    pub start: Lsn,
    /// Timeline of Postgres `start` lies on. Always sent: without it, a diverged history would go
    /// unnoticed.
    pub timeline: u32,
}

/// Timing of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Longest time between two status messages; keep it below half of the server's
    /// `wal_sender_timeout` (60 s by default).
    pub status_interval: Duration,
    /// Silence of the server after which the stream fails with [`Error::Timeout`].
    pub receive_timeout: Duration,
    /// Wall clock for the time in status messages.
    pub clock: fn() -> SystemTime,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            status_interval: Duration::from_secs(10),
            receive_timeout: Duration::from_secs(60),
            clock: SystemTime::now,
        }
    }
}

/// Positions to report to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Received. Releases commits that wait for `remote_write`.
    pub write: Lsn,
    /// Durable. Releases commits that wait for `on`, and moves the slot: must never exceed what
    /// survives the loss of this process. Zero leaves the slot alone.
    pub flush: Lsn,
    /// Visible to readers. Releases commits that wait for `remote_apply`.
    pub apply: Lsn,
}

impl Status {
    fn max(self, other: Status) -> Status {
        Status {
            write: self.write.max(other.write),
            flush: self.flush.max(other.flush),
            apply: self.apply.max(other.apply),
        }
    }
}

/// What comes next in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// WAL that continues the previous event's.
    XLogData {
        /// Position of the first byte.
        start: Lsn,
        /// End of the WAL the server has flushed.
        end: Lsn,
        /// When the server sent it.
        time: Timestamp,
        /// The bytes, at most 128 KiB, ending anywhere.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// End of the WAL the server has sent.
        end: Lsn,
        /// When the server sent it.
        time: Timestamp,
        /// Whether it wants an answer at once; it gets one.
        reply: bool,
    },
    /// The timeline asked for ends at the stream's position. Continue on
    /// [`WalStream::into_connection`] with the next one.
    EndOfTimeline(NextTimeline),
}

/// Where history goes on behind the end of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTimeline {
    /// The next timeline.
    pub timeline: u32,
    /// Where it starts: the switch position.
    pub start: Lsn,
}

/// Answer to a request for WAL.
#[derive(Debug)]
pub enum Started {
    /// WAL follows.
    Streaming(WalStream),
    /// The start is exactly the end of that timeline: nothing to stream.
    EndOfTimeline(NextTimeline, Connection),
}

/// A stream of WAL. Dropping it closes the connection.
#[derive(Debug)]
pub struct WalStream {
    connection: Connection,
    options: Options,
    position: Lsn,
    status: Status,
    sent: Status,
    reply_due: bool,
    last_sent: Instant,
    last_received: Instant,
    asked: bool,
    next: Option<NextTimeline>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// Both sides sent CopyDone; the row with the next timeline follows.
    Ending,
    /// ReadyForQuery was read.
    Done,
}

/// Asks for WAL. Errors: [`Error::is_history_lost`], [`Error::is_diverged`],
/// [`Error::is_slot_in_use`], [`Error::is_slot_missing`]; some of these the server raises only
/// after the stream has opened, so [`WalStream::next`] can return them as well.
pub async fn start(
    mut connection: Connection,
    request: &Request,
    options: Options,
) -> Result<Started, Error> {
    connection.send(&command(request)?)?;
    let limit = options.receive_timeout;
    let first = tokio::time::timeout(limit, connection.incoming()).await;
    let opened = match first.map_err(|_| Error::Timeout {
        what: "the start of the WAL stream",
        limit,
    })?? {
        Incoming::CopyBoth => true,
        Incoming::Message(Message::RowDescription(_)) => false,
        Incoming::Message(_) => return Err(unexpected("in answer to START_REPLICATION")),
    };
    let now = Instant::now();
    let mut stream = WalStream {
        connection,
        options,
        position: request.start,
        status: Status::default(),
        sent: Status::default(),
        reply_due: false,
        last_sent: now,
        last_received: now,
        asked: false,
        next: None,
        phase: if opened {
            Phase::Streaming
        } else {
            Phase::Ending
        },
    };
    if opened {
        return Ok(Started::Streaming(stream));
    }
    match stream.next().await? {
        Event::EndOfTimeline(next) => Ok(Started::EndOfTimeline(next, stream.connection)),
        _ => Err(unexpected("WAL outside a stream")),
    }
}

fn command(request: &Request) -> Result<String, Error> {
    let slot = match &request.slot {
        None => String::new(),
        Some(s) => {
            check_slot_name(s)?;
            format!(" SLOT \"{s}\"")
        }
    };
    Ok(format!(
        "START_REPLICATION{slot} PHYSICAL {} TIMELINE {}",
        request.start, request.timeline
    ))
}

impl WalStream {
    /// End of the WAL handed out so far.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The positions to report from now on; each is kept if it would go back. Sends nothing by
    /// itself: [`WalStream::next`] does.
    pub fn report(&mut self, status: Status) {
        self.status = self.status.max(status);
    }

    /// The next event. Cancel safe. After [`Event::EndOfTimeline`] it returns that again.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let (Phase::Done, Some(next)) = (self.phase, self.next) {
                return Ok(Event::EndOfTimeline(next));
            }
            if self.phase == Phase::Streaming {
                self.queue_status();
            }
            let incoming =
                match tokio::time::timeout_at(self.wake_at(), self.connection.incoming()).await {
                    Ok(incoming) => incoming?,
                    Err(_) if self.last_received.elapsed() >= self.options.receive_timeout => {
                        return Err(Error::Timeout {
                            what: "a sign of life",
                            limit: self.options.receive_timeout,
                        });
                    }
                    Err(_) => continue,
                };
            self.last_received = Instant::now();
            self.asked = false;
            let Incoming::Message(message) = incoming else {
                return Err(unexpected("CopyBothResponse"));
            };
            if let Some(event) = self.accept(message)? {
                return Ok(event);
            }
        }
    }

    /// Takes the connection back after [`Event::EndOfTimeline`], to stream the next timeline.
    pub fn into_connection(self) -> Option<Connection> {
        (self.phase == Phase::Done).then_some(self.connection)
    }

    /// Sends the last reported positions and ends the connection. What is still under way from the
    /// server is discarded.
    pub async fn close(mut self) -> Result<(), Error> {
        let limit = self.options.status_interval;
        if self.phase == Phase::Streaming {
            self.put_status(false)?;
            frontend::copy_done(self.connection.wire.outbox());
        }
        match tokio::time::timeout(limit, self.connection.close()).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                what: "closing the WAL stream",
                limit,
            }),
        }
    }

    fn wake_at(&self) -> Instant {
        let limit = self.options.receive_timeout;
        if self.connection.wire.is_sending() {
            return self.last_received + limit;
        }
        let silence = self.last_received + if self.asked { limit } else { limit / 2 };
        silence.min(self.last_sent + self.options.status_interval)
    }

    /// Queues a status message if one is due. One at a time: a server that does not read gets the
    /// newest position later, not a backlog.
    fn queue_status(&mut self) {
        if self.connection.wire.is_sending() {
            return;
        }
        let silent =
            !self.asked && self.last_received.elapsed() >= self.options.receive_timeout / 2;
        let news = self.status != self.sent && !self.connection.wire.has_message();
        if self.reply_due
            || silent
            || news
            || self.last_sent.elapsed() >= self.options.status_interval
        {
            // Encoding 34 bytes cannot exceed the length field.
            if self.put_status(silent).is_ok() {
                self.asked |= silent;
            }
        }
    }

    fn put_status(&mut self, ask: bool) -> Result<(), Error> {
        let body = status_message(self.status, (self.options.clock)().into(), ask);
        frontend::CopyData::new(body)?.write(self.connection.wire.outbox());
        self.sent = self.status;
        self.reply_due = false;
        self.last_sent = Instant::now();
        Ok(())
    }

    fn accept(&mut self, message: Message) -> Result<Option<Event>, Error> {
        match (message, self.phase) {
            (Message::CopyData(b), Phase::Streaming) => {
                let event = decode(b.into_bytes())?;
                match &event {
                    Event::XLogData { start, data, .. } => {
                        if *start != self.position {
                            return Err(Error::Gap {
                                expected: self.position,
                                received: *start,
                            });
                        }
                        let end = start.checked_add(data.len() as u64);
                        self.position = end.ok_or_else(|| {
                            Error::Protocol(format!("WAL beyond the end of LSNs at {start}"))
                        })?;
                    }
                    Event::Keepalive { reply, .. } => self.reply_due |= reply,
                    Event::EndOfTimeline(_) => {}
                }
                Ok(Some(event))
            }
            (Message::CopyDone, Phase::Streaming) => {
                frontend::copy_done(self.connection.wire.outbox());
                self.phase = Phase::Ending;
                Ok(None)
            }
            // A walsender that shuts down completes the command inside the copy.
            (Message::CommandComplete(_), Phase::Streaming) => Err(Error::ShuttingDown),
            (Message::RowDescription(_) | Message::CommandComplete(_), Phase::Ending) => Ok(None),
            (Message::DataRow(b), Phase::Ending) if self.next.is_none() => {
                let row = row(&b)?;
                self.next = Some(NextTimeline {
                    timeline: row.parse(0)?,
                    start: row.parse(1)?,
                });
                Ok(None)
            }
            (Message::ReadyForQuery(_), Phase::Ending) => {
                self.connection.done();
                self.phase = Phase::Done;
                // No row: the server ended a stream that has no next timeline.
                if self.next.is_some() {
                    Ok(None)
                } else {
                    Err(Error::ShuttingDown)
                }
            }
            _ => Err(unexpected("in a WAL stream")),
        }
    }
}

/// Decodes the content of one CopyData message.
fn decode(data: Bytes) -> Result<Event, Error> {
    let (tag, mut body) = split_tag(data)?;
    let short = |_| Error::Protocol(format!("truncated message of type {tag}"));
    match tag {
        b'w' => Ok(Event::XLogData {
            start: Lsn(body.try_get_u64().map_err(short)?),
            end: Lsn(body.try_get_u64().map_err(short)?),
            time: Timestamp(body.try_get_i64().map_err(short)?),
            data: body,
        }),
        b'k' => Ok(Event::Keepalive {
            end: Lsn(body.try_get_u64().map_err(short)?),
            time: Timestamp(body.try_get_i64().map_err(short)?),
            reply: body.try_get_u8().map_err(short)? != 0,
        }),
        _ => Err(unexpected(&format!("stream message of type {tag}"))),
    }
}

/// A Standby status update: 'r', write, flush, apply, time, whether an answer is wanted.
fn status_message(status: Status, time: Timestamp, ask: bool) -> BytesMut {
    let mut m = BytesMut::with_capacity(34);
    m.put_u8(b'r');
    m.put_u64(status.write.0);
    m.put_u64(status.flush.0);
    m.put_u64(status.apply.0);
    m.put_i64(time.0);
    m.put_u8(u8::from(ask));
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_and_keepalive_have_the_documented_layout() {
        let mut w = BytesMut::from(&b"w"[..]);
        w.put_u64(0x1_0000_0028);
        w.put_u64(0x1_0000_1000);
        w.put_i64(-5);
        w.put_slice(b"wal");
        assert_eq!(
            decode(w.freeze()).unwrap(),
            Event::XLogData {
                start: Lsn(0x1_0000_0028),
                end: Lsn(0x1_0000_1000),
                time: Timestamp(-5),
                data: Bytes::from_static(b"wal"),
            }
        );
        let k = Bytes::from_static(b"k\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01");
        assert_eq!(
            decode(k).unwrap(),
            Event::Keepalive {
                end: Lsn(1),
                time: Timestamp(2),
                reply: true
            }
        );
        for bad in [&b""[..], b"w", b"k\0", b"x1234567890123456789012345678"] {
            assert!(decode(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn status_is_34_bytes() {
        let status = Status {
            write: Lsn(3),
            flush: Lsn(2),
            apply: Lsn(1),
        };
        let m = status_message(status, Timestamp(9), true);
        assert_eq!(m.len(), 34);
        assert_eq!(
            (m[0], m[8], m[16], m[24], m[32], m[33]),
            (b'r', 3, 2, 1, 9, 1)
        );
    }

    #[test]
    fn time_counts_from_2000() {
        let origin = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
        assert_eq!(
            Timestamp::from(origin + Duration::from_secs(1)),
            Timestamp(1_000_000)
        );
        assert_eq!(
            Timestamp::from(origin - Duration::from_secs(1)),
            Timestamp(-1_000_000)
        );
    }

    #[test]
    fn the_command_names_slot_and_timeline() {
        let request = Request {
            slot: Some("ps_1".into()),
            start: Lsn(0x1_0000_0000),
            timeline: 3,
        };
        assert_eq!(
            command(&request).unwrap(),
            "START_REPLICATION SLOT \"ps_1\" PHYSICAL 1/0 TIMELINE 3"
        );
        assert!(
            command(&Request {
                slot: Some("a\" x".into()),
                ..request
            })
            .is_err()
        );
    }

    #[test]
    fn reported_positions_never_go_back() {
        let high = Status {
            write: Lsn(9),
            flush: Lsn(5),
            apply: Lsn(9),
        };
        let low = Status {
            write: Lsn(8),
            flush: Lsn(6),
            apply: Lsn(0),
        };
        assert_eq!(
            high.max(low),
            Status {
                write: Lsn(9),
                flush: Lsn(6),
                apply: Lsn(9)
            }
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_messages_decode_or_err(data: Vec<u8>) {
            let _ = decode(data.into());
        }
    }
}
