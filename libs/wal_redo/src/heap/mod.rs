//! Redo of heap records: managers Heap and Heap2, and Neon's variants of them.

mod form;
mod prune;
mod tuple;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::page::{PD_ALL_VISIBLE, Page};
use crate::redo::Dialect;
use crate::vm;
use arrayvec::ArrayVec;
use form::{Form, TupleHeader};
use pg_wal::View;
use pg_wal::cursor::Cursor;
use pg_wal::record::rmid;
use tuple::{COMBOCID, HEADER_SIZE, HOT_UPDATED, New, Tuple};
use types::{BlockNumber, Flavour, Fork, PgMajor};

/// Set in the info byte when the record reinitialises its page.
const INIT_PAGE: u8 = 0x80;
/// Code of Heap2's VISIBLE.
pub(crate) const VISIBLE: u8 = 0x40;

const ALL_VISIBLE_CLEARED: u8 = 0x01;
const NEW_ALL_VISIBLE_CLEARED: u8 = 0x02;
const ALL_FROZEN_CLEARED: u8 = 0x01;
const ALL_FROZEN_SET: u8 = 0x20;
const SUPER_DELETE: u8 = 0x08;
const PARTITION_MOVE: u8 = 0x10;
const PREFIX: u8 = 0x20;
const SUFFIX: u8 = 0x40;

/// What a record does, whichever manager wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Insert,
    Delete,
    Update { hot: bool },
    Lock,
    LockUpdated,
    MultiInsert,
}

/// Replays a Heap record.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let form = form_of(&cx.dialect);
    match cx.op() & 0x70 {
        0x00 => change(cx, page, form, Op::Insert),
        0x10 => change(cx, page, form, Op::Delete),
        0x20 => change(cx, page, form, Op::Update { hot: false }),
        0x40 => change(cx, page, form, Op::Update { hot: true }),
        0x50 => confirm(cx, page),
        0x60 => change(cx, page, form, Op::Lock),
        0x70 => inplace(cx, page),
        _ => Err(Fault::Unsupported),
    }
}

/// Replays a Heap2 record.
pub(crate) fn redo2(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let form = form_of(&cx.dialect);
    match cx.op() & 0x70 {
        0x10..=0x30 => prune::redo(cx, page),
        VISIBLE => visible(cx, page),
        0x50 => change(cx, page, form, Op::MultiInsert),
        0x60 => change(cx, page, form, Op::LockUpdated),
        _ => Err(Fault::Unsupported),
    }
}

/// Replays a record of Neon's manager.
pub(crate) fn redo_neon(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    if cx.dialect.flavour != Flavour::Neon {
        return Err(Fault::Unsupported);
    }
    let form = Form::NeonManager;
    match cx.op() & 0x70 {
        0x00 => change(cx, page, form, Op::Insert),
        0x10 => change(cx, page, form, Op::Delete),
        0x20 => change(cx, page, form, Op::Update { hot: false }),
        0x30 => change(cx, page, form, Op::Update { hot: true }),
        0x40 => change(cx, page, form, Op::Lock),
        0x50 => change(cx, page, form, Op::MultiInsert),
        _ => Err(Fault::Unsupported),
    }
}

fn form_of(d: &Dialect) -> Form {
    match (d.flavour, d.version) {
        (Flavour::Neon, PgMajor::V14 | PgMajor::V15) => Form::NeonHeap,
        _ => Form::Vanilla,
    }
}

fn change(cx: &Context<'_>, page: &mut Page<'_>, form: Form, op: Op) -> Result<Effect, Fault> {
    if cx.block().rel.fork == Fork::Vm {
        return clear_map(cx, page, form, op);
    }
    if cx.rec.header.info & INIT_PAGE != 0 && cx.block().id == 0 {
        page.init(0);
    }
    match op {
        Op::Insert => insert(cx, page, form)?,
        Op::Delete => delete(cx, page, form)?,
        Op::Update { hot } => update(cx, page, form, hot)?,
        Op::Lock => lock(cx, page, form)?,
        Op::LockUpdated => lock_updated(cx, page, form)?,
        Op::MultiInsert => multi_insert(cx, page, form)?,
    }
    Ok(Effect::Changed)
}

