//! What a redo action is given and what it answers.
//!
//! Each resource manager has one entry point, `fn redo(cx: &Context<'_>, page: &mut Page<'_>) ->
//! Result<Effect, Fault>`, called for the reference [`Context::block()`] when the page has to be
//! changed: the page exists, is older than the record, and was zeroed if the reference says
//! WILL_INIT. The caller sets the page LSN after [`Effect::Changed`]. Actions that also apply
//! after a restored image go to `after_image` of [`crate::redo`].

use crate::error::Fault;

use crate::redo::Dialect;
use pg_wal::{Block, View};
use types::{BlockNumber, Lsn, PgMajor};

/// One record seen from one of the blocks it references.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The record, seen from the page.
    pub rec: &'a View<'a>,
    /// End of the record.
    pub lsn: Lsn,
    /// Version and flavour of the WAL.
    pub dialect: Dialect,
}

impl<'a> Context<'a> {
    /// The manager's part of the info byte.
    #[inline]
    pub fn op(&self) -> u8 {
        self.rec.op()
    }

    /// The Postgres version.
    #[inline]
    pub fn version(&self) -> PgMajor {
        self.dialect.version
    }

    /// Transaction id in the record header.
    #[inline]
    pub fn xid(&self) -> u32 {
        self.rec.header.xid
    }

    /// Main data.
    #[inline]
    pub fn main(&self) -> &'a [u8] {
        self.rec.main
    }

    /// The reference that names the page.
    #[inline]
    pub fn block(&self) -> &'a Block<'a> {
        &self.rec.block
    }

    /// Block data of the reference that names the page.
    #[inline]
    pub fn data(&self) -> &'a [u8] {
        self.rec.block.data
    }

    /// True if the record has reference `id`.
    #[inline]
    pub fn has(&self, id: u8) -> bool {
        self.rec.has(id)
    }

    /// Block number of reference `id`.
    #[inline]
    pub fn blk(&self, id: u8) -> Result<BlockNumber, Fault> {
        self.rec
            .block_number(id)
            .ok_or(Fault::Rule("a block reference is missing"))
    }
}

/// What an action did to the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// The page changed and takes the record's LSN.
    Changed,
    /// The page changed but keeps its LSN.
    Unlogged,
    /// Page and LSN stay as they are.
    Untouched,
}
