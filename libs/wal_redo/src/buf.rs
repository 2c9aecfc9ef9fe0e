//! The buffer a page is rebuilt in.

use crate::page::Page;
use types::PAGE_SIZE;

/// Longest content: a commit-log page followed by an 8-byte commit time.
pub const MAX_LEN: usize = PAGE_SIZE + 8;

/// A page, a commit-log page with its 8-byte time tail, or nothing yet. Meant to be reused: a
/// rebuild allocates nothing.
#[derive(Clone, Debug)]
pub struct PageBuf {
    buf: [u8; MAX_LEN],
    len: usize,
}

impl Default for PageBuf {
    fn default() -> Self {
        PageBuf::new()
    }
}

impl PageBuf {
    /// An empty buffer.
    pub const fn new() -> Self {
        PageBuf {
            buf: [0; MAX_LEN],
            len: 0,
        }
    }

    /// True if there is no page.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets the page.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes a copy of a page (8192 bytes) or a page with a time tail (8200). False, and the
    /// buffer is empty, for any other length.
    #[must_use]
    pub fn set(&mut self, content: &[u8]) -> bool {
        self.len = 0;
        if content.len() != PAGE_SIZE && content.len() != MAX_LEN {
            return false;
        }
        if let Some(to) = self.buf.get_mut(..content.len()) {
            to.copy_from_slice(content);
            self.len = content.len();
        }
        true
    }

    /// Makes it a page of zeros and returns it.
    pub fn zero(&mut self) -> &mut [u8; PAGE_SIZE] {
        self.len = PAGE_SIZE;
        let page = self.raw();
        page.fill(0);
        page
    }

    /// The whole content; empty without a page.
    pub fn as_slice(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or_default()
    }

    /// The page.
    pub fn page(&self) -> Option<&[u8; PAGE_SIZE]> {
        self.as_slice().first_chunk()
    }

    /// The page, to be changed.
    pub fn page_mut(&mut self) -> Option<&mut [u8; PAGE_SIZE]> {
        if self.is_empty() {
            None
        } else {
            Some(self.raw())
        }
    }

    /// The 8-byte tail.
    pub fn tail(&self) -> Option<&[u8; 8]> {
        self.as_slice().get(PAGE_SIZE..)?.first_chunk()
    }

    /// Appends the tail or replaces it. Nothing happens without a page.
    pub fn set_tail(&mut self, tail: [u8; 8]) {
        if !self.is_empty() {
            let [.., a, b, c, d, e, f, g, h] = &mut self.buf;
            for (to, from) in [a, b, c, d, e, f, g, h].into_iter().zip(tail) {
                *to = from;
            }
            self.len = MAX_LEN;
        }
    }

    /// The page area, whatever it holds; the content is a page afterwards.
    pub(crate) fn overwrite(&mut self) -> Page<'_> {
        self.len = PAGE_SIZE;
        Page::new(self.raw())
    }

    fn raw(&mut self) -> &mut [u8; PAGE_SIZE] {
        let [page @ .., _, _, _, _, _, _, _, _] = &mut self.buf;
        page
    }
}