/// Heap blocks, with bits, that a record clears in the visibility map. Empty for records that
/// clear none and for malformed ones.
pub(crate) fn map_bits_cleared(rec: &View<'_>, d: &Dialect) -> ArrayVec<(BlockNumber, u8), 2> {
    let form = form_of(d);
    let found = match (rec.header.rmid, rec.op() & 0x70) {
        (rmid::HEAP, 0x00) => (form, Op::Insert),
        (rmid::HEAP, 0x10) => (form, Op::Delete),
        (rmid::HEAP, 0x20) => (form, Op::Update { hot: false }),
        (rmid::HEAP, 0x40) => (form, Op::Update { hot: true }),
        (rmid::HEAP, 0x60) => (form, Op::Lock),
        (rmid::HEAP2, 0x50) => (form, Op::MultiInsert),
        (rmid::HEAP2, 0x60) => (form, Op::LockUpdated),
        (rmid::NEON, 0x00) => (Form::NeonManager, Op::Insert),
        (rmid::NEON, 0x10) => (Form::NeonManager, Op::Delete),
        (rmid::NEON, 0x20 | 0x30) => (Form::NeonManager, Op::Update { hot: false }),
        (rmid::NEON, 0x40) => (Form::NeonManager, Op::Lock),
        (rmid::NEON, 0x50) => (Form::NeonManager, Op::MultiInsert),
        _ => return ArrayVec::new(),
    };
    cleared(rec, found.0, found.1).unwrap_or_default()
}

fn cleared(rec: &View<'_>, form: Form, op: Op) -> Result<ArrayVec<(BlockNumber, u8), 2>, Fault> {
    let mut out = ArrayVec::new();
    let main = rec.main;
    let (flag, bits, flags) = match op {
        Op::Insert => (ALL_VISIBLE_CLEARED, vm::ALL_BITS, Form::insert(main)?.1),
        Op::MultiInsert => (ALL_VISIBLE_CLEARED, vm::ALL_BITS, form.multi(main)?.0.flags),
        Op::Delete => (ALL_VISIBLE_CLEARED, vm::ALL_BITS, form.delete(main)?.flags),
        Op::Lock => (ALL_FROZEN_CLEARED, vm::ALL_FROZEN, form.lock(main)?.flags),
        Op::LockUpdated => (
            ALL_FROZEN_CLEARED,
            vm::ALL_FROZEN,
            Form::lock_updated(main)?.flags,
        ),
        Op::Update { .. } => {
            let flags = form.update(main)?.old.flags;
            if flags & ALL_VISIBLE_CLEARED != 0
                && let Some(old) = rec.block_number(1).or(rec.block_number(0))
            {
                out.push((old, vm::ALL_BITS));
            }
            (NEW_ALL_VISIBLE_CLEARED, vm::ALL_BITS, flags)
        }
    };
    if flags & flag != 0
        && let Some(new) = rec.block_number(0)
    {
        out.push((new, bits));
    }
    Ok(out)
}

/// A map page the record names: clear every listed block that lives on it.
fn clear_map(cx: &Context<'_>, page: &mut Page<'_>, form: Form, op: Op) -> Result<Effect, Fault> {
    let mut effect = Effect::Untouched;
    for (heap, bits) in cleared(cx.rec, form, op)? {
        if vm::place(heap).0 == cx.block().block && vm::clear(page, heap, bits)? {
            effect = Effect::Changed;
        }
    }
    Ok(effect)
}

/// Command id and infomask of a new tuple.
fn command(form: Form, h: &TupleHeader) -> (u32, u16) {
    if form.is_neon() {
        (h.cid, h.infomask)
    } else {
        (0, h.infomask & !COMBOCID)
    }
}

fn insert(cx: &Context<'_>, page: &mut Page<'_>, form: Form) -> Result<(), Fault> {
    let (off, flags) = Form::insert(cx.main())?;
    let mut c = Cursor::new(cx.data(), "inserted tuple");
    let h = form.tuple_header(&mut c)?;
    let (field3, infomask) = command(form, &h);
    let new = New {
        xmin: cx.xid(),
        xmax: 0,
        field3,
        block: cx.block().block,
        off,
        infomask2: h.infomask2,
        infomask,
        hoff: h.hoff,
    };
    let at = new.place(page, c.left())?;
    page.put(at, c.rest())?;
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    if form.is_neon() && flags & ALL_FROZEN_SET != 0 {
        page.change_flags(0, PD_ALL_VISIBLE);
    }
    Ok(())
}

