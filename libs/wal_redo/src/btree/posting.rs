//! Posting list tuples: one key, several heap tids in ascending order.
//!
//! The tid field of such a tuple holds the byte offset of the list (as block number) and the
//! number of tids with a mark (as offset number).

use super::ALT_TID;
use crate::error::Fault;
use crate::index::{self, Offsets, TID_SIZE, TUPLE_HEADER};
use crate::page::align8;
use arrayvec::ArrayVec;

/// Mark in the offset number of a posting list tuple.
pub(super) const IS_POSTING: u16 = 0x2000;
/// Most tids in one tuple.
pub(super) const MAX_TIDS: usize = 0x0FFF;
/// Longest index tuple in bytes.
const MAX_TUPLE: usize = 0x1FFF + 1;

pub(super) const TOO_SHORT: Fault = Fault::Rule("index tuple runs past its end");
const NOT_POSTING: Fault = Fault::Rule("not a posting list tuple");

/// The heap tids of a tuple.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tids {
    /// Bytes before the list; of a plain tuple all of it.
    pub keysize: usize,
    /// Tids in the list; 0 for a plain tuple.
    pub listed: usize,
}

impl Tids {
    /// Finds the heap tids of a data item.
    pub fn of(tuple: &[u8]) -> Result<Tids, Fault> {
        let (block, off) = index::tuple_tid(tuple)?;
        if index::tuple_info(tuple)? & ALT_TID == 0 || off & IS_POSTING == 0 {
            let keysize = index::tuple_len(tuple)?;
            return if keysize <= tuple.len() {
                Ok(Tids { keysize, listed: 0 })
            } else {
                Err(TOO_SHORT)
            };
        }
        let listed = usize::from(off) & MAX_TIDS;
        let keysize = usize::try_from(block).unwrap_or(usize::MAX);
        if keysize < TUPLE_HEADER || listed == 0 {
            return Err(NOT_POSTING);
        }
        match keysize.checked_add(TID_SIZE * listed) {
            Some(end) if end <= tuple.len() => Ok(Tids { keysize, listed }),
            _ => Err(TOO_SHORT),
        }
    }

    /// Number of heap tids, listed or not.
    pub fn count(self) -> usize {
        self.listed.max(1)
    }

    /// The stored tids, one after the other.
    pub fn bytes(self, tuple: &[u8]) -> Result<&[u8], Fault> {
        let (from, to) = match self.listed {
            0 => (0, TID_SIZE),
            n => (self.keysize, self.keysize + TID_SIZE * n),
        };
        tuple.get(from..to).ok_or(TOO_SHORT)
    }
}

/// The stored tid of a plain tuple.
pub(super) fn first_tid(tuple: &[u8]) -> Result<[u8; TID_SIZE], Fault> {
    tuple.first_chunk().copied().ok_or(TOO_SHORT)
}

/// The last tid of a posting list that `at` splits.
pub(super) fn last_tid(tuple: &[u8], at: usize) -> Result<[u8; TID_SIZE], Fault> {
    let tids = Tids::of(tuple)?;
    if at == 0 || at >= tids.listed {
        return Err(Fault::Rule("posting split outside the posting list"));
    }
    tids.bytes(tuple)?.last_chunk().copied().ok_or(TOO_SHORT)
}

/// Puts `new` at place `at` of the list and takes out the last tid, which is returned.
pub(super) fn swap(
    tuple: &mut [u8],
    new: [u8; TID_SIZE],
    at: usize,
) -> Result<[u8; TID_SIZE], Fault> {
    let last = last_tid(tuple, at)?;
    let tids = Tids::of(tuple)?;
    let from = tids.keysize + TID_SIZE * at;
    let list = tuple
        .get_mut(from..tids.keysize + TID_SIZE * tids.listed)
        .ok_or(TOO_SHORT)?;
    let kept = list.len().saturating_sub(TID_SIZE);
    list.copy_within(..kept, TID_SIZE);
    *list.first_chunk_mut().ok_or(TOO_SHORT)? = new;
    Ok(last)
}

/// Sets length and tid field of a tuple being built for `count` tids behind `keysize` bytes of
/// header and key. With a single tid the tuple is plain and `single` goes into its header.
pub(super) fn write_header(
    tuple: &mut [u8],
    keysize: usize,
    count: usize,
    single: [u8; TID_SIZE],
) -> Result<(), Fault> {
    let len = tuple.len();
    if len > 0x1FFF || count > MAX_TIDS {
        return Err(Fault::Rule("posting list tuple too long"));
    }
    let upper = index::tuple_info(tuple)? & !0x1FFF & !ALT_TID;
    let (tid, mark) = match count {
        1 => (single, 0),
        n => (index::tid(keysize as u32, n as u16 | IS_POSTING), ALT_TID),
    };
    let info = (len as u16 | upper | mark).to_le_bytes();
    let head = tuple.first_chunk_mut::<TUPLE_HEADER>().ok_or(TOO_SHORT)?;
    for (to, from) in head.iter_mut().zip(tid.into_iter().chain(info)) {
        *to = from;
    }
    Ok(())
}

/// Length of a tuple with `count` tids behind `keysize` bytes.
pub(super) const fn size(keysize: usize, count: usize) -> usize {
    if count == 1 {
        keysize
    } else {
        align8(keysize + TID_SIZE * count)
    }
}

/// A copy of a posting list tuple without the tids at the given places (from 0, ascending).
pub(super) fn without(
    tuple: &[u8],
    dropped: Offsets<'_>,
) -> Result<ArrayVec<u8, MAX_TUPLE>, Fault> {
    let tids = Tids::of(tuple)?;
    if tids.listed == 0 {
        return Err(NOT_POSTING);
    }
    let kept = tids
        .listed
        .checked_sub(dropped.len())
        .filter(|kept| *kept > 0)
        .ok_or(Fault::Rule("every tid of a posting list dropped"))?;
    let mut copy = ArrayVec::new();
    let full = |_| Fault::Rule("posting list tuple too long");
    copy.try_extend_from_slice(tuple.get(..tids.keysize).ok_or(TOO_SHORT)?)
        .map_err(full)?;
    let mut gone = dropped.iter().peekable();
    let mut single = [0; TID_SIZE];
    let mut left = 0;
    for (i, tid) in (0u16..).zip(tids.bytes(tuple)?.as_chunks::<TID_SIZE>().0) {
        if gone.next_if_eq(&i).is_some() {
            continue;
        }
        left += 1;
        if kept == 1 {
            single = *tid;
        } else {
            copy.try_extend_from_slice(tid).map_err(full)?;
        }
    }
    if left != kept {
        return Err(Fault::Rule(
            "dropped tids do not ascend or are outside the posting list",
        ));
    }
    while copy.len() < size(tids.keysize, kept) {
        copy.try_push(0)
            .map_err(|_| Fault::Rule("posting list tuple too long"))?;
    }
    write_header(&mut copy, tids.keysize, kept, single)?;
    Ok(copy)
}
