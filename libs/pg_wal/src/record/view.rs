//! A record seen from one of its blocks: all that redo of one page needs, without the rest.

use super::walk::walk;
use super::{Block, Error, Header};
use types::{BlockNumber, PgMajor, RelTag};

/// A record seen from one block reference. The whole envelope was checked, as by
/// [`Record::parse`](super::Record::parse); only one reference is kept. The others can be asked
/// for by id, which walks the headers again.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Fixed header.
    pub header: Header,
    /// The reference the record is seen from.
    pub block: Block<'a>,
    /// Main data; empty if there is none.
    pub main: &'a [u8],
    raw: &'a [u8],
    version: PgMajor,
    /// A bit for each id that exists.
    ids: u64,
}

impl<'a> View<'a> {
    /// Parses a whole record and looks at it from the first reference that `wanted` (id,
    /// relation fork, block) accepts; None if there is none.
    #[inline]
    pub fn find(
        raw: &'a [u8],
        version: PgMajor,
        mut wanted: impl FnMut(u8, RelTag, BlockNumber) -> bool,
    ) -> Result<Option<View<'a>>, Error> {
        let (mut found, mut ids) = (None, 0);
        let all = walk(raw, version, |r| {
            ids |= 1 << r.id;
            if found.is_none() && wanted(r.id, r.rel, r.block) {
                found = Some(*r);
            }
        })?;
        let Some(found) = found else {
            return Ok(None);
        };
        let block = found.block(all.payload)?;
        Ok(Some(View {
            header: all.header,
            block,
            main: all.main,
            raw,
            version,
            ids,
        }))
    }

    /// True if the record has a reference with block id `id`.
    #[inline]
    pub const fn has(&self, id: u8) -> bool {
        matches!(self.ids.checked_shr(id as u32), Some(bits) if bits & 1 != 0)
    }

    /// Block number of the reference with block id `id`.
    #[inline]
    pub fn block_number(&self, id: u8) -> Option<BlockNumber> {
        if self.block.id == id {
            return Some(self.block.block);
        }
        if !self.has(id) {
            return None;
        }
        let mut number = None;
        let checked = walk(self.raw, self.version, |r| {
            if r.id == id {
                number = Some(r.block);
            }
        });
        checked.ok().and(number)
    }

    /// The high nibble of `info`.
    #[inline]
    pub const fn op(&self) -> u8 {
        self.header.info & 0xF0
    }
}
