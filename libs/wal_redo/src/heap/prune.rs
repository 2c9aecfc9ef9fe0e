//! Pruning and freezing: PRUNE, VACUUM and FREEZE_PAGE of 14 to 16, the merged record of 17 and
//! later.

use super::tuple::Tuple;
use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::page::{LinePointer, Page};
use pg_wal::cursor::Cursor;
use types::PgMajor;

const PRUNE: u8 = 0x10;
const VACUUM: u8 = 0x20;

const CLEANUP_LOCK: u8 = 0x04;
const HAS_HORIZON: u8 = 0x08;
const HAS_FREEZE: u8 = 0x10;
const HAS_REDIRECTED: u8 = 0x20;
const HAS_DEAD: u8 = 0x40;
const HAS_UNUSED: u8 = 0x80;

/// Size of a freeze plan in bytes.
const PLAN_SIZE: usize = 12;

/// Replays codes 0x10 to 0x30 of Heap2.
pub(super) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    page.check()?;
    if cx.version() >= PgMajor::V17 {
        merged(cx, page)?;
    } else {
        match cx.op() & 0x70 {
            PRUNE => prune(cx, page)?,
            VACUUM => vacuum(cx, page)?,
            _ => freeze_page(cx, page)?,
        }
    }
    Ok(Effect::Changed)
}

/// Array of u16 in block data.
fn list<'a>(c: &mut Cursor<'a>, count: usize) -> Result<impl Iterator<Item = u16> + 'a, Fault> {
    let bytes = c.take(count * 2)?;
    let (pairs, _) = bytes.as_chunks::<2>();
    Ok(pairs.iter().map(|b| u16::from_le_bytes(*b)))
}

fn redirect(page: &mut Page<'_>, c: &mut Cursor<'_>, pairs: usize) -> Result<(), Fault> {
    for _ in 0..pairs {
        let (from, to) = (c.u16()?, c.u16()?);
        page.set_line_pointer(from, LinePointer::new(to, LinePointer::REDIRECT, 0))?;
    }
    Ok(())
}

fn empty(page: &mut Page<'_>, c: &mut Cursor<'_>, count: usize, state: u8) -> Result<(), Fault> {
    for off in list(c, count)? {
        page.set_line_pointer(off, LinePointer::new(0, state, 0))?;
    }
    Ok(())
}

/// Postgres 14 never shortens the line pointer array while it prunes.
fn repair(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    Ok(page.repair_fragmentation(cx.version() >= PgMajor::V15)?)
}

fn prune(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut main = Cursor::new(cx.main(), "prune record");
    main.skip(4)?;
    let (redirected, dead) = (usize::from(main.u16()?), usize::from(main.u16()?));
    let mut c = Cursor::new(cx.data(), "prune lists");
    redirect(page, &mut c, redirected)?;
    empty(page, &mut c, dead, LinePointer::DEAD)?;
    let unused = c.left() / 2;
    empty(page, &mut c, unused, LinePointer::UNUSED)?;
    repair(cx, page)
}

fn vacuum(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let unused = Cursor::new(cx.main(), "vacuum record").u16()?;
    let mut c = Cursor::new(cx.data(), "vacuum list");
    empty(page, &mut c, usize::from(unused), LinePointer::UNUSED)?;
    Ok(page.truncate_line_pointers()?)
}

/// What freezing writes into a tuple header.
#[derive(Clone, Copy)]
struct Plan {
    xmax: u32,
    infomask2: u16,
    infomask: u16,
    flags: u8,
}

impl Plan {
    fn execute(&self, page: &mut Page<'_>, off: u16) -> Result<(), Fault> {
        const FREEZE_XVAC: u8 = 2;
        const INVALID_XVAC: u8 = 4;
        let mut t = Tuple::find(page, off)?;
        t.set_xmax(page, self.xmax)?;
        if self.flags & FREEZE_XVAC != 0 {
            t.set_xvac(page, 2)?;
        }
        if self.flags & INVALID_XVAC != 0 {
            t.set_xvac(page, 0)?;
        }
        (t.infomask, t.infomask2) = (self.infomask, self.infomask2);
        t.store_masks(page)
    }

    /// A shared plan and the number of tuples it is for.
    fn parse(c: &mut Cursor<'_>) -> Result<(Plan, usize), Fault> {
        let (xmax, infomask2, infomask, flags) = (c.u32()?, c.u16()?, c.u16()?, c.u8()?);
        c.skip(1)?;
        Ok((
            Plan {
                xmax,
                infomask2,
                infomask,
                flags,
            },
            usize::from(c.u16()?),
        ))
    }
}

fn freeze_page(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut main = Cursor::new(cx.main(), "freeze record");
    main.skip(4)?;
    let count = usize::from(main.u16()?);
    let mut c = Cursor::new(cx.data(), "freeze plans");
    if cx.version() >= PgMajor::V16 {
        let plans = c.take(count * PLAN_SIZE)?;
        return execute(page, plans, &mut c);
    }
    for _ in 0..count {
        let (xmax, off, infomask2, infomask, flags) =
            (c.u32()?, c.u16()?, c.u16()?, c.u16()?, c.u8()?);
        c.skip(1)?;
        Plan {
            xmax,
            infomask2,
            infomask,
            flags,
        }
        .execute(page, off)?;
    }
    Ok(())
}

/// Shared plans, followed by the offset numbers of the first plan, of the second, …
fn execute(page: &mut Page<'_>, plans: &[u8], offsets: &mut Cursor<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(plans, "freeze plans");
    while c.left() > 0 {
        let (plan, count) = Plan::parse(&mut c)?;
        for off in list(offsets, count)? {
            plan.execute(page, off)?;
        }
    }
    if offsets.left() != 0 {
        return Err(Fault::Rule(
            "offset numbers are left over behind the freeze plans",
        ));
    }
    Ok(())
}

fn merged(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut main = Cursor::new(cx.main(), "prune and freeze record");
    main.skip(1)?;
    let flags = main.u8()?;
    if flags & HAS_HORIZON != 0 {
        main.skip(4)?;
    }
    let mut c = Cursor::new(cx.data(), "prune and freeze lists");
    let mut plans: &[u8] = &[];
    if flags & HAS_FREEZE != 0 {
        let count = usize::from(c.u16()?);
        c.skip(2)?;
        plans = c.take(count * PLAN_SIZE)?;
    }
    if flags & HAS_REDIRECTED != 0 {
        let pairs = usize::from(c.u16()?);
        redirect(page, &mut c, pairs)?;
    }
    for (bit, state) in [
        (HAS_DEAD, LinePointer::DEAD),
        (HAS_UNUSED, LinePointer::UNUSED),
    ] {
        if flags & bit != 0 {
            let count = usize::from(c.u16()?);
            empty(page, &mut c, count, state)?;
        }
    }
    if flags & (HAS_REDIRECTED | HAS_DEAD | HAS_UNUSED) != 0 {
        if flags & CLEANUP_LOCK != 0 {
            repair(cx, page)?;
        } else if flags & (HAS_REDIRECTED | HAS_DEAD) != 0 {
            return Err(Fault::Rule(
                "redirections or dead items without a cleanup lock",
            ));
        } else {
            page.truncate_line_pointers()?;
        }
    }
    execute(page, plans, &mut c)
}
