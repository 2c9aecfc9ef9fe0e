//! From a moment to an LSN of a branch.

use crate::catalog::Found;
use crate::moment::{Moment, Time};
use crate::session::Session;
use anyhow::{Result, bail};
use api_client::model::LsnByTimestamp;
use std::time::SystemTime;
use types::Lsn;

/// The time that a moment is, unless it is a position.
pub fn time(moment: Moment) -> Option<Time> {
    match moment {
        Moment::Lsn(_) => None,
        Moment::Time(time) => Some(time),
        Moment::Ago(ago) => Some(Time::before(SystemTime::now(), ago)),
    }
}

/// Asks the server which LSN a branch had at a time.
///
/// # Errors
/// If the history that is kept does not reach back that far; says how far it does.
pub async fn lookup(session: &Session, found: &Found<'_>, time: Time) -> Result<LsnByTimestamp> {
    let answer = session
        .client
        .lsn_by_timestamp(found.tenant_id(), found.id(), &time.to_string())
        .await?;
    let oldest = found.timeline.min_readable_lsn;
    let label = found.label();
    match answer.kind.as_str() {
        "past" => {
            let ancestor = ancestor(found);
            bail!(
                "{label} does not reach back to {time}: its oldest restorable LSN is {oldest}; use a later time or --at {oldest}{ancestor}"
            )
        }
        "nodata" => {
            let ancestor = ancestor(found);
            bail!(
                "{label} has no commit that tells which LSN it had at {time}: name an LSN, from the oldest restorable one, {oldest}, to the newest, {}{ancestor}",
                found.timeline.last_record_lsn
            )
        }
        _ => Ok(answer),
    }
}

fn ancestor(found: &Found<'_>) -> String {
    let ancestor = found
        .timeline
        .ancestor_timeline_id
        .and_then(|id| found.tenant.timelines.iter().find(|t| t.timeline_id == id));
    match ancestor {
        None => String::new(),
        Some(timeline) => {
            let of = Found {
                tenant: found.tenant,
                timeline,
            };
            format!("; older history is that of {}", of.label())
        }
    }
}

/// What an answer means.
pub fn meaning(kind: &str) -> &'static str {
    match kind {
        "present" => "holds what had committed before that time",
        "future" => "the newest; nothing was committed since",
        _ => "as the server says",
    }
}

/// The LSN of a moment; for a time, says on standard error which one was chosen. Without a moment,
/// the newest.
pub async fn resolve(session: &Session, found: &Found<'_>, at: Option<Moment>) -> Result<Lsn> {
    let Some(moment) = at else {
        return Ok(found.timeline.last_record_lsn);
    };
    let time = match (moment, time(moment)) {
        (Moment::Lsn(lsn), _) => return Ok(lsn),
        (_, Some(time)) => time,
        (_, None) => bail!("not a time"),
    };
    let answer = lookup(session, found, time).await?;
    eprintln!(
        "{} at {time} is LSN {} ({}: {})",
        found.label(),
        answer.lsn,
        answer.kind,
        meaning(&answer.kind)
    );
    Ok(answer.lsn)
}

/// As [`resolve`], for reading: also refuses an LSN at which the branch cannot be read. One that is
/// still to come is waited for by the server if the branch follows a source.
pub async fn readable(session: &Session, found: &Found<'_>, at: Option<Moment>) -> Result<Lsn> {
    let lsn = resolve(session, found, at).await?;
    let t = found.timeline;
    match check(lsn, t.min_readable_lsn, t.last_record_lsn) {
        Reach::Within => {}
        Reach::Below => bail!(
            "{} does not reach back to LSN {lsn}: its oldest restorable LSN is {}{}",
            found.label(),
            t.min_readable_lsn,
            ancestor(found)
        ),
        Reach::Above if t.wal_source_connstr.is_some() => eprintln!(
            "waiting until {} has received WAL up to {lsn}; it is at {}",
            found.label(),
            t.last_record_lsn
        ),
        Reach::Above => bail!(
            "{} ends at LSN {}, before {lsn}",
            found.label(),
            t.last_record_lsn
        ),
    }
    Ok(lsn)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    Within,
    Below,
    Above,
}

fn check(lsn: Lsn, oldest: Lsn, newest: Lsn) -> Reach {
    if lsn < oldest {
        Reach::Below
    } else if lsn > newest {
        Reach::Above
    } else {
        Reach::Within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_the_history_can_be_read() {
        let at = |lsn| check(Lsn(lsn), Lsn(16), Lsn(32));
        assert_eq!([at(15), at(16)], [Reach::Below, Reach::Within]);
        assert_eq!([at(32), at(33)], [Reach::Within, Reach::Above]);
    }
}
