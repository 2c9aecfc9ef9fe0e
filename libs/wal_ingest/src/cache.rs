//! Decoded directories and sizes. Holds the newest state, committed or not.

use std::collections::HashMap;
use types::directory::{DbDirectory, RelDirectory, SlruDirectory, TwoPhaseDirectory};
use types::{Oid, RelTag, SlruKind};

/// A value and whether it was changed by the open record.
#[derive(Default)]
pub(crate) struct Cached<T> {
    pub value: T,
    pub dirty: bool,
}

impl<T> Cached<T> {
    pub fn clean(value: T) -> Self {
        Cached {
            value,
            dirty: false,
        }
    }

    pub fn edit(&mut self) -> &mut T {
        self.dirty = true;
        &mut self.value
    }

    /// The value if it was changed; it counts as unchanged from here on.
    pub fn changed(&mut self) -> Option<&T> {
        std::mem::take(&mut self.dirty).then_some(&self.value)
    }
}

#[derive(Default)]
pub(crate) struct Cache {
    pub dbs: Option<Cached<DbDirectory>>,
    pub rels: HashMap<(Oid, Oid), Cached<RelDirectory>>,
    pub sizes: HashMap<RelTag, u32>,
    pub slrus: HashMap<SlruKind, Cached<SlruDirectory>>,
    pub segments: HashMap<(SlruKind, u32), u32>,
    pub two_phase: Option<Cached<TwoPhaseDirectory>>,
}

impl Cache {
    /// Forgets everything known about a database.
    pub fn forget_database(&mut self, spc: Oid, db: Oid) {
        self.rels.remove(&(spc, db));
        self.sizes.retain(|rel, _| (rel.spc, rel.db) != (spc, db));
    }

    /// Makes room between records.
    pub fn trim(&mut self, sizes: usize, directories: usize) {
        if self.sizes.len() > sizes {
            self.sizes.clear();
        }
        if self.segments.len() > sizes {
            self.segments.clear();
        }
        if self.rels.len() > directories {
            self.rels.clear();
        }
    }
}
