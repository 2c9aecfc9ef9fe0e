//! Cells: stretches of keys that compaction treats as one, and what is to be done with each.
//!
//! A cell begins and ends where images do, or compacted layers where there is no image, gathers
//! neighbours up to about half the target size, and is never cut through a compacted layer that
//! readers of the present need. So a table of a thousand pages shares a cell with its neighbours,
//! a large one has several of its own, and what is written for a cell stays within it.

use super::super::Timeline;
use crate::engine::layer::Layer;
use crate::engine::layer_map::LayerMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::{Key, KeyRange, Lsn};

/// An image is made when a cell's changes have grown to this share of its images' bytes: 1 / this.
const IMAGE_SHARE: u64 = 2;
/// As [`IMAGE_SHARE`], when all of the changes are older than the history that is kept.
const QUIET_SHARE: u64 = 10;
/// An older level is merged with the newer ones up to this many times their size.
const LEVEL_RATIO: u64 = 2;
/// All levels are merged when there are this many times `image_creation_threshold`.
const MAX_DEPTH_FACTOR: usize = 3;

/// A stretch of keys.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its keys.
    pub keys: KeyRange,
    /// All compacted delta layers that share keys with it, by ascending start LSN.
    deltas: Vec<Arc<Layer>>,
    /// Those of them that lie, at least in part, above the newest image of some key.
    above: BTreeSet<String>,
    /// Bytes of those.
    above_bytes: u64,
    /// Bytes of the newest images, the ancestors' where there are none of its own.
    base_bytes: u64,
    /// Bytes of those that are its own.
    own_bytes: u64,
    /// How many those are.
    own_images: u64,
}

/// What a cell needs.
#[derive(Debug, Clone)]
pub enum Work {
    /// Nothing now.
    Nothing,
    /// Images of all its keys.
    Image,
    /// These delta layers made one.
    Merge(Vec<Arc<Layer>>),
}

/// Delta layers whose LSN ranges overlap each other and no other's.
struct Level {
    end: Lsn,
    bytes: u64,
    needed: bool,
    layers: Vec<Arc<Layer>>,
}

/// Levels of changes that a cell may have before it comes before everything else.
pub fn most_levels(threshold: usize) -> usize {
    threshold * MAX_DEPTH_FACTOR
}

impl Cell {
    fn new(start: Key) -> Self {
        Cell {
            keys: KeyRange { start, end: start },
            deltas: Vec::new(),
            above: BTreeSet::new(),
            above_bytes: 0,
            base_bytes: 0,
            own_bytes: 0,
            own_images: 0,
        }
    }

    /// Bytes and number of the newest images, without ancestors'.
    pub fn own_images(&self) -> (u64, u64) {
        (self.own_bytes, self.own_images)
    }

    /// True if all keys of the other are among its own.
    pub fn holds(&self, other: &Cell) -> bool {
        self.keys.start <= other.keys.start && other.keys.end <= self.keys.end
    }

    /// Takes the cell behind this one in.
    pub fn join(&mut self, next: Cell) {
        self.keys.end = next.keys.end;
        self.deltas.extend(next.deltas);
        self.above.extend(next.above);
        self.above_bytes += next.above_bytes;
        self.base_bytes += next.base_bytes;
        self.own_bytes += next.own_bytes;
        self.own_images += next.own_images;
    }

    /// True if there is something an image would replace.
    pub fn has_changes(&self) -> bool {
        !self.above.is_empty()
    }

    fn levels(&self) -> Vec<Level> {
        let mut levels: Vec<Level> = Vec::new();
        for layer in &self.deltas {
            let needed = self.above.contains(&layer.name().to_string());
            match levels.last_mut() {
                Some(level) if layer.lsns().start < level.end => {
                    level.end = level.end.max(layer.lsns().end);
                    level.bytes += layer.size();
                    level.needed |= needed;
                    level.layers.push(Arc::clone(layer));
                }
                _ => levels.push(Level {
                    end: layer.lsns().end,
                    bytes: layer.size(),
                    needed,
                    layers: vec![Arc::clone(layer)],
                }),
            }
        }
        // Below the images nothing is needed by readers of the present.
        let first = levels.iter().position(|l| l.needed).unwrap_or(levels.len());
        levels.split_off(first)
    }

    /// Number of levels of changes above the images, and what the cell needs, if `threshold` of
    /// them are too many and history is kept from `cutoff` on.
    pub fn work(&self, threshold: usize, cutoff: Lsn) -> (usize, Work) {
        let levels = self.levels();
        (levels.len(), self.work_on(&levels, threshold, cutoff))
    }

