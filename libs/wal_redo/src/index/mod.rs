//! What the index access methods share: tids, index tuples and the place of the special space
//! (Postgres headers `storage/itemptr.h` and `access/itup.h`).

use crate::error::Fault;
use crate::page::{Page, Place, align8};
use pg_wal::cursor::Cursor;
use types::PAGE_SIZE;

#[cfg(test)]
pub(crate) mod testing;

/// Length of the header of an index tuple in bytes.
pub const TUPLE_HEADER: usize = 8;
/// "No block" everywhere but in btree.
pub const NO_BLOCK: u32 = u32::MAX;
/// Length of a tid in bytes.
pub const TID_SIZE: usize = 6;

/// A tid in its stored form: block number high half first, then the offset number.
#[inline]
pub const fn tid(block: u32, off: u16) -> [u8; TID_SIZE] {
    let [b0, b1, b2, b3] = block.to_le_bytes();
    let [o0, o1] = off.to_le_bytes();
    [b2, b3, b0, b1, o0, o1]
}

/// Block and offset number of a stored tid.
#[inline]
pub const fn tid_parts([b2, b3, b0, b1, o0, o1]: [u8; TID_SIZE]) -> (u32, u16) {
    (
        u32::from_le_bytes([b0, b1, b2, b3]),
        u16::from_le_bytes([o0, o1]),
    )
}

/// The info word of an index tuple.
#[inline]
pub fn tuple_info(tuple: &[u8]) -> Result<u16, Fault> {
    match tuple.first_chunk::<TUPLE_HEADER>() {
        Some([.., a, b]) => Ok(u16::from_le_bytes([*a, *b])),
        None => Err(Fault::Rule("index tuple shorter than its header")),
    }
}

/// Length of the index tuple that `bytes` begins with, as its header tells it.
#[inline]
pub fn tuple_len(bytes: &[u8]) -> Result<usize, Fault> {
    let len = usize::from(tuple_info(bytes)? & 0x1FFF);
    if len < TUPLE_HEADER {
        return Err(Fault::Rule("index tuple length below its header's"));
    }
    Ok(len)
}

/// The tid at the start of an index tuple.
#[inline]
pub fn tuple_tid(tuple: &[u8]) -> Result<(u32, u16), Fault> {
    match tuple.first_chunk::<TID_SIZE>() {
        Some(t) => Ok(tid_parts(*t)),
        None => Err(Fault::Rule("index tuple shorter than its header")),
    }
}

/// Replaces the tid at the start of an index tuple.
#[inline]
pub fn set_tuple_tid(tuple: &mut [u8], block: u32, off: u16) -> Result<(), Fault> {
    match tuple.first_chunk_mut::<TID_SIZE>() {
        Some(t) => {
            *t = tid(block, off);
            Ok(())
        }
        None => Err(Fault::Rule("index tuple shorter than its header")),
    }
}

/// The next index tuple of a record, without padding.
#[inline]
pub fn take_tuple<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let len = tuple_len(c.rest())?;
    Ok(c.take(len)?)
}

/// The next index tuple of a record and the padding behind it.
#[inline]
pub fn take_padded_tuple<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let len = align8(tuple_len(c.rest())?);
    Ok(c.take(len)?)
}

/// Where a special space of `size` bytes (a multiple of 8) begins. Fails if the page has none
/// of that size.
#[inline]
pub fn special(page: &Page<'_>, size: usize) -> Result<usize, Fault> {
    page.check()?;
    let at = usize::from(page.special_offset());
    if at + size == PAGE_SIZE {
        Ok(at)
    } else {
        Err(Fault::Rule("page has another kind of special space"))
    }
}

/// Adds an item behind the last one.
#[inline]
pub fn append(page: &mut Page<'_>, item: &[u8]) -> Result<(), Fault> {
    let off = page.max_offset() + 1;
    Ok(page.add(item, off, Place::Shift)?)
}

