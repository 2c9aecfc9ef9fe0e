//! Why a WAL stream is refused.

use types::{Lsn, PgMajor};

/// A WAL stream that breaks a rule. Every variant names the position it was found at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The decoder was set up with a start position or a segment size that cannot be.
    #[error("cannot decode WAL from {start}: {rule}")]
    Setup {
        /// The start position.
        start: Lsn,
        /// The rule.
        rule: &'static str,
    },
    /// Bytes at another position than the next one wanted.
    #[error("WAL bytes at {found} fed where {expected} is next: {}", if found > expected { "gap" } else { "overlap" })]
    Position {
        /// The next position wanted.
        expected: Lsn,
        /// Position of the bytes.
        found: Lsn,
    },
    /// The stream would run past the largest LSN.
    #[error("WAL at {at} runs past the end of the address space")]
    AddressSpace {
        /// Where.
        at: Lsn,
    },
    /// A page header with another magic than the version's.
    #[error("WAL page {page}: magic {found:#06X}, Postgres {version} writes {:#06X}", version.wal_magic())]
    Magic {
        /// The page.
        page: Lsn,
        /// `xlp_magic`.
        found: u16,
        /// The configured version.
        version: PgMajor,
    },
    /// A page header with unknown or impossible flags.
    #[error("WAL page {page}: header flags {flags:#06X}: {rule}")]
    Flags {
        /// The page.
        page: Lsn,
        /// `xlp_info`.
        flags: u16,
        /// What is wrong with them.
        rule: &'static str,
    },
    /// A page header that belongs elsewhere, typically a recycled file.
    #[error("WAL page {page}: header says it is page {found}")]
    PageAddress {
        /// The page.
        page: Lsn,
        /// `xlp_pageaddr`.
        found: Lsn,
    },
    /// WAL of another cluster.
    #[error("WAL page {page}: system identifier {found}, expected {expected}")]
    SystemIdentifier {
        /// The page.
        page: Lsn,
        /// `xlp_sysid`.
        found: u64,
        /// The configured one.
        expected: u64,
    },
    /// WAL of a cluster with another segment or page size.
    #[error("WAL page {page}: {what} is {found}, expected {expected}")]
    Geometry {
        /// The page.
        page: Lsn,
        /// Which size.
        what: &'static str,
        /// The size in the header.
        found: u32,
        /// The size expected.
        expected: u32,
    },
    /// A page of a timeline that may not follow.
    #[error("WAL page {page}: timeline {found} after timeline {current}")]
    Timeline {
        /// The page.
        page: Lsn,
        /// `xlp_tli`.
        found: u32,
        /// Timeline of the bytes before.
        current: u32,
    },
    /// A page continues a record where none is open.
    #[error(
        "WAL page {page}: {rem_len} bytes of a continued record announced, but no record is open"
    )]
    UnexpectedContinuation {
        /// The page.
        page: Lsn,
        /// `xlp_rem_len`.
        rem_len: u32,
    },
    /// A page does not continue the open record, or announces another length.
    #[error(
        "WAL page {page}: record at {start} needs {missing} more bytes, the page header announces {rem_len}"
    )]
    Continuation {
        /// The page.
        page: Lsn,
        /// Start of the open record.
        start: Lsn,
        /// Bytes it lacks.
        missing: u32,
        /// `xlp_rem_len`, 0 if the page does not continue a record.
        rem_len: u32,
    },
    /// A zero length where a record should start. In a file this is the end of WAL.
    #[error("WAL record at {start}: length 0")]
    ZeroLength {
        /// Where the record should start.
        start: Lsn,
    },
    /// A length outside 24 bytes to [`crate::record::MAX_RECORD_SIZE`].
    #[error("WAL record at {start}: impossible length {length}")]
    Length {
        /// Start of the record.
        start: Lsn,
        /// `xl_tot_len`.
        length: u32,
    },
    /// A record that does not follow the one before it.
    #[error("WAL record at {start}: says the previous record is at {found}, expected {expected}")]
    Previous {
        /// Start of the record.
        start: Lsn,
        /// `xl_prev`.
        found: Lsn,
        /// Start of the record before.
        expected: Lsn,
    },
    /// A first record whose predecessor is not before it.
    #[error(
        "WAL record at {start}: says the previous record is at {found}, which is not before it"
    )]
    PreviousOrder {
        /// Start of the record.
        start: Lsn,
        /// `xl_prev`.
        found: Lsn,
    },
    /// A damaged record.
    #[error("WAL record at {start}: CRC mismatch over {length} bytes")]
    Crc {
        /// Start of the record.
        start: Lsn,
        /// `xl_tot_len`.
        length: u32,
    },
    /// A record that stands where an aborted one was overwritten but does not say so, or names
    /// another one.
    #[error(
        "WAL record at {start}: {found:?} overwritten according to it, {expected:?} according to the stream"
    )]
    Overwrite {
        /// Start of the record.
        start: Lsn,
        /// The aborted record according to the record; none if it is of another kind.
        found: Option<Lsn>,
        /// The aborted record according to the stream; none if there is none.
        expected: Option<Lsn>,
    },
}
