//! The layer map: which layer holds the newest values of a key below an LSN.
//!
//! A map is an immutable snapshot; readers take one and never lock. Writers build the next
//! snapshot and publish it. The search guarantees that whoever consumes the layer it names down
//! to `floor`, and then searches again below `floor`, misses nothing.

use super::layer::Layer;
use super::memory;
use super::timeline::Position;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{Key, KeyRange, Lsn};

/// Layers that cover one stretch of keys, by ascending start LSN. `best[i]` is the position,
/// among the first `i + 1`, of the one with the greatest end.
#[derive(Debug, Clone, Default)]
struct Stack {
    layers: Vec<Arc<Layer>>,
    best: Vec<usize>,
}

impl Stack {
    fn new(mut layers: Vec<Arc<Layer>>) -> Self {
        layers.sort_by_key(|l| (l.lsns().start, l.lsns().end));
        let mut best: Vec<usize> = Vec::with_capacity(layers.len());
        for (i, layer) in layers.iter().enumerate() {
            let previous = best.last().copied();
            let keep = previous.filter(|p| {
                layers
                    .get(*p)
                    .is_some_and(|b| b.lsns().end > layer.lsns().end)
            });
            best.push(keep.unwrap_or(i));
        }
        Stack { layers, best }
    }

    /// Of the layers that start below `end`, the one with the greatest end.
    fn newest_below(&self, end: Lsn) -> Option<&Arc<Layer>> {
        let n = self.layers.partition_point(|l| l.lsns().start < end);
        let best = *self.best.get(n.checked_sub(1)?)?;
        self.layers.get(best)
    }
}

#[derive(Debug, Default)]
struct Segment {
    deltas: Stack,
    images: Stack,
}

/// Persistent layers that do not span all keys, cut at every key where coverage changes.
#[derive(Debug, Default)]
struct Coverage {
    starts: Vec<Key>,
    segments: Vec<Segment>,
}

impl Coverage {
    fn build<'a>(layers: impl Iterator<Item = &'a Arc<Layer>>) -> Self {
        let layers: Vec<&Arc<Layer>> = layers.collect();
        let mut starts: Vec<Key> = layers
            .iter()
            .flat_map(|l| [l.keys().start, l.keys().end])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        type Parts = (Vec<Arc<Layer>>, Vec<Arc<Layer>>);
        let mut parts: Vec<Parts> = vec![Parts::default(); starts.len()];
        for layer in layers {
            let first = starts.partition_point(|s| *s < layer.keys().start);
            let last = starts.partition_point(|s| *s < layer.keys().end);
            for (deltas, images) in parts.get_mut(first..last).into_iter().flatten() {
                if layer.is_delta() { deltas } else { images }.push(Arc::clone(layer));
            }
        }
        let segments = parts
            .into_iter()
            .map(|(deltas, images)| Segment {
                deltas: Stack::new(deltas),
                images: Stack::new(images),
            })
            .collect();
        Coverage { starts, segments }
    }

    fn segment(&self, key: &Key) -> Option<&Segment> {
        let n = self.starts.partition_point(|s| s <= key);
        self.segments.get(n.checked_sub(1)?)
    }
}

/// The compacted layers of a stretch of keys, each kind by ascending start LSN.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Delta layers.
    pub deltas: &'a [Arc<Layer>],
    /// Image layers.
    pub images: &'a [Arc<Layer>],
}

/// A layer of either kind.
#[derive(Debug, Clone)]
pub enum Source {
    /// Open or frozen in memory.
    Memory(Arc<memory::Layer>),
    /// In a file.
    File(Arc<Layer>),
}

/// Where to read next.
#[derive(Debug, Clone)]
pub struct Found {
    /// The layer.
    pub source: Source,
    /// Its values at this LSN and above are used; below it, search again.
    pub floor: Lsn,
}

/// An immutable snapshot of all layers of a timeline.
#[derive(Debug, Clone, Default)]
pub struct LayerMap {
    open: Option<Arc<memory::Layer>>,
    frozen: Vec<Arc<memory::Layer>>,
    files: Arc<BTreeMap<String, Arc<Layer>>>,
    l0: Arc<Stack>,
    coverage: Arc<Coverage>,
    disk: Position,
}

