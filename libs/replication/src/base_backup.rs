//! Streaming a base backup: the server's data directory as tar archives, one for each tablespace.
//!
//! Speaks both grammars: that of 14 (one copy per archive) and that of 15 to 18 (one copy with
//! tagged chunks), and makes one sequence of events of them:
//! `Archive (Data* ) ArchiveEnd`, repeated, then `End`. The checkpoint is fast, the server does not
//! wait for archiving, WAL and manifest are left out, `tablespace_map` is included.
//!
//! Nothing is read ahead of the caller except what one socket read brings. Archives of 14 lack the
//! two final zero blocks of a tar file. Unpacking is the caller's business.

use crate::connection::{Connection, Mode, row, unexpected};
use crate::error::Error;
use crate::wire::split_tag;
use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;
use std::collections::VecDeque;
use types::{Lsn, PgMajor};

/// Most tablespaces of one server.
pub const MAX_TABLESPACES: usize = 4096;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Written into `backup_label` and shown in the server's log.
    pub label: String,
    /// Upper bound of the transfer rate in KiB/s, 32 to 1048576; `None` for no bound.
    pub max_rate: Option<u32>,
    /// Let the server check page checksums while it reads, if it has them.
    pub verify_checksums: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            label: "pageserver".into(),
            max_rate: None,
            verify_checksums: true,
        }
    }
}

impl Options {
    /// The command for a server of this version.
    pub fn command(&self, major: PgMajor) -> String {
        let label = self
            .label
            .replace('\'', "''")
            .replace(['\0', '\n', '\r'], " ");
        let rate = self.max_rate.map(|r| r.clamp(32, 1 << 20));
        if major == PgMajor::V14 {
            let rate = rate.map(|r| format!(" MAX_RATE {r}")).unwrap_or_default();
            let verify = if self.verify_checksums {
                ""
            } else {
                " NOVERIFY_CHECKSUMS"
            };
            format!(
                "BASE_BACKUP LABEL '{label}' PROGRESS FAST NOWAIT{rate} TABLESPACE_MAP{verify} MANIFEST 'no'"
            )
        } else {
            let rate = rate.map(|r| format!(", MAX_RATE {r}")).unwrap_or_default();
            let verify = self.verify_checksums;
            format!(
                "BASE_BACKUP (LABEL '{label}', PROGRESS true, CHECKPOINT 'fast', WAIT false{rate}, \
                 TABLESPACE_MAP true, VERIFY_CHECKSUMS {verify}, MANIFEST 'no')"
            )
        }
    }
}

/// A place in the history of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where.
    pub lsn: Lsn,
    /// On which timeline of Postgres.
    pub timeline: u32,
}

/// A tablespace the backup contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Object id; `None` for the main data directory (which holds `pg_default` and `pg_global`).
    pub oid: Option<u32>,
    /// Its directory on the server; `None` for the main data directory.
    pub location: Option<String>,
    /// Estimated size in bytes.
    pub size: Option<u64>,
}

/// What comes next in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A tar archive begins.
    Archive(Tablespace),
    /// Its next bytes.
    Data(Bytes),
    /// The archive is complete.
    ArchiveEnd,
    /// All archives are complete. Replay is consistent from here on. Nothing follows.
    End(Position),
}

/// A base backup in progress. Dropping it ends the connection and with it the backup.
#[derive(Debug)]
pub struct BaseBackup {
    connection: Connection,
    start: Position,
    tablespaces: Vec<Tablespace>,
    ahead: VecDeque<Event>,
    state: State,
    next_archive: usize,
    received: u64,
    end: Option<Position>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between archives (14), before the copy (15 and later), or behind it.
    Outside,
    /// In a copy, before its first archive (15 and later).
    Opening,
    /// In an archive.
    Archive,
    /// ReadyForQuery was read.
    Done,
}

