//! Redo of generic WAL records, which extensions such as bloom write.

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::page::Page;
use pg_wal::cursor::Cursor;

/// Copies the fragments of the block data into the page and zeroes the hole.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let mut c = Cursor::new(cx.data(), "generic record fragments");
    while c.left() > 0 {
        let at = usize::from(c.u16()?);
        let len = usize::from(c.u16()?);
        page.put(at, c.take(len)?)?;
    }
    let (lower, upper) = (usize::from(page.lower()), usize::from(page.upper()));
    let Some(hole) = upper.checked_sub(lower) else {
        page.check()?;
        return Err(Fault::Rule("the fragments leave the page without a hole"));
    };
    page.range_mut(lower, hole)?.fill(0);
    Ok(Effect::Changed)
}