impl LayerMap {
    /// A map of persistent layers only; see [`LayerMap::disk`].
    pub fn new(layers: impl IntoIterator<Item = Arc<Layer>>, disk: Position) -> Self {
        let files: BTreeMap<String, Arc<Layer>> = layers
            .into_iter()
            .map(|l| (l.name().to_string(), l))
            .collect();
        let l0 = Stack::new(files.values().filter(|l| l.is_l0()).cloned().collect());
        let coverage = Coverage::build(files.values().filter(|l| !l.is_l0()));
        LayerMap {
            open: None,
            frozen: Vec::new(),
            files: Arc::new(files),
            l0: Arc::new(l0),
            coverage: Arc::new(coverage),
            disk,
        }
    }

    /// Everything at or below is in the map's files, and no file holds anything newer. Part of the
    /// snapshot, so that an index names exactly the layers its position speaks of.
    pub fn disk(&self) -> Position {
        self.disk
    }

    /// The same map, complete up to `disk`.
    pub fn with_disk(&self, disk: Position) -> Self {
        LayerMap {
            disk,
            ..self.clone()
        }
    }

    /// The open layer.
    pub fn open(&self) -> Option<&Arc<memory::Layer>> {
        self.open.as_ref()
    }

    /// Frozen layers, oldest first.
    pub fn frozen(&self) -> &[Arc<memory::Layer>] {
        &self.frozen
    }

    /// Persistent layers in name order.
    pub fn files(&self) -> impl Iterator<Item = &Arc<Layer>> {
        self.files.values()
    }

    /// A persistent layer by its name.
    pub fn file(&self, name: &str) -> Option<&Arc<Layer>> {
        self.files.get(name)
    }

    /// True if a persistent layer has this name.
    pub fn has_file(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Number of persistent layers.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Number of L0 layers.
    pub fn l0_count(&self) -> usize {
        self.l0.layers.len()
    }

    /// L0 layers by ascending LSN.
    pub fn l0(&self) -> &[Arc<Layer>] {
        &self.l0.layers
    }

    /// Keys at which the set of compacted layers changes, ascending.
    pub fn boundaries(&self) -> impl Iterator<Item = Key> {
        self.coverage.starts.iter().copied()
    }

    /// The compacted layers that cover `key`, and with it all keys up to the next boundary.
    pub fn stretch(&self, key: &Key) -> Stretch<'_> {
        let segment = self.coverage.segment(key);
        Stretch {
            deltas: segment.map_or(&[], |s| &s.deltas.layers),
            images: segment.map_or(&[], |s| &s.images.layers),
        }
    }

    /// True if every key of a range is in some image at an LSN from `from` to `to`, both included.
    pub fn image_exists(&self, keys: &KeyRange, from: Lsn, to: Lsn) -> bool {
        let inside = |key: &Key| {
            let images = self.stretch(key).images;
            let first = images.partition_point(|i| i.lsns().start < from);
            images.get(first).is_some_and(|i| i.lsns().start <= to)
        };
        let starts = &self.coverage.starts;
        let first = starts.partition_point(|s| *s <= keys.start);
        let later = starts.get(first..).unwrap_or_default();
        inside(&keys.start) && later.iter().take_while(|s| **s < keys.end).all(inside)
    }

    /// The same map with another open layer.
    pub fn with_open(&self, open: Arc<memory::Layer>) -> Self {
        LayerMap {
            open: Some(open),
            ..self.clone()
        }
    }

    /// The same map with the open layer moved to the frozen ones.
    pub fn with_open_frozen(&self) -> Self {
        let mut next = self.clone();
        next.frozen.extend(next.open.take());
        next
    }

