//! Posting-list segments of posting-tree leaves.
//!
//! A segment is its first tid (6 bytes), the length of the rest (u16), and for each further tid
//! the distance to its predecessor in groups of 7 bits, least significant first, the high bit
//! saying that more follow. A segment takes an even number of bytes.

use super::{COMPRESSED, PAYLOAD, change_flags, flags, max_off, set_max_off, set_payload_len};
use crate::error::Fault;
use crate::index::{TID_SIZE, tid, tid_parts};
use crate::page::Page;
use arrayvec::ArrayVec;
use pg_wal::cursor::Cursor;
use types::PAGE_SIZE;

const DELETE: u8 = 1;
const INSERT: u8 = 2;
const REPLACE: u8 = 3;
const ADD_ITEMS: u8 = 4;

/// First tid and length.
const SEGMENT_HEADER: usize = TID_SIZE + 2;
/// Bits of an offset number in a tid seen as an integer.
const OFFSET_BITS: u32 = 11;
/// Longest encoded distance in bytes.
const MAX_VARBYTE: u32 = 7;

/// New payload under construction.
type Out = ArrayVec<u8, PAGE_SIZE>;

const OVERFLOW: Fault = Fault::Rule("posting tree page overflows");
const ORDER: Fault = Fault::Rule("tids of a posting list do not ascend");

fn pack(stored: [u8; TID_SIZE]) -> Result<u64, Fault> {
    let (block, off) = tid_parts(stored);
    if off >= 1 << OFFSET_BITS {
        return Err(Fault::Rule("offset number too large for a posting list"));
    }
    Ok(u64::from(block) << OFFSET_BITS | u64::from(off))
}

fn unpack(v: u64) -> Result<[u8; TID_SIZE], Fault> {
    let block = u32::try_from(v >> OFFSET_BITS)
        .map_err(|_| Fault::Rule("block number in a posting list overflows"))?;
    Ok(tid(block, (v & ((1 << OFFSET_BITS) - 1)) as u16))
}

/// Bytes of the segment at the cursor.
fn take<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let mut head = *c;
    head.skip(TID_SIZE)?;
    let len = usize::from(head.u16()?);
    Ok(c.take(SEGMENT_HEADER + len.next_multiple_of(2))?)
}

/// The tids of one segment as integers.
#[derive(Clone, Debug)]
pub(super) struct Tids<'a> {
    rest: &'a [u8],
    next: Option<u64>,
}

impl<'a> Tids<'a> {
    /// Starts at the first tid.
    pub fn new(segment: &'a [u8]) -> Result<Self, Fault> {
        let mut c = Cursor::new(segment, "posting list segment");
        let first = pack(c.array()?)?;
        let len = usize::from(c.u16()?);
        Ok(Tids {
            rest: c.take(len)?,
            next: Some(first),
        })
    }

    /// The next tid without taking it.
    pub const fn peek(&self) -> Option<u64> {
        self.next
    }

    /// Takes the next tid.
    #[inline]
    pub fn advance(&mut self) -> Result<(), Fault> {
        let Some(now) = self.next else { return Ok(()) };
        let mut distance = 0u64;
        let mut bytes = self.rest.iter();
        for shift in (0..7 * MAX_VARBYTE).step_by(7) {
            let Some(b) = bytes.next() else {
                if shift > 0 {
                    break;
                }
                self.next = None;
                return Ok(());
            };
            distance |= u64::from(b & 0x7F) << shift;
            if b & 0x80 == 0 {
                self.rest = bytes.as_slice();
                self.next = Some(now + distance);
                let in_order = distance != 0 && (now + distance) >> (32 + OFFSET_BITS) == 0;
                return if in_order { Ok(()) } else { Err(ORDER) };
            }
        }
        Err(Fault::Rule("posting list segment ends inside a distance"))
    }
}

/// Writes one segment.
struct Writer<'o> {
    out: &'o mut Out,
    start: usize,
    last: Option<u64>,
}

impl<'o> Writer<'o> {
    const fn new(out: &'o mut Out) -> Self {
        let start = out.len();
        Writer {
            out,
            start,
            last: None,
        }
    }

    fn push(&mut self, v: u64) -> Result<(), Fault> {
        match self.last {
            None => {
                extend(self.out, &[0; SEGMENT_HEADER]).and_then(|()| self.patch(0, &unpack(v)?))?
            }
            Some(last) => {
                let mut distance = v.checked_sub(last).filter(|d| *d > 0).ok_or(ORDER)?;
                while distance > 0x7F {
                    self.byte(0x80 | (distance & 0x7F) as u8)?;
                    distance >>= 7;
                }
                self.byte(distance as u8)?;
            }
        }
        self.last = Some(v);
        Ok(())
    }

    /// Takes over encoded distances that follow the last tid pushed and end at `last`.
    fn copy(&mut self, distances: &[u8], last: u64) -> Result<(), Fault> {
        self.last = Some(last);
        extend(self.out, distances)
    }

