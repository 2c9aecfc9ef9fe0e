//! Full-page images: decompression and the hole (`docs/format/wal.md`, "Full-page images").
//!
//! Everything is written into the caller's page; what a failed restore leaves there has no meaning.
//! The hole's bytes are not in WAL: they come back as zeros.

mod pglz;

use crate::record::{Compression, Image};
use std::cell::RefCell;
use types::{Lsn, PAGE_SIZE};

/// An image that does not give a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The hole does not lie in the page.
    #[error("image hole of {length} bytes at {offset} does not fit a page")]
    Hole {
        /// Where it begins.
        offset: u16,
        /// Its length in bytes.
        length: u16,
    },
    /// Image and hole together are not a page.
    #[error("image gives {found} bytes, {expected} wanted")]
    Length {
        /// Bytes of the page outside the hole.
        expected: usize,
        /// Bytes the image gives.
        found: usize,
    },
    /// The compressed bytes are malformed.
    #[error("{method:?} image of {length} bytes: {reason}")]
    Compressed {
        /// The method.
        method: Compression,
        /// Length of the compressed bytes.
        length: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Writes the page that `image` holds, exactly as it was before the record (its LSN included).
///
/// # Errors
/// [`Error`]: the image does not give exactly the bytes outside the hole.
pub fn restore(image: &Image<'_>, page: &mut [u8; PAGE_SIZE]) -> Result<(), Error> {
    let (hole_at, hole_len) = (
        usize::from(image.hole_offset),
        usize::from(image.hole_length),
    );
    let bad_hole = Error::Hole {
        offset: image.hole_offset,
        length: image.hole_length,
    };
    let expected = PAGE_SIZE.checked_sub(hole_len).ok_or(bad_hole)?;
    if hole_at > expected {
        return Err(bad_hole);
    }
    let target = page.get_mut(..expected).ok_or(bad_hole)?;
    decompress(image, target)?;
    if hole_len > 0 {
        page.copy_within(hole_at..expected, hole_at + hole_len);
        page.get_mut(hole_at..hole_at + hole_len)
            .ok_or(bad_hole)?
            .fill(0);
    }
    Ok(())
}

/// Like [`restore`], and stamps the page with the end of the record the image came in, unless the
/// page is new (`pd_upper` is 0).
///
/// # Errors
/// As [`restore`].
pub fn restore_with_lsn(
    image: &Image<'_>,
    page: &mut [u8; PAGE_SIZE],
    lsn: Lsn,
) -> Result<(), Error> {
    restore(image, page)?;
    if !is_new(page) {
        set_lsn(page, lsn);
    }
    Ok(())
}

/// A page that was allocated but never initialised: `pd_upper` (u16 at offset 14) is 0.
pub fn is_new(page: &[u8; PAGE_SIZE]) -> bool {
    matches!(page.get(14..16), Some([0, 0]))
}

/// Sets `pd_lsn`: two little-endian u32, the high half first.
pub fn set_lsn(page: &mut [u8; PAGE_SIZE], lsn: Lsn) {
    if let Some(field) = page.first_chunk_mut::<8>() {
        *field = lsn.0.rotate_left(32).to_le_bytes();
    }
}

fn decompress(image: &Image<'_>, target: &mut [u8]) -> Result<(), Error> {
    let expected = target.len();
    let malformed = |reason| Error::Compressed {
        method: image.compression,
        length: image.data.len(),
        reason,
    };
    let found = match image.compression {
        Compression::None => {
            if image.data.len() == expected {
                target.copy_from_slice(image.data);
            }
            image.data.len()
        }
        Compression::Pglz => {
            pglz::decompress(image.data, target).map_err(malformed)?;
            expected
        }
        Compression::Lz4 => lz4_flex::block::decompress_into(image.data, target)
            .map_err(|_| malformed("not an LZ4 block of at most the wanted length"))?,
        Compression::Zstd => zstd_into(image.data, target).ok_or(malformed(
            "not a Zstandard frame of at most the wanted length",
        ))?,
    };
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length { expected, found })
    }
}

thread_local! {
    /// A decompression context is 100 KiB and more; one per thread instead of one per image.
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn zstd_into(data: &[u8], target: &mut [u8]) -> Option<usize> {
    ZSTD.with(|context| {
        let mut context = context.try_borrow_mut().ok()?;
        if context.is_none() {
            *context = zstd::bulk::Decompressor::new().ok();
        }
        context.as_mut()?.decompress_to_buffer(data, target).ok()
    })
}

#[cfg(test)]
mod tests;
