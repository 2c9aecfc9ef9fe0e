//! `pg_control`: identity, state, limits and last checkpoint of a cluster.
//!
//! A [`ControlFile`] can only be made from bytes whose CRC-32C, control version and catalog
//! version are those of a supported major, on a machine with the usual 8 KiB pages; whatever it
//! writes carries a fresh CRC. The file is 8192 bytes, zero behind the structure. Layout:
//! `catalog/pg_control.h`, `docs/format/pgdata.md`.

use crate::checkpoint::{CHECKPOINT_SIZE, CheckPoint};
use crate::le::{get, put};
use types::{Lsn, PAGE_SIZE, PgMajor};

/// Size of the file in bytes.
pub const CONTROL_FILE_SIZE: usize = 8192;
/// Bytes that hold the structure and its CRC in every supported major.
const STRUCT_SIZE: usize = 296;
/// Smallest and largest WAL segment size in bytes.
pub const WAL_SEGMENT_SIZES: std::ops::RangeInclusive<u32> = 1 << 20..=1 << 30;

/// What a control file can be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not between 296 and 8192 bytes.
    #[error("pg_control of {0} bytes, expected 296 to {CONTROL_FILE_SIZE}")]
    Size(usize),
    /// Not written by a supported major, or with the other byte order.
    #[error(
        "pg_control version {control} with catalog version {catalog} is not one of Postgres 14 to 18"
    )]
    Version {
        /// `pg_control_version`.
        control: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
    /// CRC-32C mismatch.
    #[error("pg_control CRC at offset {at} is {found:08X}, computed {computed:08X}")]
    Crc {
        /// Offset of the CRC.
        at: usize,
        /// The one in the file.
        found: u32,
        /// The right one.
        computed: u32,
    },
    /// `state` is not a known number.
    #[error("pg_control state {0} is unknown")]
    State(u32),
    /// Built with sizes this software does not handle.
    #[error("pg_control {field} at offset {at} is {found}, which is not supported")]
    Unsupported {
        /// Field name.
        field: &'static str,
        /// Its offset.
        at: usize,
        /// Its value.
        found: u32,
    },
}

/// State of the cluster (`DBState`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Being started for the first time.
    Startup = 0,
    /// Cleanly shut down.
    ShutDown = 1,
    /// Standby, cleanly shut down.
    ShutDownInRecovery = 2,
    /// On its way down.
    ShuttingDown = 3,
    /// In crash recovery.
    InCrashRecovery = 4,
    /// Standby, or restoring an archive.
    InArchiveRecovery = 5,
    /// Running; in a file at rest: crashed, or copied while running.
    InProduction = 6,
}

impl State {
    /// The state with this number, if there is one.
    pub const fn from_u32(n: u32) -> Option<State> {
        Some(match n {
            0 => State::Startup,
            1 => State::ShutDown,
            2 => State::ShutDownInRecovery,
            3 => State::ShuttingDown,
            4 => State::InCrashRecovery,
            5 => State::InArchiveRecovery,
            6 => State::InProduction,
            _ => return None,
        })
    }
}

/// Settings a standby must match or exceed; the payload of `XLOG_PARAMETER_CHANGE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parameters {
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
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// A verified control file.
#[derive(Clone, PartialEq, Eq)]
pub struct ControlFile {
    raw: [u8; STRUCT_SIZE],
    major: PgMajor,
}

/// `pg_control_version` of a major.
pub const fn control_version(major: PgMajor) -> u32 {
    match major {
        PgMajor::V14 | PgMajor::V15 | PgMajor::V16 => 1300,
        PgMajor::V17 => 1700,
        PgMajor::V18 => 1800,
    }
}

/// `catalog_version_no` of a major's releases. Also part of tablespace directory names.
pub const fn catalog_version(major: PgMajor) -> u32 {
    match major {
        PgMajor::V14 => 202_107_181,
        PgMajor::V15 => 202_209_061,
        PgMajor::V16 => 202_307_071,
        PgMajor::V17 => 202_406_281,
        PgMajor::V18 => 202_506_291,
    }
}

const fn crc_offset(major: PgMajor) -> usize {
    match major {
        PgMajor::V14 | PgMajor::V15 | PgMajor::V16 | PgMajor::V17 => 288,
        PgMajor::V18 => 292,
    }
}

