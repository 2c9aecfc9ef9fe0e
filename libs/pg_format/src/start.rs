//! How a server is made to start at an LSN: `pg_control` and the first WAL segment.
//!
//! Two kinds of server, two starts. A Neon compute trusts the checkpoint copy in `pg_control`
//! and needs page headers up to its LSN ([`neon_start`]). A vanilla server wants to read a
//! shutdown checkpoint from WAL ([`vanilla_start`]): it gets one as the first record of a
//! segment of its own, behind every position the exported pages can carry, and comes up as
//! after a clean shutdown, without replay.
//!
//! Neither looks at data files. A vanilla server that starts without replay does not create the
//! main forks of unlogged relations; whoever exports must copy their init forks.

use crate::checkpoint::{CHECKPOINT_SIZE, CheckPoint};
use crate::control::{ControlFile, State};
use crate::wal_segment::{self, FIRST_IS_CONTRECORD, NEON_SEGMENT_SIZE, PageHeader, Segment};
use types::lsn::{LONG_PAGE_HEADER, SHORT_PAGE_HEADER, WAL_PAGE_SIZE};
use types::{Lsn, PgMajor};

/// Size of a checkpoint record: header, data header, [`CheckPoint`].
pub const CHECKPOINT_RECORD_SIZE: usize = 24 + 2 + CHECKPOINT_SIZE;
/// `xl_info` of a shutdown checkpoint in the XLOG resource manager, whose id is 0.
const SHUTDOWN_CHECKPOINT: u8 = 0;
/// Id byte of record data whose length fits a byte.
const SHORT_DATA: u8 = 255;

/// Why no start can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Inside a page header, where no record can end.
    #[error("a server cannot start at {0}, which is inside a WAL page header")]
    InHeader(Lsn),
    /// Zero, or so high that there is no room behind it.
    #[error("a server cannot start at {0}")]
    Position(Lsn),
    /// Timeline ids begin at 1.
    #[error("0 is not a Postgres timeline id")]
    Timeline,
    /// Neon computes are built for one segment size and majors up to 17.
    #[error(
        "a Neon compute of Postgres {major} with WAL segments of {segment_size} bytes does not exist"
    )]
    NotNeon {
        /// Major of the control file.
        major: PgMajor,
        /// Its segment size in bytes.
        segment_size: u32,
    },
}

/// The files a server starts from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// `global/pg_control`.
    pub control: ControlFile,
    /// The one file in `pg_wal`.
    pub segment: Segment,
    /// Where the server takes up: the redo position in `control`.
    pub start_lsn: Lsn,
}

/// A shutdown checkpoint record. `previous` is the position of the record before it, or zero.
pub fn checkpoint_record(checkpoint: &CheckPoint, previous: Lsn) -> [u8; CHECKPOINT_RECORD_SIZE] {
    let data = checkpoint.encode();
    let mut head = [0u8; 20];
    let fields = [
        &(CHECKPOINT_RECORD_SIZE as u32).to_le_bytes()[..],
        &[0; 4],
        &previous.0.to_le_bytes(),
        &[SHUTDOWN_CHECKPOINT, 0, 0, 0],
    ];
    for (to, from) in head.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    let data_header = [SHORT_DATA, CHECKPOINT_SIZE as u8];
    // The CRC covers the data first, then the header up to the CRC itself.
    let crc = types::crc32c::of(&data_header);
    let crc = types::crc32c::append(crc, &data);
    let crc = types::crc32c::append(crc, &head).to_le_bytes();
    let mut out = [0; CHECKPOINT_RECORD_SIZE];
    let all = [&head[..], &crc, &data_header, &data];
    for (to, from) in out.iter_mut().zip(all.into_iter().flatten()) {
        *to = *from;
    }
    out
}

