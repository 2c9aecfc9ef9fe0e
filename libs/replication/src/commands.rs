//! Replication commands other than the two streams.
//!
//! On a connection in database mode, slots are read from `pg_replication_slots`, which says more
//! and works on 14; in physical mode with `READ_REPLICATION_SLOT`, which exists from 15 on.

use crate::connection::{Connection, Mode};
use crate::error::Error;
use types::Lsn;

/// Answer to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Chosen at initdb; equal for a primary and its physical standbys.
    pub id: u64,
    /// Current timeline id of Postgres.
    pub timeline: u32,
    /// End of the WAL that the server has flushed (or, in recovery, replayed).
    pub flushed: Lsn,
    /// Database of the connection, in database mode.
    pub dbname: Option<String>,
}

/// One line of a timeline history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// The older timeline.
    pub timeline: u32,
    /// Where it was left.
    pub switch: Lsn,
    /// Why.
    pub reason: String,
}

/// A physical replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Oldest WAL the slot retains; `None` if it has reserved none.
    pub restart_lsn: Option<Lsn>,
    /// Whether a connection uses it; unknown in physical mode.
    pub active: Option<bool>,
    /// Whether the WAL it needs is gone; unknown in physical mode. A lost slot never recovers.
    pub lost: Option<bool>,
    /// Bytes of WAL until the slot may be lost; `None` if unlimited or unknown.
    pub safe_wal_size: Option<i64>,
}

/// Lifetime and reservation of a new slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotOptions {
    /// Dropped when the connection ends.
    pub temporary: bool,
    /// Retains WAL at once, from the last checkpoint's redo LSN; else from the first stream on.
    pub reserve_wal: bool,
}

/// Identifies the server.
pub async fn identify_system(c: &mut Connection) -> Result<System, Error> {
    let row = c.query("IDENTIFY_SYSTEM").await?.single()?;
    Ok(System {
        id: row.parse(0)?,
        timeline: row.parse(1)?,
        flushed: row.parse(2)?,
        dbname: row.opt(3).map(str::to_owned),
    })
}

/// The value of a setting, as `SHOW` prints it.
pub async fn show(c: &mut Connection, setting: &str) -> Result<String, Error> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    if setting.is_empty() || setting.len() > 63 || !setting.bytes().all(ok) {
        return Err(Error::SettingName(setting.chars().take(64).collect()));
    }
    Ok(c.query(&format!("SHOW {setting}"))
        .await?
        .single()?
        .text(0)?
        .to_owned())
}

/// The WAL segment size in bytes, a power of two from 1 MiB to 1 GiB.
pub async fn wal_segment_size(c: &mut Connection) -> Result<u64, Error> {
    let shown = show(c, "wal_segment_size").await?;
    parse_size(&shown)
        .filter(|s| s.is_power_of_two() && (1 << 20..=1 << 30).contains(s))
        .ok_or_else(|| Error::Protocol(format!("wal_segment_size is {shown:?}")))
}

/// A size as `SHOW` prints it ("16MB"), in bytes.
pub(crate) fn parse_size(shown: &str) -> Option<u64> {
    let unit_at = shown
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(shown.len());
    let (number, unit) = shown.split_at(unit_at);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The ancestors of a timeline, oldest first. Timeline 1 has none.
pub async fn timeline_history(c: &mut Connection, timeline: u32) -> Result<Vec<Ancestor>, Error> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let row = c
        .query(&format!("TIMELINE_HISTORY {timeline}"))
        .await?
        .single()?;
    parse_history(row.text(1)?)
}

/// Parses a timeline history file: `<timeline>TAB<switch LSN>TAB<reason>` on each line, `#` opens
/// a comment.
pub fn parse_history(text: &str) -> Result<Vec<Ancestor>, Error> {
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let bad = || {
            Error::Protocol(format!(
                "timeline history line {:?}",
                line.chars().take(80).collect::<String>()
            ))
        };
        let mut fields = line.splitn(3, char::is_whitespace);
        let timeline = fields.next().and_then(|f| f.parse().ok()).ok_or_else(bad)?;
        let switch = fields.next().and_then(|f| f.parse().ok()).ok_or_else(bad)?;
        if ancestors.last().is_some_and(|a| a.timeline >= timeline) {
            return Err(bad());
        }
        ancestors.push(Ancestor {
            timeline,
            switch,
            reason: fields.next().unwrap_or("").trim().to_owned(),
        });
    }
    Ok(ancestors)
}

/// Checks a slot's name: 1 to 63 of a-z, 0-9 and '_'.
pub fn check_slot_name(slot: &str) -> Result<(), Error> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if slot.is_empty() || slot.len() > 63 || !slot.bytes().all(ok) {
        return Err(Error::SlotName(slot.chars().take(64).collect()));
    }
    Ok(())
}

