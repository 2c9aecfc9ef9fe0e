//! The summary at the start of a layer file: whose layer it is, what it covers, where its index is.
//!
//! | offset | size | delta (96 bytes) | image (88 bytes) |
//! |---|---|---|---|
//! | 0 | 2 | magic `5A61` | magic `5A60` |
//! | 2 | 2 | version 3 | version 3 |
//! | 4 | 16 | tenant | tenant |
//! | 20 | 16 | timeline | timeline |
//! | 36 | 18 + 18 | key range | key range |
//! | 72 | 8 | LSN start | LSN |
//! | 80 | 8 | LSN end | - |
//! | then | 4 + 4 | first index block, root block counted from there | same |
//!
//! The timeline is that of the writer: a layer copied to a branch keeps its ancestor's. Shard and
//! generation are not in the file.

use crate::name::Name;
use crate::{BLOCK, BLOCK_SIZE};
use bytes::BufMut;
use types::be::{self, Reader};
use types::{Key, KeyRange, Lsn, TenantId, TimelineId};

/// Magic of a delta layer.
pub const DELTA_MAGIC: u16 = 0x5A61;
/// Magic of an image layer.
pub const IMAGE_MAGIC: u16 = 0x5A60;
/// Format version written and read.
pub const VERSION: u16 = 3;
/// Lowest block the index can begin at: block 0 is the summary, block 1 holds a blob.
const MIN_INDEX_START: u32 = 2;

/// A summary is damaged, or belongs to another layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Cut off.
    #[error("layer summary: {0}")]
    Encoding(#[from] be::Error),
    /// Not a layer file.
    #[error("layer summary: magic {0:#06x} is neither 0x5a60 nor 0x5a61")]
    Magic(u16),
    /// A format this program does not know.
    #[error("layer summary: format version {0}, 3 is supported")]
    Version(u16),
    /// The file holds another layer than its name says.
    #[error("layer summary describes {found}, the file is {expected}")]
    Name {
        /// Name made of the summary's content.
        found: Box<Name>,
        /// Name of the file.
        expected: Box<Name>,
    },
    /// The file holds another tenant's layer.
    #[error("layer summary is of tenant {found}, {expected} expected")]
    Tenant {
        /// Tenant in the summary.
        found: TenantId,
        /// Whose file it should be.
        expected: TenantId,
    },
    /// The index cannot begin there.
    #[error("layer summary: index begins at block {0}")]
    IndexStart(u32),
}

/// The content of a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Tenant.
    pub tenant: TenantId,
    /// Timeline of the writer.
    pub timeline: TimelineId,
    /// What the layer covers; a name without generation.
    pub name: Name,
    /// First block of the index.
    pub index_start: u32,
    /// Root node, counted from `index_start`.
    pub index_root: u32,
}

impl Summary {
    /// Block 0 with this summary, otherwise zero.
    pub fn encode(&self) -> [u8; BLOCK_SIZE] {
        let mut b = Vec::with_capacity(96);
        b.put_u16(if self.name.is_delta() {
            DELTA_MAGIC
        } else {
            IMAGE_MAGIC
        });
        b.put_u16(VERSION);
        b.put_slice(&self.tenant.0);
        b.put_slice(&self.timeline.0);
        let keys = self.name.keys();
        b.put_slice(&keys.start.to_bytes());
        b.put_slice(&keys.end.to_bytes());
        match &self.name {
            Name::Image { lsn, .. } => b.put_u64(lsn.0),
            Name::Delta { lsns, .. } => {
                b.put_u64(lsns.start.0);
                b.put_u64(lsns.end.0);
            }
        }
        b.put_u32(self.index_start);
        b.put_u32(self.index_root);
        let mut block = [0; BLOCK_SIZE];
        block.iter_mut().zip(b).for_each(|(to, from)| *to = from);
        block
    }

    /// Reads the summary at the start of block 0; what follows is not looked at.
    pub fn decode(block0: &[u8]) -> Result<Summary, Error> {
        let mut r = Reader::new(block0);
        let magic = r.u16()?;
        if magic != DELTA_MAGIC && magic != IMAGE_MAGIC {
            return Err(Error::Magic(magic));
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let tenant = TenantId(r.array()?);
        let timeline = TimelineId(r.array()?);
        let keys = KeyRange {
            start: Key::read(&mut r)?,
            end: Key::read(&mut r)?,
        };
        let lsn = Lsn(r.u64()?);
        let name = match magic {
            DELTA_MAGIC => Name::Delta {
                keys,
                lsns: lsn..Lsn(r.u64()?),
            },
            _ => Name::Image { keys, lsn },
        };
        let (index_start, index_root) = (r.u32()?, r.u32()?);
        if index_start < MIN_INDEX_START {
            return Err(Error::IndexStart(index_start));
        }
        Ok(Summary {
            tenant,
            timeline,
            name,
            index_start,
            index_root,
        })
    }

    /// Checks that the file is the one expected. The timeline is not compared.
    pub fn check(&self, name: &Name, tenant: &TenantId) -> Result<(), Error> {
        if self.tenant != *tenant {
            return Err(Error::Tenant {
                found: self.tenant,
                expected: *tenant,
            });
        }
        if self.name != *name {
            return Err(Error::Name {
                found: Box::new(self.name.clone()),
                expected: Box::new(name.clone()),
            });
        }
        Ok(())
    }

    /// File offset of the index, in bytes: also the end of the blobs.
    pub const fn index_offset(&self) -> u64 {
        self.index_start as u64 * BLOCK
    }
}