/// Start of a vanilla server on data as of `lsn`, as Postgres timeline `tli`.
///
/// The new segment is the first one strictly behind the one that holds `lsn`, so that all pages
/// are older than all new WAL. Counters come from `checkpoint`; commit timestamps and running
/// transactions are cleared. Identity, settings, checksums and segment size of `control` stay.
pub fn vanilla_start(
    control: &ControlFile,
    checkpoint: &CheckPoint,
    lsn: Lsn,
    tli: u32,
) -> Result<Start, Error> {
    if tli == 0 {
        return Err(Error::Timeline);
    }
    let segment_size = control.wal_segment_size();
    let size = u64::from(segment_size);
    let number = lsn.segment_number(size) + 1;
    let address = number
        .checked_mul(size)
        .filter(|at| lsn.is_valid() && at.checked_add(size).is_some())
        .map(Lsn)
        .ok_or(Error::Position(lsn))?;
    let redo = address.saturating_add(LONG_PAGE_HEADER);
    let mut checkpoint = checkpoint.for_fresh_start(redo, tli);
    if control.major() >= PgMajor::V17 {
        checkpoint.wal_level.get_or_insert(control.wal_level());
    } else {
        checkpoint.wal_level = None;
    }
    let header = PageHeader {
        major: control.major(),
        info: 0,
        tli,
        address,
        remaining: 0,
    };
    let header = header.long(control.system_identifier(), segment_size);
    let record = checkpoint_record(&checkpoint, Lsn::INVALID);
    let segment = Segment::zero(wal_segment::name(tli, number, segment_size), segment_size)
        .with(0, &[&header[..], &record].concat());
    let control = control
        .patch()
        .state(State::ShutDown)
        .checkpoint_lsn(redo)
        .checkpoint(&checkpoint)
        .clear_recovery()
        .finish();
    Ok(Start {
        control,
        segment,
        start_lsn: redo,
    })
}

/// Start of a Neon compute at `lsn`. The segment holds the headers the compute needs to write on
/// from there; the checkpoint copy's redo is `lsn`, moved behind a page header if it is on a
/// page boundary. Timeline id 1, segments of 16 MiB.
pub fn neon_start(
    control: &ControlFile,
    checkpoint: &CheckPoint,
    lsn: Lsn,
) -> Result<Start, Error> {
    let (major, segment_size) = (control.major(), control.wal_segment_size());
    if segment_size != NEON_SEGMENT_SIZE || major > PgMajor::V17 {
        return Err(Error::NotNeon {
            major,
            segment_size,
        });
    }
    let segment = boot_segment(major, control.system_identifier(), lsn)?;
    let redo = lsn.skip_page_header(u64::from(NEON_SEGMENT_SIZE));
    let checkpoint = CheckPoint {
        redo,
        ..checkpoint.clone()
    };
    let control = control
        .patch()
        .state(State::ShutDown)
        .checkpoint_lsn(Lsn::INVALID)
        .checkpoint(&checkpoint)
        .finish();
    Ok(Start {
        control,
        segment,
        start_lsn: redo,
    })
}

/// The segment that holds `lsn`, with the headers a Neon compute needs: that of the segment and
/// that of the page of `lsn`, which claims that everything before `lsn` continues a record.
pub fn boot_segment(major: PgMajor, system_identifier: u64, lsn: Lsn) -> Result<Segment, Error> {
    let size = u64::from(NEON_SEGMENT_SIZE);
    if !lsn.is_valid() || lsn.0 > u64::MAX - size {
        return Err(Error::Position(lsn));
    }
    let number = lsn.segment_number(size);
    let offset = lsn.segment_offset(size);
    let in_page = lsn.page_offset();
    let first_page = offset < WAL_PAGE_SIZE;
    let header_size = if first_page {
        LONG_PAGE_HEADER
    } else {
        SHORT_PAGE_HEADER
    };
    if in_page != 0 && in_page < header_size {
        return Err(Error::InHeader(lsn));
    }
    let address = lsn.saturating_sub(in_page);
    let (info, remaining) = match in_page {
        0 => (0, 0),
        n => (FIRST_IS_CONTRECORD, (n - header_size) as u32),
    };
    let page = PageHeader {
        major,
        info,
        tli: 1,
        address,
        remaining,
    };
    let zero = Segment::zero(
        wal_segment::name(1, number, NEON_SEGMENT_SIZE),
        NEON_SEGMENT_SIZE,
    );
    if first_page {
        return Ok(zero.with(0, &page.long(system_identifier, NEON_SEGMENT_SIZE)));
    }
    let first = PageHeader {
        info: 0,
        address: lsn.saturating_sub(offset),
        remaining: 0,
        ..page
    };
    Ok(zero
        .with(0, &first.long(system_identifier, NEON_SEGMENT_SIZE))
        .with((offset - in_page) as u32, &page.short()))
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
