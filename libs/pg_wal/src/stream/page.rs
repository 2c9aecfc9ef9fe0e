//! WAL page headers (`XLogPageHeaderData`, `XLogLongPageHeaderData`).

use super::Error;
use crate::cursor::{Cursor, Short};
use types::Lsn;
use types::lsn::{LONG_PAGE_HEADER, SHORT_PAGE_HEADER, WAL_PAGE_SIZE};

/// The page's first data continues a record.
pub(super) const CONTRECORD: u16 = 0x0001;
/// The header has the long form.
pub(super) const LONG_HEADER: u16 = 0x0002;
/// Backup blocks may be removed; informational.
pub(super) const BKP_REMOVABLE: u16 = 0x0004;
/// The page's first record overwrites an aborted one.
pub(super) const OVERWRITE_CONTRECORD: u16 = 0x0008;

/// A WAL page header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// `xlp_magic`, one value per Postgres major.
    pub magic: u16,
    /// `xlp_info`, flag bits.
    pub flags: u16,
    /// Timeline of the first record on the page.
    pub timeline: u32,
    /// Position of the page.
    pub address: Lsn,
    /// Bytes of a continued record still to come, counted from this page's payload on.
    pub rem_len: u32,
    /// What only the first page of a segment has.
    pub long: Option<LongHeader>,
}

/// The extra fields of the first page of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongHeader {
    /// System identifier of the cluster.
    pub system_identifier: u64,
    /// Segment size in bytes.
    pub segment_size: u32,
    /// WAL page size in bytes.
    pub page_size: u32,
}

impl PageHeader {
    /// Size of the header of the page at `page`, in bytes.
    pub(super) const fn size_at(page: Lsn, segment_size: u64) -> usize {
        if page.segment_offset(segment_size) == 0 {
            LONG_PAGE_HEADER as usize
        } else {
            SHORT_PAGE_HEADER as usize
        }
    }

    /// Reads a header; the long form if its flag says so.
    ///
    /// # Errors
    /// [`Short`] if `raw` ends inside the header.
    pub fn parse(raw: &[u8]) -> Result<PageHeader, Short> {
        let mut c = Cursor::new(raw, "WAL page header");
        let magic = c.u16()?;
        let flags = c.u16()?;
        let timeline = c.u32()?;
        let address = Lsn(c.u64()?);
        let rem_len = c.u32()?;
        c.skip(4)?;
        let long = if flags & LONG_HEADER != 0 {
            Some(LongHeader {
                system_identifier: c.u64()?,
                segment_size: c.u32()?,
                page_size: c.u32()?,
            })
        } else {
            None
        };
        Ok(PageHeader {
            magic,
            flags,
            timeline,
            address,
            rem_len,
            long,
        })
    }

    /// The page's first data continues a record.
    pub const fn continues(&self) -> bool {
        self.flags & CONTRECORD != 0
    }

    /// The page's first record overwrites an aborted one.
    pub const fn overwrites(&self) -> bool {
        self.flags & OVERWRITE_CONTRECORD != 0
    }

    /// Checks everything that does not depend on the records: magic, flags, address, cluster and
    /// sizes. The timeline and the continuation are the decoder's.
    pub(super) fn verify(&self, page: Lsn, cfg: &super::Config) -> Result<(), Error> {
        let flags = self.flags;
        if self.magic != cfg.version.wal_magic() {
            return Err(Error::Magic {
                page,
                found: self.magic,
                version: cfg.version,
            });
        }
        if flags & !(CONTRECORD | LONG_HEADER | BKP_REMOVABLE | OVERWRITE_CONTRECORD) != 0 {
            return Err(Error::Flags {
                page,
                flags,
                rule: "unknown flag",
            });
        }
        if self.address != page {
            return Err(Error::PageAddress {
                page,
                found: self.address,
            });
        }
        match (
            self.long,
            page.segment_offset(u64::from(cfg.segment_size)) == 0,
        ) {
            (Some(long), true) => long.verify(page, cfg)?,
            (None, false) => {}
            (Some(_), false) => {
                return Err(Error::Flags {
                    page,
                    flags,
                    rule: "long header inside a segment",
                });
            }
            (None, true) => {
                return Err(Error::Flags {
                    page,
                    flags,
                    rule: "short header at a segment start",
                });
            }
        }
        if self.continues() && self.overwrites() {
            return Err(Error::Flags {
                page,
                flags,
                rule: "continues and overwrites a record",
            });
        }
        Ok(())
    }
}

impl LongHeader {
    fn verify(&self, page: Lsn, cfg: &super::Config) -> Result<(), Error> {
        if let Some(expected) = cfg.system_identifier
            && expected != self.system_identifier
        {
            return Err(Error::SystemIdentifier {
                page,
                found: self.system_identifier,
                expected,
            });
        }
        for (what, found, expected) in [
            ("segment size", self.segment_size, cfg.segment_size),
            ("page size", self.page_size, WAL_PAGE_SIZE as u32),
        ] {
            if found != expected {
                return Err(Error::Geometry {
                    page,
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}