impl ControlFile {
    /// Verifies the bytes of a `pg_control` file.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, Error> {
        let raw = match bytes.first_chunk::<STRUCT_SIZE>() {
            Some(raw) if bytes.len() <= CONTROL_FILE_SIZE => *raw,
            _ => return Err(Error::Size(bytes.len())),
        };
        let control = u32::from_le_bytes(get::<8, 4, _>(&raw));
        let catalog = u32::from_le_bytes(get::<12, 4, _>(&raw));
        let major = PgMajor::ALL
            .into_iter()
            .find(|m| control == control_version(*m) && catalog == catalog_version(*m))
            .ok_or(Error::Version { control, catalog })?;
        let mut file = ControlFile { raw, major };
        let (found, computed) = (file.stored_crc(), file.computed_crc());
        if found != computed {
            return Err(Error::Crc {
                at: crc_offset(major),
                found,
                computed,
            });
        }
        if major < PgMajor::V18 {
            put::<292, 4, _>(&mut file.raw, [0; 4]);
        }
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), Error> {
        let state = self.u32_at::<16>();
        State::from_u32(state).ok_or(Error::State(state))?;
        let pages = PAGE_SIZE as u32;
        for (field, at, found, good) in [
            ("blcksz", 216, self.block_size(), self.block_size() == pages),
            ("relseg_size", 220, self.u32_at::<220>(), {
                self.u32_at::<220>() == types::rel::BLOCKS_PER_SEGMENT
            }),
            (
                "xlog_blcksz",
                224,
                self.u32_at::<224>(),
                self.u32_at::<224>() == pages,
            ),
            ("xlog_seg_size", 228, self.wal_segment_size(), {
                let n = self.wal_segment_size();
                n.is_power_of_two() && WAL_SEGMENT_SIZES.contains(&n)
            }),
        ] {
            if !good {
                return Err(Error::Unsupported { field, at, found });
            }
        }
        Ok(())
    }

    fn u32_at<const AT: usize>(&self) -> u32 {
        u32::from_le_bytes(get::<AT, 4, _>(&self.raw))
    }

    fn i32_at<const AT: usize>(&self) -> i32 {
        i32::from_le_bytes(get::<AT, 4, _>(&self.raw))
    }

    fn u64_at<const AT: usize>(&self) -> u64 {
        u64::from_le_bytes(get::<AT, 8, _>(&self.raw))
    }

    fn bool_at<const AT: usize>(&self) -> bool {
        get::<AT, 1, _>(&self.raw) != [0]
    }

    fn stored_crc(&self) -> u32 {
        match self.major {
            PgMajor::V18 => self.u32_at::<292>(),
            _ => self.u32_at::<288>(),
        }
    }

    fn computed_crc(&self) -> u32 {
        types::crc32c::of(self.raw.split_at(crc_offset(self.major)).0)
    }

    /// The major that wrote the file.
    pub const fn major(&self) -> PgMajor {
        self.major
    }

    /// Identity of the cluster, made at initdb.
    pub fn system_identifier(&self) -> u64 {
        self.u64_at::<0>()
    }

    /// State of the cluster.
    pub fn state(&self) -> State {
        State::from_u32(self.u32_at::<16>()).unwrap_or(State::InProduction)
    }

    /// When the file was last written, seconds since 1970.
    pub fn time(&self) -> i64 {
        i64::from_le_bytes(get::<24, 8, _>(&self.raw))
    }

    /// Start of the last checkpoint record.
    pub fn checkpoint_lsn(&self) -> Lsn {
        Lsn(self.u64_at::<32>())
    }

    /// The 88 bytes of [`ControlFile::checkpoint`].
    pub fn checkpoint_bytes(&self) -> [u8; CHECKPOINT_SIZE] {
        get::<40, CHECKPOINT_SIZE, _>(&self.raw)
    }

    /// Copy of the last checkpoint.
    pub fn checkpoint(&self) -> CheckPoint {
        CheckPoint::parse(&self.checkpoint_bytes(), self.major).unwrap_or_default()
    }

    /// A standby is inconsistent before this position; zero otherwise.
    pub fn min_recovery_point(&self) -> Lsn {
        Lsn(self.u64_at::<136>())
    }

    /// Timeline id of [`ControlFile::min_recovery_point`].
    pub fn min_recovery_point_tli(&self) -> u32 {
        self.u32_at::<144>()
    }

    /// Redo position of the base backup being restored, or zero.
    pub fn backup_start_point(&self) -> Lsn {
        Lsn(self.u64_at::<152>())
    }

    /// End of the base backup being restored, or zero.
    pub fn backup_end_point(&self) -> Lsn {
        Lsn(self.u64_at::<160>())
    }

    /// True if a backup-end record must be replayed first.
    pub fn backup_end_required(&self) -> bool {
        self.bool_at::<168>()
    }

    /// The settings standbys compare with theirs.
    pub fn parameters(&self) -> Parameters {
        Parameters {
            wal_level: self.i32_at::<172>(),
            wal_log_hints: self.bool_at::<176>(),
            max_connections: self.i32_at::<180>(),
            max_worker_processes: self.i32_at::<184>(),
            max_wal_senders: self.i32_at::<188>(),
            max_prepared_xacts: self.i32_at::<192>(),
            max_locks_per_xact: self.i32_at::<196>(),
            track_commit_timestamp: self.bool_at::<200>(),
        }
    }

    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub fn wal_level(&self) -> i32 {
        self.parameters().wal_level
    }

    /// Page size in bytes.
    pub fn block_size(&self) -> u32 {
        self.u32_at::<216>()
    }

    /// WAL segment size in bytes, a power of two from 1 MiB to 1 GiB.
    pub fn wal_segment_size(&self) -> u32 {
        self.u32_at::<228>()
    }

    /// Version of data page checksums; 0 means the cluster has none.
    pub fn data_checksum_version(&self) -> u32 {
        self.u32_at::<252>()
    }

    /// Signedness of `char` on the machine that ran initdb; from 18 on.
    pub fn char_signedness(&self) -> Option<bool> {
        (self.major >= PgMajor::V18).then(|| self.bool_at::<256>())
    }

    /// The file: 8192 bytes with a valid CRC.
    pub fn to_bytes(&self) -> [u8; CONTROL_FILE_SIZE] {
        let mut out = [0; CONTROL_FILE_SIZE];
        put::<0, STRUCT_SIZE, _>(&mut out, self.raw);
        out
    }

    /// Starts a changed copy.
    pub fn patch(&self) -> Patch {
        Patch { file: self.clone() }
    }
}

