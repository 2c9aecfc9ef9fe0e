//! The cheapest way to keep a forest of segments.

/// A stretch of history that ends at an LSN; its parent is the stretch before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Position of the parent in the list; `None` for a root.
    pub parent: Option<usize>,
    /// Where the stretch ends.
    pub lsn: u64,
    /// Logical size of the data there, if it was computed.
    pub size: Option<u64>,
    /// The data there, and on the way there from the parent, must stay readable.
    pub needed: bool,
}

/// How a segment is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// As a copy of all data at its end.
    SnapshotHere,
    /// As the WAL since its parent.
    Wal,
    /// Not at all.
    Skipped,
}

/// What one segment costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentSize {
    /// How it is kept.
    pub method: Method,
    /// Bytes of it and all its descendants.
    pub accum_size: u64,
}

/// What a forest costs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Bytes of all trees together.
    pub total: u64,
    /// In the order of the segments.
    pub segments: Vec<SegmentSize>,
}

/// Least cost of a segment with its descendants, and how it is reached.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// If nothing is kept of the parent; `None` if it is impossible then.
    alone: Option<SegmentSize>,
    /// If the data of the parent can be had.
    with_parent: Option<SegmentSize>,
}

/// Children of each segment, and an order in which all come before their children. Segments that
/// no root leads to are left out.
fn arrange(segments: &[Segment]) -> (Vec<Vec<usize>>, Vec<usize>) {
    let mut children = vec![Vec::new(); segments.len()];
    let mut order = Vec::with_capacity(segments.len());
    for (at, segment) in segments.iter().enumerate() {
        match segment.parent {
            None => order.push(at),
            Some(parent) => children
                .get_mut(parent)
                .into_iter()
                .for_each(|c| c.push(at)),
        }
    }
    let mut next = 0;
    while let Some(at) = order.get(next) {
        if let Some(kids) = children.get(*at) {
            order.extend(kids);
        }
        next += 1;
    }
    (children, order)
}

/// Finds the cheapest way to keep everything that is needed. A tree whose root can be kept in no
/// way counts nothing.
pub fn calculate(segments: &[Segment]) -> Sizes {
    let (children, order) = arrange(segments);
    let mut costs = vec![Cost::default(); segments.len()];
    for at in order.iter().rev() {
        let kids = children.get(*at).map_or(&[][..], Vec::as_slice);
        let cost = cost(segments, &costs, *at, kids);
        if let (Some(cost), Some(slot)) = (cost, costs.get_mut(*at)) {
            *slot = cost;
        }
    }
    let nothing = SegmentSize {
        method: Method::Skipped,
        accum_size: 0,
    };
    let mut chosen = vec![nothing; segments.len()];
    let mut total = 0u64;
    for at in order {
        let parent = segments.get(at).and_then(|s| s.parent);
        let parent = parent.and_then(|p| chosen.get(p)).map(|c| c.method);
        let alone = parent.is_none_or(|method| method == Method::Skipped);
        let cost = costs.get(at).copied().unwrap_or_default();
        let choice = if alone { cost.alone } else { cost.with_parent };
        let choice = choice.unwrap_or(nothing);
        if segments.get(at).is_some_and(|s| s.parent.is_none()) {
            total = total.saturating_add(choice.accum_size);
        }
        if let Some(slot) = chosen.get_mut(at) {
            *slot = choice;
        }
    }
    Sizes {
        total,
        segments: chosen,
    }
}

fn cost(segments: &[Segment], costs: &[Cost], at: usize, kids: &[usize]) -> Option<Cost> {
    let segment = segments.get(at)?;
    let sum = |cost: fn(&Cost) -> Option<SegmentSize>| {
        let kids = kids.iter().filter_map(|k| costs.get(*k));
        kids.map(|k| cost(k).map(|c| c.accum_size))
            .try_fold(0u64, |sum, size| Some(sum.saturating_add(size?)))
    };
    let alone_below = sum(|c| c.alone);
    let kept_below = sum(|c| c.with_parent);
    let kept = |method, own: u64| {
        Some(SegmentSize {
            method,
            accum_size: own.saturating_add(kept_below?),
        })
    };
    let skip = alone_below
        .filter(|_| !segment.needed)
        .map(|accum_size| SegmentSize {
            method: Method::Skipped,
            accum_size,
        });
    let snapshot = segment
        .size
        .filter(|_| !segment.needed || segment.parent.is_none())
        .and_then(|size| kept(Method::SnapshotHere, size));
    let alone = match (skip, snapshot) {
        (Some(skip), Some(snapshot)) if snapshot.accum_size < skip.accum_size => Some(snapshot),
        (skip, snapshot) => skip.or(snapshot),
    };
    let from = segment.parent.and_then(|p| segments.get(p));
    let length = from.map_or(0, |parent| segment.lsn.saturating_sub(parent.lsn));
    let wal = kept(Method::Wal, length);
    let with_parent = match (alone, wal) {
        (Some(alone), Some(wal)) if wal.accum_size >= alone.accum_size => Some(alone),
        (alone, wal) => wal.or(alone),
    };
    Some(Cost { alone, with_parent })
}