/// The next offset number list of `n` entries in a record, as raw bytes.
#[inline]
pub fn take_offsets<'a>(c: &mut Cursor<'a>, n: u16) -> Result<Offsets<'a>, Fault> {
    Ok(Offsets {
        bytes: c.take(2 * usize::from(n))?,
    })
}

/// An array of u16 in a record; it need not be aligned.
#[derive(Clone, Copy, Debug)]
pub struct Offsets<'a> {
    bytes: &'a [u8],
}

impl<'a> Offsets<'a> {
    /// Everything in `bytes`, which must have an even length.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len().is_multiple_of(2) {
            Ok(Offsets { bytes })
        } else {
            Err(Fault::Rule("offset number list of odd length"))
        }
    }

    /// Number of entries.
    #[inline]
    pub const fn len(self) -> usize {
        self.bytes.len() / 2
    }

    /// The entries.
    #[inline]
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + Clone + 'a {
        let (pairs, _) = self.bytes.as_chunks::<2>();
        pairs.iter().map(|p| u16::from_le_bytes(*p))
    }

    /// Entry `i`, counted from 0.
    #[inline]
    pub fn get(self, i: usize) -> Option<u16> {
        let (pairs, _) = self.bytes.as_chunks::<2>();
        pairs.get(i).map(|p| u16::from_le_bytes(*p))
    }

    /// The last entry.
    #[inline]
    pub fn last(self) -> Option<u16> {
        self.iter().next_back()
    }

    /// Removes the items with these offset numbers, which must ascend.
    pub fn delete_from(self, page: &mut Page<'_>) -> Result<(), Fault> {
        let list = self.to_list()?;
        if !list.is_sorted_by(|a, b| a < b) {
            return Err(Fault::Rule("offset numbers do not ascend"));
        }
        Ok(page.multi_delete(&list)?)
    }

    /// The entries in a list on the stack.
    pub fn to_list(self) -> Result<OffsetList, Fault> {
        let mut list = OffsetList::new();
        for off in self.iter() {
            list.try_push(off)
                .map_err(|_| Fault::Rule("more offset numbers than a page can have"))?;
        }
        Ok(list)
    }
}

/// Offset numbers of one page.
pub type OffsetList = arrayvec::ArrayVec<u16, { crate::page::MAX_INDEX_TUPLES }>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tid_stores_the_high_half_of_the_block_first() {
        assert_eq!(tid(0x0102_0304, 7), [0x02, 0x01, 0x04, 0x03, 7, 0]);
        assert_eq!(tid_parts(tid(0xDEAD_BEEF, 513)), (0xDEAD_BEEF, 513));
    }

    #[test]
    fn a_tuple_shorter_than_its_header_is_refused() {
        assert!(tuple_len(&[0; 7]).is_err());
        assert!(tuple_len(&[0, 0, 0, 0, 0, 0, 7, 0]).is_err());
        assert_eq!(tuple_len(&[0, 0, 0, 0, 0, 0, 16, 0x40]), Ok(16));
    }

    #[test]
    fn offset_lists_must_ascend_and_fit() {
        let mut buf = [0u8; PAGE_SIZE];
        let mut page = Page::new(&mut buf);
        page.init(16);
        for _ in 0..4 {
            append(&mut page, &[1; 16]).unwrap();
        }
        let list = |v: &[u16]| v.iter().flat_map(|o| o.to_le_bytes()).collect::<Vec<u8>>();
        assert!(
            Offsets::new(&list(&[2, 1]))
                .unwrap()
                .delete_from(&mut page)
                .is_err()
        );
        assert!(
            Offsets::new(&list(&[2, 2]))
                .unwrap()
                .delete_from(&mut page)
                .is_err()
        );
        assert!(Offsets::new(&[0; 3]).is_err());
        Offsets::new(&list(&[1, 3]))
            .unwrap()
            .delete_from(&mut page)
            .unwrap();
        assert_eq!(page.max_offset(), 2);
    }
}