    /// The same map with the oldest frozen layer replaced by its file, complete up to `disk`.
    pub fn with_flushed(
        &self,
        flushed: &Arc<memory::Layer>,
        layer: Arc<Layer>,
        disk: Position,
    ) -> Self {
        let mut next = self.with_files([layer], &[]);
        next.frozen.retain(|f| !Arc::ptr_eq(f, flushed));
        next.disk = disk;
        next
    }

    /// The same map with files added and removed in one step.
    pub fn with_files(&self, add: impl IntoIterator<Item = Arc<Layer>>, remove: &[String]) -> Self {
        let mut files = BTreeMap::clone(&self.files);
        let (mut l0_changed, mut rest_changed) = (false, false);
        for name in remove {
            if let Some(old) = files.remove(name) {
                if old.is_l0() {
                    l0_changed = true
                } else {
                    rest_changed = true
                }
            }
        }
        for layer in add {
            if layer.is_l0() {
                l0_changed = true
            } else {
                rest_changed = true
            }
            files.insert(layer.name().to_string(), layer);
        }
        let mut next = self.clone();
        if l0_changed {
            next.l0 = Arc::new(Stack::new(
                files.values().filter(|l| l.is_l0()).cloned().collect(),
            ));
        }
        if rest_changed {
            next.coverage = Arc::new(Coverage::build(files.values().filter(|l| !l.is_l0())));
        }
        next.files = Arc::new(files);
        next
    }

    /// Where the newest value of `key` below `end` (exclusive) is to be looked for.
    pub fn search(&self, key: &Key, end: Lsn) -> Option<Found> {
        let segment = self.coverage.segment(key);
        let image = segment.and_then(|s| s.images.newest_below(end));
        let delta = match (
            segment.and_then(|s| s.deltas.newest_below(end)),
            self.l0.newest_below(end),
        ) {
            (Some(a), Some(b)) => Some(if b.lsns().end > a.lsns().end { b } else { a }),
            (a, b) => a.or(b),
        };
        // An image at x is the layer of choice below `upper` if nothing newer lies in between.
        let after = |image: &Arc<Layer>| image.lsns().start.saturating_add(1);
        let file = match (image, delta) {
            (None, None) => None,
            (Some(i), None) => Some((i, i.lsns().start)),
            (None, Some(d)) => Some((d, d.lsns().start)),
            (Some(i), Some(d)) if after(i) >= d.lsns().end || after(i) == end => {
                Some((i, i.lsns().start))
            }
            (Some(i), Some(d)) => Some((d, d.lsns().start.max(after(i)))),
        };
        let memory = self
            .open
            .iter()
            .chain(self.frozen.iter().rev())
            .find(|m| m.start() < end);
        match (file, memory) {
            (None, None) => None,
            (Some((layer, floor)), None) => Some(found(layer, floor)),
            (None, Some(m)) => Some(Found {
                source: Source::Memory(Arc::clone(m)),
                floor: m.start(),
            }),
            (Some((layer, floor)), Some(m)) => {
                let layer_end = if layer.is_delta() {
                    layer.lsns().end
                } else {
                    after(layer)
                };
                if layer_end >= m.search_end() || layer_end == end {
                    Some(found(layer, floor))
                } else {
                    let floor = m.start().max(layer_end);
                    Some(Found {
                        source: Source::Memory(Arc::clone(m)),
                        floor,
                    })
                }
            }
        }
    }

    /// Layers, of any kind, that may hold values of a key range with LSN in `[start, end)`.
    pub fn overlapping(&self, keys: &KeyRange, start: Lsn, end: Lsn) -> Vec<Source> {
        let memory = self
            .open
            .iter()
            .chain(&self.frozen)
            .filter(|m| m.start() < end && m.search_end() > start);
        let files = self
            .files
            .values()
            .filter(|l| l.keys().overlaps(keys) && l.lsns().start < end && l.lsns().end > start);
        memory
            .map(|m| Source::Memory(Arc::clone(m)))
            .chain(files.map(|l| Source::File(Arc::clone(l))))
            .collect()
    }
}

fn found(layer: &Arc<Layer>, floor: Lsn) -> Found {
    Found {
        source: Source::File(Arc::clone(layer)),
        floor,
    }
}