impl BaseBackup {
    /// Starts a backup. Needs a replication connection; returns after the server's checkpoint,
    /// which can take minutes.
    pub async fn start(mut connection: Connection, options: &Options) -> Result<BaseBackup, Error> {
        if connection.mode() == Mode::Sql {
            return Err(Error::Protocol(
                "a base backup needs a replication connection".into(),
            ));
        }
        let command = options.command(connection.major()?);
        connection.send(&command)?;
        let start = read_position(&mut connection).await?;
        let tablespaces = read_tablespaces(&mut connection).await?;
        Ok(BaseBackup {
            connection,
            start,
            tablespaces,
            ahead: VecDeque::new(),
            state: State::Outside,
            next_archive: 0,
            received: 0,
            end: None,
        })
    }

    /// The redo position the archives must be replayed from.
    pub fn start_position(&self) -> Position {
        self.start
    }

    /// All tablespaces, in the order in which 14 sends them.
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// Estimated size of all archives in bytes, for progress. The truth may be more or less.
    pub fn estimated_bytes(&self) -> u64 {
        self.tablespaces
            .iter()
            .filter_map(|t| t.size)
            .fold(0, u64::saturating_add)
    }

    /// Bytes of archives handed out so far.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// The next event. Cancel safe. After [`Event::End`] it returns that again.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ahead.pop_front() {
                if let Event::Data(d) = &event {
                    self.received = self.received.saturating_add(d.len() as u64);
                }
                return Ok(event);
            }
            if let (State::Done, Some(end)) = (self.state, self.end) {
                return Ok(Event::End(end));
            }
            let message = self.connection.message().await?;
            self.accept(message)?;
        }
    }

    /// Takes the connection back after [`Event::End`].
    pub fn into_connection(self) -> Option<Connection> {
        (self.state == State::Done).then_some(self.connection)
    }

    fn accept(&mut self, message: Message) -> Result<(), Error> {
        let major = self.connection.major()?;
        match (message, self.state) {
            (Message::CopyOutResponse(_), State::Outside) if self.end.is_none() => {
                if major == PgMajor::V14 {
                    let next = self.tablespaces.get(self.next_archive).cloned();
                    let next = next.ok_or_else(|| unexpected("more archives than tablespaces"))?;
                    self.next_archive += 1;
                    self.ahead.push_back(Event::Archive(next));
                    self.state = State::Archive;
                } else {
                    self.state = State::Opening;
                }
            }
            (Message::CopyData(b), State::Archive) if major == PgMajor::V14 => {
                self.ahead.push_back(Event::Data(b.into_bytes()));
            }
            (Message::CopyData(b), State::Archive | State::Opening) => {
                self.accept_chunk(b.into_bytes())?
            }
            (Message::CopyDone, State::Archive) => {
                self.ahead.push_back(Event::ArchiveEnd);
                self.state = State::Outside;
            }
            (Message::DataRow(b), State::Outside) => {
                let row = row(&b)?;
                if self.next_archive < self.tablespaces.len() || self.end.is_some() {
                    return Err(unexpected("end of the backup before its last archive"));
                }
                self.end = Some(Position {
                    lsn: row.parse(0)?,
                    timeline: row.parse(1)?,
                });
            }
            (Message::RowDescription(_) | Message::CommandComplete(_), State::Outside) => {}
            (Message::ReadyForQuery(_), State::Outside) if self.end.is_some() => {
                self.connection.done();
                self.state = State::Done;
            }
            _ => return Err(unexpected("during a base backup")),
        }
        Ok(())
    }

    /// A tagged chunk of 15 and later.
    fn accept_chunk(&mut self, chunk: Bytes) -> Result<(), Error> {
        match (split_tag(chunk)?, self.state) {
            ((b'n', names), state) => {
                if state == State::Archive {
                    self.ahead.push_back(Event::ArchiveEnd);
                }
                let name = archive_name(names)?;
                let found = self
                    .tablespaces
                    .iter()
                    .find(|t| t.archive_name() == name)
                    .cloned();
                let found = found
                    .ok_or_else(|| Error::Protocol(format!("archive {name:?} of no tablespace")))?;
                self.next_archive += 1;
                self.ahead.push_back(Event::Archive(found));
                self.state = State::Archive;
            }
            ((b'd', data), State::Archive) => self.ahead.push_back(Event::Data(data)),
            ((b'p', _), _) => {}
            ((tag, _), _) => return Err(unexpected(&format!("backup chunk of type {tag}"))),
        }
        Ok(())
    }
}