fn multi_insert(cx: &Context<'_>, page: &mut Page<'_>, form: Form) -> Result<(), Fault> {
    let (main, mut offsets) = form.multi(cx.main())?;
    let init = cx.rec.header.info & INIT_PAGE != 0;
    let mut c = Cursor::new(cx.data(), "inserted tuples");
    for n in 0..main.count {
        let off = if init {
            n.saturating_add(1)
        } else {
            offsets.u16()?
        };
        let (len, h) = form.multi_header(&mut c, main.cid)?;
        let (field3, infomask) = command(form, &h);
        let new = New {
            xmin: cx.xid(),
            xmax: 0,
            field3,
            block: cx.block().block,
            off,
            infomask2: h.infomask2,
            infomask,
            hoff: h.hoff,
        };
        let rest = c.take(len)?;
        let at = new.place(page, len)?;
        page.put(at, rest)?;
    }
    if c.left() != 0 {
        return Err(Fault::Rule(
            "bytes are left over behind the inserted tuples",
        ));
    }
    if main.flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    if main.flags & ALL_FROZEN_SET != 0 {
        page.change_flags(0, PD_ALL_VISIBLE);
    }
    Ok(())
}

/// Remembers the oldest transaction whose end makes pruning worth a try.
fn prunable(page: &mut Page<'_>, xid: u32) {
    const FIRST_NORMAL: u32 = 3;
    let old = page.prune_xid();
    let precedes = if xid < FIRST_NORMAL || old < FIRST_NORMAL {
        xid < old
    } else {
        xid.wrapping_sub(old).cast_signed() < 0
    };
    if old == 0 || precedes {
        page.set_prune_xid(xid);
    }
}

fn delete(cx: &Context<'_>, page: &mut Page<'_>, form: Form) -> Result<(), Fault> {
    let d = form.delete(cx.main())?;
    let mut t = Tuple::find(page, d.off)?;
    t.clear_xmax();
    t.infomask2 &= !HOT_UPDATED;
    t.set_infobits(d.infobits, form.is_neon());
    t.set_command(page, d.cid, form.is_neon())?;
    t.store_masks(page)?;
    if d.flags & SUPER_DELETE != 0 {
        t.set_xmin(page, 0)?;
    } else {
        t.set_xmax(page, d.xmax)?;
    }
    prunable(page, cx.xid());
    if d.flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    if d.flags & PARTITION_MOVE != 0 {
        t.set_moved_partitions(page)
    } else {
        t.set_ctid(page, cx.block().block, d.off)
    }
}

fn update(cx: &Context<'_>, page: &mut Page<'_>, form: Form, hot: bool) -> Result<(), Fault> {
    let u = form.update(cx.main())?;
    let same_page = !cx.has(1);
    let mut old = None;
    if same_page || cx.block().id == 1 {
        old = Some(update_old(cx, page, form, hot, &u)?);
    }
    if cx.block().id == 0 {
        update_new(cx, page, form, &u, old)?;
    }
    Ok(())
}

/// The old version: ends here, points to the new one.
fn update_old(
    cx: &Context<'_>,
    page: &mut Page<'_>,
    form: Form,
    hot: bool,
    u: &form::Update,
) -> Result<Tuple, Fault> {
    let mut t = Tuple::find(page, u.old.off)?;
    t.clear_xmax();
    t.infomask2 = t.infomask2 & !HOT_UPDATED | if hot { HOT_UPDATED } else { 0 };
    t.set_infobits(u.old.infobits, form.is_neon());
    t.set_xmax(page, u.old.xmax)?;
    t.set_command(page, u.old.cid, form.is_neon())?;
    t.store_masks(page)?;
    t.set_ctid(page, cx.blk(0)?, u.new_off)?;
    prunable(page, cx.xid());
    if u.old.flags & ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    Ok(t)
}

