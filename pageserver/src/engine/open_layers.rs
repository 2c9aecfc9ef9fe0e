//! Opened layer files of all tenants under one limit: their decoded indexes and file descriptors.
//!
//! A layer is opened by the first read that needs it and stays open until others need the room
//! more: when a limit is passed, layers that nobody has used since the last look are closed, the
//! one opened longest ago first (the clock algorithm).

use super::layer::Opened;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Default limit of memory for opened layers, in bytes.
pub const DEFAULT_BYTES: usize = 512 << 20;
/// Default limit of layers open at once; each takes a file descriptor.
pub const DEFAULT_FILES: usize = 4096;

/// Where one layer keeps what it opened.
#[derive(Debug)]
pub struct Slot {
    opened: ArcSwapOption<Opened>,
    used: AtomicBool,
    /// Bytes that are counted for it; 0 if closed.
    bytes: AtomicUsize,
    cache: Arc<OpenLayers>,
}

/// All opened layers.
#[derive(Debug)]
pub struct OpenLayers {
    max_bytes: usize,
    max_files: AtomicUsize,
    bytes: AtomicUsize,
    files: AtomicUsize,
    clock: Mutex<VecDeque<Weak<Slot>>>,
}

impl OpenLayers {
    /// Nothing open.
    pub fn new(max_bytes: usize, max_files: usize) -> Arc<Self> {
        Arc::new(OpenLayers {
            max_bytes,
            max_files: AtomicUsize::new(max_files.max(1)),
            bytes: AtomicUsize::new(0),
            files: AtomicUsize::new(0),
            clock: Mutex::default(),
        })
    }

    /// Changes the number of layers open at once; takes effect as layers are opened.
    pub fn limit_files(&self, max_files: usize) {
        self.max_files.store(max_files.max(1), Ordering::Release);
    }

    /// A place for a layer.
    pub fn slot(self: &Arc<Self>) -> Arc<Slot> {
        Arc::new(Slot {
            opened: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            cache: Arc::clone(self),
        })
    }

    /// Memory held by opened layers, in bytes, and their number.
    pub fn usage(&self) -> (usize, usize) {
        (
            self.bytes.load(Ordering::Acquire),
            self.files.load(Ordering::Acquire),
        )
    }

    fn is_full(&self) -> bool {
        let (bytes, files) = self.usage();
        bytes > self.max_bytes || files > self.max_files.load(Ordering::Acquire)
    }

    /// Closes what was not used lately until the limits hold, but never `newest`.
    fn make_room(&self, newest: &Arc<Slot>) {
        let mut clock = self.clock.lock();
        clock.push_back(Arc::downgrade(newest));
        // Twice around: the first time takes the marks of use away.
        let mut looks = clock.len() * 2;
        while looks > 0 && self.is_full() {
            looks -= 1;
            let Some(candidate) = clock.pop_front() else {
                break;
            };
            let Some(slot) = candidate.upgrade() else {
                continue;
            };
            if Arc::ptr_eq(&slot, newest) || slot.used.swap(false, Ordering::AcqRel) {
                clock.push_back(candidate);
            } else {
                slot.close();
            }
        }
        // Dropped layers leave entries behind.
        if clock.len() > 2 * self.files.load(Ordering::Acquire) + 64 {
            clock.retain(|s| s.strong_count() > 0);
        }
    }
}

impl Slot {
    /// What is open, if it is.
    pub fn get(&self) -> Option<Arc<Opened>> {
        let opened = self.opened.load_full()?;
        // The mark is written once per round of the clock, not at every read.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Release);
        }
        Some(opened)
    }

    /// Keeps what was opened. One caller at a time, with the slot closed.
    pub fn put(self: &Arc<Self>, opened: &Arc<Opened>) {
        self.close();
        let bytes = opened.memory().max(1);
        self.bytes.store(bytes, Ordering::Release);
        self.cache.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.cache.files.fetch_add(1, Ordering::AcqRel);
        self.used.store(true, Ordering::Release);
        self.opened.store(Some(Arc::clone(opened)));
        self.cache.make_room(self);
    }

    /// Closes the layer for those who come; readers under way keep what they have.
    pub fn close(&self) {
        self.opened.store(None);
        let bytes = self.bytes.swap(0, Ordering::AcqRel);
        if bytes > 0 {
            self.cache.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.cache.files.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.close();
    }
}