impl Tablespace {
    /// Name of the archive that 15 and later send for it.
    pub fn archive_name(&self) -> String {
        self.oid
            .map_or_else(|| "base.tar".into(), |oid| format!("{oid}.tar"))
    }
}

/// The archive name of an `n` chunk: two NUL-terminated texts, name and tablespace path.
fn archive_name(mut names: Bytes) -> Result<String, Error> {
    let end = names
        .iter()
        .position(|b| *b == 0)
        .ok_or_else(|| unexpected("unterminated archive name"))?;
    let name = names.split_to(end);
    names.advance(1);
    if names.last() != Some(&0) {
        return Err(unexpected("unterminated tablespace path"));
    }
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Reads the row set (LSN, timeline).
async fn read_position(c: &mut Connection) -> Result<Position, Error> {
    let mut position = None;
    loop {
        match c.message().await? {
            Message::RowDescription(_) => {}
            Message::DataRow(b) if position.is_none() => {
                let row = row(&b)?;
                position = Some(Position {
                    lsn: row.parse(0)?,
                    timeline: row.parse(1)?,
                });
            }
            Message::CommandComplete(_) => {
                return position.ok_or_else(|| unexpected("no start position"));
            }
            _ => return Err(unexpected("before a base backup")),
        }
    }
}

/// Reads the row set (oid, location, size in KiB).
async fn read_tablespaces(c: &mut Connection) -> Result<Vec<Tablespace>, Error> {
    let mut all = Vec::new();
    loop {
        match c.message().await? {
            Message::RowDescription(_) => {}
            Message::DataRow(b) if all.len() < MAX_TABLESPACES => {
                let row = row(&b)?;
                let oid = row.opt(0).map(|_| row.parse(0)).transpose()?;
                let kib: Option<i64> = row.opt(2).map(|_| row.parse(2)).transpose()?;
                let size = kib
                    .and_then(|k| u64::try_from(k).ok())
                    .map(|k| k.saturating_mul(1024));
                all.push(Tablespace {
                    oid,
                    location: row.opt(1).map(str::to_owned),
                    size,
                });
            }
            Message::CommandComplete(_) => return Ok(all),
            _ => return Err(unexpected("before the first archive")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_grammar_gets_its_command() {
        let o = Options {
            label: "o'x\0".into(),
            max_rate: Some(1),
            verify_checksums: false,
        };
        assert_eq!(
            o.command(PgMajor::V14),
            "BASE_BACKUP LABEL 'o''x ' PROGRESS FAST NOWAIT MAX_RATE 32 TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'no'"
        );
        assert_eq!(
            Options::default().command(PgMajor::V18),
            "BASE_BACKUP (LABEL 'pageserver', PROGRESS true, CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP true, \
             VERIFY_CHECKSUMS true, MANIFEST 'no')"
        );
    }

    #[test]
    fn archive_names_end_in_nul() {
        assert_eq!(
            archive_name(Bytes::from_static(b"base.tar\0\0")).unwrap(),
            "base.tar"
        );
        assert_eq!(
            archive_name(Bytes::from_static(b"16400.tar\0/mnt/x\0")).unwrap(),
            "16400.tar"
        );
        for bad in [&b""[..], b"base.tar", b"base.tar\0", b"base.tar\0/mnt"] {
            assert!(
                archive_name(Bytes::copy_from_slice(bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}