    fn work_on(&self, levels: &[Level], threshold: usize, cutoff: Lsn) -> Work {
        let Some(newest) = levels.last() else {
            return Work::Nothing;
        };
        let quiet = newest.end <= cutoff.saturating_add(1);
        if quiet && self.above_bytes * QUIET_SHARE >= self.base_bytes {
            return Work::Image;
        }
        // One level alone is as good as merged; its name would be taken twice.
        if levels.len() < threshold.max(2) {
            return Work::Nothing;
        }
        if self.above_bytes * IMAGE_SHARE >= self.base_bytes {
            return Work::Image;
        }
        let all = levels.len() >= most_levels(threshold);
        let mut bytes = 0;
        let mut inputs: Vec<Arc<Layer>> = Vec::new();
        for (taken, level) in levels.iter().rev().enumerate() {
            if !all && taken >= 2 && level.bytes > bytes * LEVEL_RATIO {
                break;
            }
            bytes += level.bytes;
            inputs.extend(level.layers.iter().cloned());
        }
        let inside =
            |l: &Arc<Layer>| l.keys().start >= self.keys.start && l.keys().end <= self.keys.end;
        if inputs.len() < 2 {
            Work::Nothing
        } else if inputs.iter().all(inside) {
            Work::Merge(inputs)
        } else {
            // Layers of another maker that reach beyond the cell cannot be merged within it.
            Work::Image
        }
    }
}

/// What readers of the present find in a stretch of keys.
struct Piece {
    start: Key,
    end: Key,
    deltas: Vec<Arc<Layer>>,
    /// Names of those above the image.
    above: Vec<Arc<Layer>>,
    image: Option<Arc<Layer>>,
    /// The image is not an ancestor's.
    own: bool,
}

impl Timeline {
    /// The cells of a layer map, ascending; together they hold every key.
    pub(super) fn cells(&self, map: &LayerMap) -> Vec<Cell> {
        let target = self.shared.conf.load().compaction_target_size;
        gather(self.pieces(map), target)
    }

    fn pieces(&self, map: &LayerMap) -> Vec<Piece> {
        let mut bounds: BTreeSet<Key> = map.boundaries().collect();
        let mut ancestors: Vec<(Arc<LayerMap>, Lsn)> = Vec::new();
        let mut next = self.ancestor();
        while let Some((ancestor, at)) = next {
            let map = ancestor.layers();
            bounds.extend(map.boundaries());
            ancestors.push((map, at));
            next = ancestor.ancestor();
        }
        bounds.insert(Key::MIN);
        bounds.insert(Key::MAX);
        let bounds: Vec<Key> = bounds.into_iter().collect();
        let mut pieces = Vec::with_capacity(bounds.len());
        for (start, end) in bounds.iter().zip(bounds.iter().skip(1)) {
            let own = map.stretch(start);
            let image = own.images.last().cloned();
            let floor = image.as_ref().map(|i| i.lsns().end);
            let deltas = own.deltas.to_vec();
            let above = deltas
                .iter()
                .filter(|d| floor.is_none_or(|f| d.lsns().end > f))
                .cloned()
                .collect();
            let image = image.or_else(|| {
                ancestors.iter().find_map(|(map, at)| {
                    let images = map.stretch(start).images;
                    images.iter().rev().find(|i| i.lsns().start <= *at).cloned()
                })
            });
            pieces.push(Piece {
                start: *start,
                end: *end,
                deltas,
                above,
                image,
                own: !own.images.is_empty(),
            });
        }
        pieces
    }
}

fn shares(a: &[Arc<Layer>], b: &[Arc<Layer>]) -> bool {
    a.iter().any(|x| b.iter().any(|y| Arc::ptr_eq(x, y)))
}

fn gather(pieces: Vec<Piece>, target: u64) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut cell = Cell::new(Key::MIN);
    let mut deltas: BTreeMap<(Lsn, Lsn, String), Arc<Layer>> = BTreeMap::new();
    let mut previous: Option<&Piece> = None;
    for piece in &pieces {
        let torn = previous.is_some_and(|p| {
            let same_image = match (&p.image, &piece.image) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            same_image || shares(&p.above, &piece.above)
        });
        if !torn && cell.base_bytes.max(cell.above_bytes) >= target / 2 {
            let mut done = std::mem::replace(&mut cell, Cell::new(piece.start));
            done.deltas = std::mem::take(&mut deltas).into_values().collect();
            cells.push(done);
        }
        let continues = previous.is_some_and(|p| match (&p.image, &piece.image) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        });
        if let Some(image) = piece.image.as_ref().filter(|_| !continues) {
            cell.base_bytes += image.size();
            if piece.own {
                cell.own_bytes += image.size();
                cell.own_images += 1;
            }
        }
        for layer in &piece.above {
            if cell.above.insert(layer.name().to_string()) {
                cell.above_bytes += layer.size();
            }
        }
        for layer in &piece.deltas {
            let key = (
                layer.lsns().start,
                layer.lsns().end,
                layer.name().to_string(),
            );
            deltas.entry(key).or_insert_with(|| Arc::clone(layer));
        }
        cell.keys.end = piece.end;
        previous = Some(piece);
    }
    if !cell.keys.is_empty() {
        cell.deltas = deltas.into_values().collect();
        cells.push(cell);
    }
    cells
}
