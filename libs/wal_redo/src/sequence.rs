//! Redo of sequence records.

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::page::{Page, Place};
use pg_wal::cursor::Cursor;

const MAGIC: u32 = 0x1717;
/// Relation locator before the tuple in the main data.
const LOCATOR_SIZE: usize = 12;

/// Rebuilds the sequence's only page from the record.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    if cx.op() != 0 {
        return Err(Fault::Unsupported);
    }
    let mut c = Cursor::new(cx.main(), "sequence record");
    c.skip(LOCATOR_SIZE)?;
    page.init(8);
    page.special_mut()?
        .iter_mut()
        .zip(MAGIC.to_le_bytes())
        .for_each(|(to, from)| *to = from);
    page.add(c.rest(), 1, Place::Overwrite)?;
    Ok(Effect::Changed)
}