/// The new version; parts equal to the old one on the same page are not in the record.
fn update_new(
    cx: &Context<'_>,
    page: &mut Page<'_>,
    form: Form,
    u: &form::Update,
    old: Option<Tuple>,
) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.data(), "new tuple version");
    let flags = u.old.flags;
    let prefix = if flags & PREFIX != 0 {
        usize::from(c.u16()?)
    } else {
        0
    };
    let suffix = if flags & SUFFIX != 0 {
        usize::from(c.u16()?)
    } else {
        0
    };
    let h = form.tuple_header(&mut c)?;
    let (field3, infomask) = command(form, &h);
    let new = New {
        xmin: cx.xid(),
        xmax: u.new_xmax,
        field3,
        block: cx.block().block,
        off: u.new_off,
        infomask2: h.infomask2,
        infomask,
        hoff: h.hoff,
    };
    let mut at = new.place(page, c.left() + prefix + suffix)?;
    if prefix + suffix > 0 {
        let old = old.ok_or(Fault::Rule("prefix or suffix of a tuple on another page"))?;
        let (start, len) = old.data()?;
        if prefix > len || suffix > len {
            return Err(Fault::Rule("prefix or suffix is longer than the old tuple"));
        }
        if prefix > 0 {
            let bitmap = c.take(usize::from(h.hoff).saturating_sub(HEADER_SIZE))?;
            page.put(at, bitmap)?;
            at += bitmap.len();
            page.move_bytes(start, at, prefix)?;
            at += prefix;
        }
        page.put(at, c.rest())?;
        page.move_bytes(start + len - suffix, at + c.left(), suffix)?;
    } else {
        page.put(at, c.rest())?;
    }
    if flags & NEW_ALL_VISIBLE_CLEARED != 0 {
        page.change_flags(PD_ALL_VISIBLE, 0);
    }
    Ok(())
}

fn lock(cx: &Context<'_>, page: &mut Page<'_>, form: Form) -> Result<(), Fault> {
    let l = form.lock(cx.main())?;
    let mut t = Tuple::find(page, l.off)?;
    t.clear_xmax();
    t.set_infobits(l.infobits, form.is_neon());
    if t.is_locked_only() {
        t.infomask2 &= !HOT_UPDATED;
        t.set_ctid(page, cx.block().block, l.off)?;
    }
    t.set_xmax(page, l.xmax)?;
    t.set_command(page, l.cid, form.is_neon())?;
    t.store_masks(page)
}

fn lock_updated(cx: &Context<'_>, page: &mut Page<'_>, form: Form) -> Result<(), Fault> {
    let l = Form::lock_updated(cx.main())?;
    let mut t = Tuple::find(page, l.off)?;
    t.clear_xmax();
    t.set_infobits(l.infobits, form.is_neon());
    t.set_xmax(page, l.xmax)?;
    t.store_masks(page)
}

/// A speculative insertion is final: the tuple points to itself.
fn confirm(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let off = Cursor::new(cx.main(), "heap confirm record").u16()?;
    Tuple::find(page, off)?.set_ctid(page, cx.block().block, off)?;
    Ok(Effect::Changed)
}

fn inplace(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let off = Cursor::new(cx.main(), "heap in-place record").u16()?;
    let (start, len) = Tuple::find(page, off)?.data()?;
    if len != cx.data().len() {
        return Err(Fault::Rule("an in-place update changes the tuple's length"));
    }
    page.put(start, cx.data())?;
    Ok(Effect::Changed)
}

fn visible(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let mut c = Cursor::new(cx.main(), "visible record");
    c.skip(4)?;
    let bits = c.u8()? & vm::ALL_BITS;
    if cx.block().id == 0 {
        let fresh = page.is_new();
        if fresh {
            page.init(0);
        }
        return Ok(match vm::set(page, cx.blk(1)?, bits)? {
            true => Effect::Changed,
            false if fresh => Effect::Unlogged,
            false => Effect::Untouched,
        });
    }
    page.change_flags(0, PD_ALL_VISIBLE);
    // Without hint-bit logging the primary took no image of this page, so its LSN must not
    // promise one.
    Ok(if cx.dialect.hint_bits_logged {
        Effect::Changed
    } else {
        Effect::Unlogged
    })
}
