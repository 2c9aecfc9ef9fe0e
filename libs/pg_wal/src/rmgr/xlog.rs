//! XLOG records (`access/xlog_internal.h`, `catalog/pg_control.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Lsn, PgMajor};

/// `xl_info & 0xF0` of the record types.
pub mod op {
    #![allow(missing_docs, reason = "the names are Postgres's own")]
    pub const CHECKPOINT_SHUTDOWN: u8 = 0x00;
    pub const CHECKPOINT_ONLINE: u8 = 0x10;
    pub const NOOP: u8 = 0x20;
    pub const NEXTOID: u8 = 0x30;
    pub const SWITCH: u8 = 0x40;
    pub const BACKUP_END: u8 = 0x50;
    pub const PARAMETER_CHANGE: u8 = 0x60;
    pub const RESTORE_POINT: u8 = 0x70;
    pub const FPW_CHANGE: u8 = 0x80;
    pub const END_OF_RECOVERY: u8 = 0x90;
    pub const FPI_FOR_HINT: u8 = 0xA0;
    pub const FPI: u8 = 0xB0;
    pub const OVERWRITE_CONTRECORD: u8 = 0xD0;
    pub const CHECKPOINT_REDO: u8 = 0xE0;
}

/// Length of the `CheckPoint` structure in bytes.
pub const CHECKPOINT_SIZE: usize = 88;
/// Length of a restore point's name field in bytes.
pub const RESTORE_POINT_NAME: usize = 64;

/// Server settings a standby must match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ParameterChange {
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// `wal_level` as a number.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// End of crash or archive recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndOfRecovery {
    /// Microseconds since 2000-01-01.
    pub time: i64,
    /// New timeline.
    pub timeline: u32,
    /// Timeline it forked from.
    pub previous: u32,
    /// `wal_level`, from 17 on.
    pub wal_level: Option<i32>,
}

/// An XLOG record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xlog<'a> {
    /// Checkpoint; the encoded `CheckPoint`.
    Checkpoint {
        /// Written by a shutdown: nothing else runs.
        shutdown: bool,
        /// The structure.
        body: &'a [u8; CHECKPOINT_SIZE],
    },
    /// Object ids up to here are handed out.
    NextOid(u32),
    /// End of a base backup that began at this position.
    BackupEnd(Lsn),
    /// Server settings changed.
    ParameterChange(ParameterChange),
    /// A named position.
    RestorePoint {
        /// Microseconds since 2000-01-01.
        time: i64,
        /// Name without its NUL padding.
        name: &'a [u8],
    },
    /// `full_page_writes` changed.
    FpwChange(bool),
    /// End of recovery.
    EndOfRecovery(EndOfRecovery),
    /// Full-page images.
    Fpi {
        /// Made for a hint bit only; may lack its image.
        hint: bool,
    },
    /// The record before the page is abandoned.
    OverwriteContrecord {
        /// Start of the abandoned record.
        overwritten: Lsn,
        /// Microseconds since 2000-01-01.
        time: i64,
    },
    /// Nothing that matters to pages: no-op, segment switch, redo marker.
    Other,
}

impl<'a> Xlog<'a> {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<Xlog<'a>, Error> {
        let mut c = Cursor::new(rec.main, "XLOG record");
        Ok(match rec.op() {
            o @ (op::CHECKPOINT_SHUTDOWN | op::CHECKPOINT_ONLINE) => {
                let body = c.take(CHECKPOINT_SIZE)?;
                match body.first_chunk() {
                    Some(body) => Xlog::Checkpoint {
                        shutdown: o == op::CHECKPOINT_SHUTDOWN,
                        body,
                    },
                    None => return Err(opcode::unknown(&rec.header, version)),
                }
            }
            op::NEXTOID => Xlog::NextOid(c.u32()?),
            op::BACKUP_END => Xlog::BackupEnd(Lsn(c.u64()?)),
            op::PARAMETER_CHANGE => Xlog::ParameterChange(ParameterChange {
                max_connections: c.i32()?,
                max_worker_processes: c.i32()?,
                max_wal_senders: c.i32()?,
                max_prepared_xacts: c.i32()?,
                max_locks_per_xact: c.i32()?,
                wal_level: c.i32()?,
                wal_log_hints: c.u8()? != 0,
                track_commit_timestamp: c.u8()? != 0,
            }),
            op::RESTORE_POINT => {
                let time = c.i64()?;
                let name = c.take(RESTORE_POINT_NAME)?;
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                Xlog::RestorePoint {
                    time,
                    name: name.get(..end).unwrap_or_default(),
                }
            }
            op::FPW_CHANGE => Xlog::FpwChange(c.u8()? != 0),
            op::END_OF_RECOVERY => Xlog::EndOfRecovery(EndOfRecovery {
                time: c.i64()?,
                timeline: c.u32()?,
                previous: c.u32()?,
                wal_level: if version >= PgMajor::V17 {
                    Some(c.i32()?)
                } else {
                    None
                },
            }),
            op::FPI_FOR_HINT => Xlog::Fpi { hint: true },
            op::FPI => Xlog::Fpi { hint: false },
            op::OVERWRITE_CONTRECORD => Xlog::OverwriteContrecord {
                overwritten: Lsn(c.u64()?),
                time: c.i64()?,
            },
            op::NOOP | op::SWITCH => Xlog::Other,
            op::CHECKPOINT_REDO if version >= PgMajor::V17 => Xlog::Other,
            _ => return Err(opcode::unknown(&rec.header, version)),
        })
    }
}