    fn byte(&mut self, b: u8) -> Result<(), Fault> {
        self.out.try_push(b).map_err(|_| OVERFLOW)
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let from = self.start + at;
        self.out
            .get_mut(from..from + bytes.len())
            .ok_or(OVERFLOW)?
            .copy_from_slice(bytes);
        Ok(())
    }

    /// Writes the length and the padding.
    fn finish(mut self) -> Result<(), Fault> {
        if self.last.is_none() {
            return Ok(());
        }
        let len = self.out.len() - self.start - SEGMENT_HEADER;
        // A page holds fewer bytes than a u16 counts.
        self.patch(TID_SIZE, &(len as u16).to_le_bytes())?;
        if len.is_multiple_of(2) {
            Ok(())
        } else {
            self.byte(0)
        }
    }
}

fn extend(out: &mut Out, bytes: &[u8]) -> Result<(), Fault> {
    out.try_extend_from_slice(bytes).map_err(|_| OVERFLOW)
}

/// One segment with the tids of `old` and the stored, ascending tids `new`; duplicates once.
/// Distances between neighbours of `old` that stay neighbours are copied as they stand.
fn merge(old: &[u8], new: &[[u8; TID_SIZE]], out: &mut Out) -> Result<(), Fault> {
    let mut old = Tids::new(old)?;
    let mut writer = Writer::new(out);
    for stored in new {
        let added = pack(*stored)?;
        if let Some(v) = old.peek().filter(|v| *v < added) {
            writer.push(v)?;
            let mut run = old.rest;
            let mut last = v;
            let mut before = old.rest;
            old.advance()?;
            while let Some(v) = old.peek().filter(|v| *v < added) {
                last = v;
                before = old.rest;
                old.advance()?;
            }
            run = run.get(..run.len() - before.len()).unwrap_or_default();
            writer.copy(run, last)?;
        }
        if old.peek() == Some(added) {
            old.advance()?;
        }
        writer.push(added)?;
    }
    if let Some(v) = old.peek() {
        writer.push(v)?;
        writer.copy(old.rest, v)?;
    }
    writer.finish()
}

/// Turns the tid array of a leaf written before Postgres 9.4 into one segment.
fn compress(page: &mut Page<'_>) -> Result<(), Fault> {
    let count = usize::from(max_off(page)?);
    let mut out = Out::new();
    let mut writer = Writer::new(&mut out);
    for stored in page
        .range(PAYLOAD, TID_SIZE * count)?
        .as_chunks::<TID_SIZE>()
        .0
    {
        writer.push(pack(*stored)?)?;
    }
    writer.finish()?;
    set_payload_len(page, out.len())?;
    page.put(PAYLOAD, &out)?;
    change_flags(page, 0, COMPRESSED)?;
    set_max_off(page, 0)
}

/// Applies the logged actions to the segments of a leaf.
pub(super) fn recompress(page: &mut Page<'_>, data: &[u8]) -> Result<(), Fault> {
    if flags(page)? & COMPRESSED == 0 {
        compress(page)?;
    }
    let old_len = usize::from(page.lower())
        .checked_sub(PAYLOAD)
        .ok_or(Fault::Rule("posting tree page without payload"))?;
    let mut old = Cursor::new(page.range(PAYLOAD, old_len)?, "posting tree page");
    // Everything before the first segment touched stays in place; `out` takes over from there.
    let mut kept_in_place = None;
    let mut out = Out::new();
    let mut number = 0u16;
    let mut c = Cursor::new(data, "gin recompression");
    for _ in 0..c.u16()? {
        let (target, action) = (u16::from(c.u8()?), c.u8()?);
        let from = old;
        while number < target {
            take(&mut old)?;
            number += 1;
        }
        if number > target {
            return Err(Fault::Rule("segment numbers do not ascend"));
        }
        let passed = old.position() - from.position();
        match kept_in_place {
            None => kept_in_place = Some(old.position()),
            Some(_) => extend(&mut out, from.rest().get(..passed).unwrap_or_default())?,
        }
        match action {
            DELETE => {}
            INSERT | REPLACE => extend(&mut out, take(&mut c)?)?,
            ADD_ITEMS => {
                let count = usize::from(c.u16()?);
                let new = c.take(TID_SIZE * count)?;
                let mut this = old;
                merge(take(&mut this)?, new.as_chunks::<TID_SIZE>().0, &mut out)?;
            }
            _ => return Err(Fault::Rule("unknown segment action")),
        }
        if action != INSERT {
            take(&mut old)?;
            number += 1;
        }
    }
    let Some(start) = kept_in_place else {
        return Ok(());
    };
    let (rest_from, rest) = (old.position(), old.left());
    set_payload_len(page, start + out.len() + rest)?;
    page.move_bytes(PAYLOAD + rest_from, PAYLOAD + start + out.len(), rest)?;
    Ok(page.put(PAYLOAD + start, &out)?)
}
