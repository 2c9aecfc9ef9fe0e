//! One connection to a primary: from `START_REPLICATION` to its end.

use super::{Source, TimelineStore};
use crate::engine::Timeline;
use layer_format::index_part::TimelineSwitch;
use pg_wal::stream::{Config as DecoderConfig, Decoder};
use replication::commands::{identify_system, timeline_history};
use replication::connection::{Connection, Mode};
use replication::stream::{self, Event, Options, Request, Started, Status, WalStream};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};
use types::{Flavour, Lsn};
use wal_ingest::{Config as IngestConfig, Event as IngestEvent, Ingest};

/// How long a waiting primary is left without an answer while WAL is made durable.
const DURABLE_LIMIT: Duration = Duration::from_secs(10);

/// When a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Only when the connection ends.
    Forever,
    /// When the base backup that began at `start` is consistent, which it is at `end` at latest.
    Import {
        /// Redo position the backup began at.
        start: Lsn,
        /// End position that the server gave.
        end: Lsn,
    },
}

/// Why a session ended, by what is to be done.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Try again soon.
    #[error("{0}")]
    Transient(String),
    /// Somebody has to change something on the primary.
    #[error("{0}")]
    Configuration(String),
    /// WAL or its effects cannot be decoded. Worth one more try, from the same place.
    #[error("{0}")]
    Corrupt(String),
    /// The history cannot be continued: never try again.
    #[error("{0}")]
    Lost(String),
}

impl From<replication::Error> for SessionError {
    fn from(e: replication::Error) -> Self {
        use replication::error::Kind;
        let text = e.to_string();
        match e.kind() {
            Kind::HistoryLost => SessionError::Lost(format!(
                "the primary no longer has the WAL that is needed; import it again as a new timeline: {text}"
            )),
            Kind::Unsupported => SessionError::Lost(text),
            Kind::Configuration | Kind::Refused | Kind::Diverged => {
                SessionError::Configuration(text)
            }
            Kind::Protocol => SessionError::Corrupt(text),
            _ => SessionError::Transient(text),
        }
    }
}

/// Follows the source from the timeline's `last_record_lsn` until the goal is reached.
pub async fn run(
    timeline: &Arc<Timeline>,
    source: &Source,
    goal: Goal,
) -> Result<(), SessionError> {
    let mut connection = Connection::connect(&source.conninfo, Mode::Physical).await?;
    let vanilla = timeline.vanilla().ok_or_else(|| {
        SessionError::Lost("the timeline does not say which Postgres it belongs to".into())
    })?;
    let system = identify_system(&mut connection).await?;
    if system.id != vanilla.system_identifier {
        return Err(SessionError::Lost(format!(
            "the server at {} is another cluster: its system identifier is {}, this timeline's is {}",
            source.conninfo, system.id, vanilla.system_identifier
        )));
    }
    let major = connection.major()?;
    if major != timeline.version {
        return Err(SessionError::Lost(format!(
            "the server runs Postgres {major}, this timeline holds Postgres {}",
            timeline.version
        )));
    }
    let tli = vanilla.timeline_id;
    if system.timeline < tli {
        return Err(SessionError::Configuration(format!(
            "the server is on Postgres timeline {}, behind {tli}, which was followed before: it is an old primary or a lagging standby",
            system.timeline
        )));
    }
    if system.timeline > tli {
        let history = timeline_history(&mut connection, system.timeline).await?;
        let switch = history.iter().find(|a| a.timeline == tli).map(|a| a.switch);
        check_switch(timeline, tli, system.timeline, switch)?;
    }
    let request = Request {
        slot: Some(source.slot.clone()),
        start: timeline.last_record_lsn(),
        timeline: tli,
    };
    info!(tenant = %timeline.tenant, timeline = %timeline.id, source = %source.conninfo, start = %request.start, "streaming WAL");
    match stream::start(connection, &request, Options::default()).await? {
        Started::EndOfTimeline(next, _) => {
            switch_to(timeline, tli, next.timeline, next.start);
            Ok(())
        }
        Started::Streaming(stream) => ingest(timeline, stream, tli, goal).await,
    }
}

/// A server on a newer timeline can be followed only if it left ours behind what we have.
fn check_switch(
    timeline: &Timeline,
    ours: u32,
    theirs: u32,
    switch: Option<Lsn>,
) -> Result<(), SessionError> {
    let last = timeline.last_record_lsn();
    match switch {
        Some(at) if last <= at => Ok(()),
        Some(at) => Err(SessionError::Lost(format!(
            "the server left Postgres timeline {ours} for {theirs} at {at}, but this timeline has WAL up to {last}: the histories diverged. Branch at {at} and import the new primary to go on"
        ))),
        None => Err(SessionError::Lost(format!(
            "the server is on Postgres timeline {theirs}, whose history does not contain {ours}"
        ))),
    }
}

fn switch_to(timeline: &Timeline, from: u32, to: u32, at: Lsn) {
    info!(tenant = %timeline.tenant, timeline = %timeline.id, from, to, %at, "the primary was promoted, following its new Postgres timeline");
    timeline.update_vanilla(|v| {
        if let Some(v) = v {
            v.history.push(TimelineSwitch {
                timeline_id: from,
                switch_lsn: at,
            });
            v.timeline_id = to;
        }
    });
}