impl std::fmt::Debug for ControlFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlFile")
            .field("major", &self.major)
            .field("system_identifier", &self.system_identifier())
            .field("state", &self.state())
            .field("checkpoint_lsn", &self.checkpoint_lsn())
            .field("checkpoint", &self.checkpoint())
            .field("parameters", &self.parameters())
            .field("wal_segment_size", &self.wal_segment_size())
            .field("data_checksum_version", &self.data_checksum_version())
            .finish_non_exhaustive()
    }
}

/// A control file being changed; [`Patch::finish`] seals it with a new CRC.
#[derive(Clone, Debug)]
#[must_use = "a patch does nothing until `finish`"]
pub struct Patch {
    file: ControlFile,
}

impl Patch {
    /// Sets the state.
    pub fn state(mut self, state: State) -> Patch {
        put::<16, 4, _>(&mut self.file.raw, (state as u32).to_le_bytes());
        self
    }

    /// Sets the time of writing, seconds since 1970.
    pub fn time(mut self, seconds: i64) -> Patch {
        put::<24, 8, _>(&mut self.file.raw, seconds.to_le_bytes());
        self
    }

    /// Sets the position of the last checkpoint record.
    pub fn checkpoint_lsn(mut self, lsn: Lsn) -> Patch {
        put::<32, 8, _>(&mut self.file.raw, lsn.0.to_le_bytes());
        self
    }

    /// Sets the checkpoint copy.
    pub fn checkpoint(mut self, checkpoint: &CheckPoint) -> Patch {
        put::<40, CHECKPOINT_SIZE, _>(&mut self.file.raw, checkpoint.encode());
        self
    }

    /// Sets the position unlogged relations take their fake LSNs from.
    pub fn unlogged_lsn(mut self, lsn: Lsn) -> Patch {
        put::<128, 8, _>(&mut self.file.raw, lsn.0.to_le_bytes());
        self
    }

    /// Zeroes the minimum recovery point and everything about a backup being restored.
    pub fn clear_recovery(mut self) -> Patch {
        put::<136, 12, _>(&mut self.file.raw, [0; 12]);
        put::<152, 17, _>(&mut self.file.raw, [0; 17]);
        self
    }

    /// Sets the settings standbys compare with theirs.
    pub fn parameters(mut self, p: &Parameters) -> Patch {
        let raw = &mut self.file.raw;
        put::<172, 4, _>(raw, p.wal_level.to_le_bytes());
        put::<176, 1, _>(raw, [u8::from(p.wal_log_hints)]);
        put::<180, 4, _>(raw, p.max_connections.to_le_bytes());
        put::<184, 4, _>(raw, p.max_worker_processes.to_le_bytes());
        put::<188, 4, _>(raw, p.max_wal_senders.to_le_bytes());
        put::<192, 4, _>(raw, p.max_prepared_xacts.to_le_bytes());
        put::<196, 4, _>(raw, p.max_locks_per_xact.to_le_bytes());
        put::<200, 1, _>(raw, [u8::from(p.track_commit_timestamp)]);
        self
    }

    /// Sets the version of data page checksums; 0 turns them off.
    pub fn data_checksum_version(mut self, version: u32) -> Patch {
        put::<252, 4, _>(&mut self.file.raw, version.to_le_bytes());
        self
    }

    /// The changed file.
    pub fn finish(mut self) -> ControlFile {
        let crc = self.file.computed_crc().to_le_bytes();
        match self.file.major {
            PgMajor::V18 => put::<292, 4, _>(&mut self.file.raw, crc),
            _ => put::<288, 4, _>(&mut self.file.raw, crc),
        }
        self.file
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
pub(crate) mod tests;