/// Creates a physical slot. [`Error::is_slot_duplicate`] if it exists.
pub async fn create_slot(
    c: &mut Connection,
    slot: &str,
    options: SlotOptions,
) -> Result<(), Error> {
    check_slot_name(slot)?;
    let temporary = if options.temporary { " TEMPORARY" } else { "" };
    let reserve = if options.reserve_wal {
        " RESERVE_WAL"
    } else {
        ""
    };
    c.query(&format!(
        "CREATE_REPLICATION_SLOT \"{slot}\"{temporary} PHYSICAL{reserve}"
    ))
    .await?;
    Ok(())
}

/// Drops a slot; with `wait`, waits until nobody uses it, else fails with
/// [`Error::is_slot_in_use`]. [`Error::is_slot_missing`] if it does not exist.
pub async fn drop_slot(c: &mut Connection, slot: &str, wait: bool) -> Result<(), Error> {
    check_slot_name(slot)?;
    let wait = if wait { " WAIT" } else { "" };
    c.query(&format!("DROP_REPLICATION_SLOT \"{slot}\"{wait}"))
        .await?;
    Ok(())
}

/// Reads a physical slot; `None` if there is no such slot. On 14 this needs database mode.
pub async fn read_slot(c: &mut Connection, slot: &str) -> Result<Option<Slot>, Error> {
    check_slot_name(slot)?;
    if c.mode() == Mode::Physical {
        if c.major()? == types::PgMajor::V14 {
            return Err(Error::NeedsDatabaseMode("reading a slot on Postgres 14"));
        }
        let row = c
            .query(&format!("READ_REPLICATION_SLOT \"{slot}\""))
            .await?
            .single()?;
        if row.opt(0).is_none() {
            return Ok(None);
        }
        let restart_lsn = row.opt(1).map(|_| row.parse(1)).transpose()?;
        return Ok(Some(Slot {
            restart_lsn,
            active: None,
            lost: None,
            safe_wal_size: None,
        }));
    }
    let rows = c
        .query(&format!(
            "SELECT restart_lsn, active, wal_status, safe_wal_size FROM pg_catalog.pg_replication_slots \
             WHERE slot_type = 'physical' AND slot_name = '{slot}'"
        ))
        .await?;
    if rows.rows.is_empty() {
        return Ok(None);
    }
    let row = rows.single()?;
    Ok(Some(Slot {
        restart_lsn: row.opt(0).map(|_| row.parse(0)).transpose()?,
        active: Some(row.opt(1) == Some("t")),
        lost: Some(row.opt(2) == Some("lost")),
        safe_wal_size: row.opt(3).map(|_| row.parse(3)).transpose()?,
    }))
}

/// Moves an inactive physical slot forward, at most to the flushed position, and returns where it
/// is then. Needs database mode. The server refuses to go back.
pub async fn advance_slot(c: &mut Connection, slot: &str, to: Lsn) -> Result<Lsn, Error> {
    check_slot_name(slot)?;
    if c.mode() == Mode::Physical {
        return Err(Error::NeedsDatabaseMode("advancing a slot"));
    }
    let query =
        format!("SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance('{slot}', '{to}')");
    c.query(&query).await?.single()?.parse(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_lines_are_split_at_whitespace() {
        let text =
            "1\t0/3000158\tno recovery target specified\n\n# c\n2\t0/7015D50\tbefore 2000-01-01\n";
        let a = parse_history(text).unwrap();
        assert_eq!(a.len(), 2);
        assert_eq!(
            (a[1].timeline, a[1].switch, a[1].reason.as_str()),
            (2, Lsn(0x7015D50), "before 2000-01-01")
        );
        for bad in ["x\t0/1\t", "1", "2\t0/1\tr\n1\t0/2\tr", "1\tzz\tr"] {
            assert!(parse_history(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_need_quoting_are_refused() {
        for bad in ["", "a\"b", "A", "a b", "ä", "a;drop"] {
            assert!(check_slot_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_slot_name(&"a".repeat(63)).is_ok());
        assert!(check_slot_name(&"a".repeat(64)).is_err());
    }

    #[test]
    fn sizes_as_shown() {
        assert_eq!(parse_size("16MB"), Some(16 << 20));
        assert_eq!(parse_size("1GB"), Some(1 << 30));
        assert_eq!(parse_size("8192"), Some(8192));
        assert_eq!(parse_size("-1"), None);
        assert_eq!(parse_size("99999999999999999TB"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_history_parses_or_errs(text in ".*") {
            let _ = parse_history(&text);
        }
    }
}