async fn ingest(
    timeline: &Arc<Timeline>,
    mut stream: WalStream,
    tli: u32,
    goal: Goal,
) -> Result<(), SessionError> {
    let store = TimelineStore(Arc::clone(timeline));
    let start = timeline.last_record_lsn();
    let vanilla = timeline.vanilla();
    let mut config = IngestConfig::new(timeline.version);
    config.flavour = Flavour::Vanilla;
    if let Goal::Import { end, .. } = goal {
        config.import_end = Some(end);
    }
    let corrupt = |e: &dyn std::fmt::Display| SessionError::Corrupt(e.to_string());
    let mut ingest = Ingest::load(&store, config, start)
        .await
        .map_err(|e| corrupt(&e))?;
    let mut decoder = Decoder::new(
        start,
        DecoderConfig {
            version: timeline.version,
            segment_size: u32::try_from(timeline.wal_segment_size()).unwrap_or(u32::MAX),
            system_identifier: vanilla.map(|v| v.system_identifier),
            timeline: Some(tli),
            allow_timeline_increase: true,
            previous: None,
        },
    );
    let metrics = Arc::clone(&timeline.shared().metrics);
    let mut durable = timeline.watch_remote_consistent();
    // An idle primary hears our position now, not with its next record.
    stream.report(status(timeline));
    note(timeline, start);
    loop {
        let event = tokio::select! {
            event = stream.next() => event?,
            changed = durable.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                stream.report(status(timeline));
                continue;
            }
        };
        match event {
            Event::XLogData { start, data, .. } => {
                let received = start.saturating_add(data.len() as u64);
                note(timeline, received);
                metrics.wal_bytes.inc_by(data.len() as u64);
                decoder.feed_shared(start, data).map_err(|e| corrupt(&e))?;
                while let Some(record) = decoder.next().map_err(|e| corrupt(&e))? {
                    metrics.wal_records.inc();
                    let event = ingest
                        .record(&store, record.start, record.end, record.bytes)
                        .await
                        .map_err(|e| ingest_failure(&e))?;
                    if event_ends(timeline, &event, goal, record.end) {
                        ingest
                            .commit(&store)
                            .await
                            .map_err(|e| ingest_failure(&e))?;
                        // The connection is dropped; the primary learns our position from the next.
                        return Ok(());
                    }
                }
                ingest
                    .commit(&store)
                    .await
                    .map_err(|e| ingest_failure(&e))?;
                stream.report(status(timeline));
            }
            Event::Keepalive { reply, .. } => {
                note(timeline, decoder.position());
                if reply {
                    make_durable(timeline).await;
                }
                stream.report(status(timeline));
            }
            Event::EndOfTimeline(next) => {
                switch_to(timeline, tli, next.timeline, next.start);
                return Ok(());
            }
        }
    }
}

fn ingest_failure(e: &wal_ingest::Error) -> SessionError {
    match &e.cause {
        // The timeline stops, or its disk is full: not the record's fault.
        wal_ingest::Cause::Store(_) => SessionError::Transient(e.to_string()),
        _ => SessionError::Corrupt(e.to_string()),
    }
}

fn event_ends(timeline: &Timeline, event: &IngestEvent, goal: Goal, at: Lsn) -> bool {
    match (event, goal) {
        (IngestEvent::BackupEnd { start }, Goal::Import { start: ours, .. }) if *start == ours => {
            true
        }
        (
            IngestEvent::TimelineSwitch {
                previous,
                timeline: to,
                at,
            },
            _,
        ) => {
            warn!(tenant = %timeline.tenant, timeline = %timeline.id, from = previous, to, %at, "Postgres timeline changed");
            false
        }
        // Without the marker (it cannot be missed, but costs nothing to bound) the end decides.
        (_, Goal::Import { end, .. }) => at >= end,
        _ => false,
    }
}

/// A primary that shuts down waits until we report everything as flushed, and asks for it. Asked
/// or not, it hears our position when this takes too long.
async fn make_durable(timeline: &Timeline) {
    if timeline.remote_consistent_lsn() >= timeline.last_record_lsn() {
        return;
    }
    match tokio::time::timeout(DURABLE_LIMIT, timeline.checkpoint()).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => {
            warn!(tenant = %timeline.tenant, timeline = %timeline.id, "the primary waits for WAL to be durable, but: {e}");
        }
        Err(_) => {
            warn!(tenant = %timeline.tenant, timeline = %timeline.id, "the primary waits for WAL to be durable; upload takes more than {DURABLE_LIMIT:?}");
        }
    }
}

/// What we tell the primary: flush is what survives the loss of this machine.
fn status(timeline: &Timeline) -> Status {
    let last = timeline.last_record_lsn();
    Status {
        write: last,
        flush: timeline.remote_consistent_lsn(),
        apply: last,
    }
}

fn note(timeline: &Timeline, received: Lsn) {
    let now = timeline.shared().env.clock.wall();
    let mut receiver = timeline.receiver.lock();
    receiver.last_received_lsn = received;
    receiver.last_received_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    receiver.text.clear();
    receiver.text.push_str("streaming");
}
