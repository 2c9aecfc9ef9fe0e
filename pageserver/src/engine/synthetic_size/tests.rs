use super::{Kind, Method, Segment, SegmentMeta, Sizes, TimelineInput, calculate, segments};
use Kind::{BranchEnd, BranchPoint, BranchStart, GcCutOff, LeaseEnd, LeasePoint, LeaseStart};
use Method::{Skipped, SnapshotHere, Wal};
use proptest::prelude::*;
use types::{Lsn, TimelineId};

const ROOT: TimelineId = TimelineId([1; 16]);
const CHILD: TimelineId = TimelineId([2; 16]);

/// History from 100 to 1000, of which everything since 600 is kept.
fn root() -> TimelineInput {
    TimelineInput {
        timeline: ROOT,
        ancestor: None,
        ancestor_lsn: Lsn::INVALID,
        initdb_lsn: Lsn(100),
        last_record: Lsn(1000),
        latest_gc_cutoff: Lsn(100),
        next_pitr_cutoff: Lsn(600),
        branch_points: Vec::new(),
        lease_points: Vec::new(),
        invisible: false,
    }
}

/// A branch of it at 500 that goes on to 700, all of it kept.
fn child() -> TimelineInput {
    TimelineInput {
        timeline: CHILD,
        ancestor: Some(ROOT),
        ancestor_lsn: Lsn(500),
        last_record: Lsn(700),
        latest_gc_cutoff: Lsn(500),
        next_pitr_cutoff: Lsn(500),
        ..root()
    }
}

fn parent() -> TimelineInput {
    TimelineInput {
        branch_points: vec![Lsn(500)],
        ..root()
    }
}

/// Kind, parent, LSN and need of each segment.
fn shape(segments: &[SegmentMeta]) -> Vec<(Kind, Option<usize>, u64, bool)> {
    let shape = |m: &SegmentMeta| (m.kind, m.segment.parent, m.segment.lsn, m.segment.needed);
    segments.iter().map(shape).collect()
}

/// Calculates with these sizes for the segments that want one, in their order.
fn with_sizes(mut all: Vec<SegmentMeta>, sizes: &[u64]) -> Sizes {
    let mut sizes = sizes.iter();
    for meta in &mut all {
        if meta.wants_size() {
            meta.segment.size = Some(*sizes.next().expect("a size for each that wants one"));
        }
    }
    assert_eq!(sizes.next(), None, "more sizes than wanted");
    let plain: Vec<Segment> = all.iter().map(|m| m.segment).collect();
    calculate(&plain)
}

fn ways(sizes: &Sizes) -> Vec<(Method, u64)> {
    let way = |s: &super::SegmentSize| (s.method, s.accum_size);
    sizes.segments.iter().map(way).collect()
}

#[test]
fn nothing_costs_nothing() {
    assert_eq!(segments(&[], None), []);
    assert_eq!(calculate(&[]).total, 0);
}

#[test]
fn without_a_cutoff_all_wal_since_the_beginning_counts() {
    let whole = TimelineInput {
        next_pitr_cutoff: Lsn(100),
        ..root()
    };
    let all = segments(&[whole], None);
    let expected = [
        (BranchStart, None, 100, true),
        (BranchEnd, Some(0), 1000, true),
    ];
    assert_eq!(shape(&all), expected);
    let sizes = with_sizes(all, &[5000]);
    assert_eq!(sizes.total, 5000 + 900);
    assert_eq!(ways(&sizes), [(SnapshotHere, 5900), (Wal, 900)]);
}

#[test]
fn behind_the_cutoff_the_data_there_and_the_wal_since_count() {
    let all = segments(&[root()], None);
    let expected = [
        (BranchStart, None, 100, false),
        (GcCutOff, Some(0), 600, false),
        (BranchEnd, Some(1), 1000, true),
    ];
    assert_eq!(shape(&all), expected);
    let sizes = with_sizes(all, &[5000]);
    assert_eq!(sizes.total, 5000 + 400);
    let ways_ = [(Skipped, 5400), (SnapshotHere, 5400), (Wal, 400)];
    assert_eq!(ways(&sizes), ways_);
}

#[test]
fn a_shorter_retention_moves_the_cutoff_up_and_a_longer_one_not_down() {
    let sizes = with_sizes(segments(&[root()], Some(100)), &[6000]);
    assert_eq!(sizes.total, 6000 + 100);
    assert_eq!(segments(&[root()], Some(900)), segments(&[root()], None));
    assert_eq!(root().retention_cutoff(2000), Lsn(0));
}

#[test]
fn an_old_branch_is_paid_with_the_data_at_its_branch_point() {
    let all = segments(&[parent(), child()], None);
    let expected = [
        (BranchStart, None, 100, false),
        (BranchPoint, Some(0), 500, false),
        (GcCutOff, Some(1), 600, false),
        (BranchEnd, Some(2), 1000, true),
        (BranchStart, Some(1), 500, true),
        (BranchEnd, Some(4), 700, true),
    ];
    assert_eq!(shape(&all), expected);
    // One copy at the branch point, and WAL from there along both lines: 4000 + 100 + 400 + 200.
    let sizes = with_sizes(all, &[4000, 5000]);
    assert_eq!(sizes.total, 4700);
    let expected = [
        (Skipped, 4700),
        (SnapshotHere, 4700),
        (Wal, 500),
        (Wal, 400),
        (Wal, 200),
        (Wal, 200),
    ];
    assert_eq!(ways(&sizes), expected);
}

#[test]
fn the_order_of_timelines_does_not_matter() {
    let sizes = with_sizes(segments(&[child(), parent()], None), &[4000, 5000]);
    assert_eq!(sizes.total, 4700);
}

#[test]
fn branches_that_went_their_own_ways_are_paid_apart_if_that_is_cheaper() {
    let child = TimelineInput {
        next_pitr_cutoff: Lsn(650),
        ..child()
    };
    let inputs = [parent(), child];
    // 6000 at the branch point, with WAL of 500 and 200 behind it, is more than 5000 + 400 for the
    // parent and 300 + 50 for the child.
    let sizes = with_sizes(segments(&inputs, None), &[6000, 5000, 300]);
    assert_eq!(sizes.total, 5750);
    let expected = [
        (Skipped, 5750),
        (Skipped, 5750),
        (SnapshotHere, 5400),
        (Wal, 400),
        (Skipped, 350),
        (SnapshotHere, 350),
        (Wal, 50),
    ];
    assert_eq!(ways(&sizes), expected);
    // A smaller one is not: 4000 + 500 + 200.
    let sizes = with_sizes(segments(&inputs, None), &[4000, 5000, 300]);
    assert_eq!(sizes.total, 4700);
    // Equal costs: nothing is kept that need not be.
    let sizes = with_sizes(segments(&inputs, None), &[5050, 5000, 300]);
    assert_eq!(sizes.segments[1].method, Skipped);
}

#[test]
fn a_lease_below_the_cutoff_is_a_branch_without_length() {
    let leased = TimelineInput {
        lease_points: vec![Lsn(300)],
        ..root()
    };
    let all = segments(&[leased], None);
    let expected = [
        (BranchStart, None, 100, false),
        (LeasePoint, Some(0), 300, false),
        (LeaseStart, Some(1), 300, false),
        (LeaseEnd, Some(2), 300, true),
        (GcCutOff, Some(1), 600, false),
        (BranchEnd, Some(4), 1000, true),
    ];
    assert_eq!(shape(&all), expected);
    assert_eq!(with_sizes(all, &[1000, 5000]).total, 1000 + 300 + 400);
}

#[test]
fn a_lease_within_the_history_costs_nothing_more() {
    let leased = TimelineInput {
        lease_points: vec![Lsn(800)],
        ..root()
    };
    let all = segments(&[leased], None);
    assert_eq!(
        shape(&all)[2..5],
        [
            (LeasePoint, Some(1), 800, true),
            (LeaseStart, Some(2), 800, true),
            (LeaseEnd, Some(3), 800, true),
        ]
    );
    assert_eq!(with_sizes(all, &[5000, 5500]).total, 5400);
}

#[test]
fn what_stands_at_one_lsn_has_its_order_and_stands_there_once() {
    let crowded = TimelineInput {
        branch_points: vec![Lsn(600), Lsn(600), Lsn(100)],
        lease_points: vec![Lsn(600)],
        ..root()
    };
    let kinds: Vec<Kind> = segments(&[crowded], None).iter().map(|m| m.kind).collect();
    let expected = [
        BranchStart,
        BranchPoint,
        BranchPoint,
        GcCutOff,
        LeasePoint,
        LeaseStart,
        LeaseEnd,
        BranchEnd,
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn an_invisible_branch_has_neither_history_nor_leases_but_children() {
    let hidden = TimelineInput {
        invisible: true,
        lease_points: vec![Lsn(620)],
        next_pitr_cutoff: Lsn(640),
        branch_points: vec![Lsn(610)],
        ..child()
    };
    let all = segments(&[parent(), hidden], None);
    assert_eq!(
        shape(&all)[4..],
        [
            (BranchStart, Some(1), 500, false),
            (BranchPoint, Some(4), 610, false),
            (BranchEnd, Some(5), 610, true),
        ]
    );
    // 4000 at the branch point, 500 to the end of the parent, 110 to the child's child.
    assert_eq!(with_sizes(all, &[4000, 5000, 9000]).total, 4610);
}

#[test]
fn a_branch_at_the_beginning_of_its_ancestor_hangs_there() {
    let grandchild = TimelineInput {
        timeline: TimelineId([3; 16]),
        ancestor: Some(CHILD),
        ..child()
    };
    let all = segments(&[parent(), child(), grandchild], None);
    assert_eq!(shape(&all)[6], (BranchStart, Some(4), 500, true));
}

#[test]
fn a_branch_without_its_ancestor_counts_as_a_root() {
    let all = segments(&[child()], None);
    assert!(all[0].wants_size());
    assert_eq!(with_sizes(all, &[3000]).total, 3200);
}

#[test]
fn a_root_that_cannot_be_kept_counts_nothing() {
    let lonely = Segment {
        parent: None,
        lsn: 5,
        size: None,
        needed: true,
    };
    let kept = Segment {
        size: Some(7),
        ..lonely
    };
    assert_eq!(calculate(&[lonely, kept]).total, 7);
}

/// The cheapest of all assignments of methods to the segments of one tree, if there is any.
fn brute_force(tree: &[Segment]) -> Option<u64> {
    let n = u32::try_from(tree.len()).unwrap();
    let assignments = (0..3usize.pow(n)).map(|code| {
        let method = |at: usize| [Skipped, SnapshotHere, Wal][code / 3usize.pow(at as u32) % 3];
        let mut total = 0;
        for (at, s) in tree.iter().enumerate() {
            let above = s.parent.map(|p| (method(p), tree[p].lsn));
            total += match (method(at), above) {
                (Skipped, _) if !s.needed => 0,
                (SnapshotHere, _) if !s.needed || s.parent.is_none() => s.size?,
                (Wal, Some((kept, from))) if kept != Skipped => s.lsn - from,
                _ => return None,
            };
        }
        Some(total)
    });
    assignments.flatten().min()
}

fn tree() -> impl Strategy<Value = Vec<Segment>> {
    let node = (
        any::<prop::sample::Index>(),
        0u64..30,
        prop::option::weighted(0.7, 0u64..60),
        prop::bool::weighted(0.4),
    );
    prop::collection::vec(node, 1..8).prop_map(|nodes| {
        let mut tree: Vec<Segment> = Vec::new();
        for (parent, length, size, needed) in nodes {
            let parent = (!tree.is_empty()).then(|| parent.index(tree.len()));
            let from = parent.map_or(100, |p| tree[p].lsn);
            tree.push(Segment {
                parent,
                lsn: from + length,
                size,
                needed,
            });
        }
        tree
    })
}

proptest! {
    #[test]
    fn nothing_is_cheaper(tree in tree()) {
        prop_assert_eq!(calculate(&tree).total, brute_force(&tree).unwrap_or(0));
    }

    #[test]
    fn the_methods_chosen_cost_what_is_said(tree in tree()) {
        prop_assume!(brute_force(&tree).is_some());
        let sizes = calculate(&tree);
        let own = tree.iter().zip(&sizes.segments).map(|(s, chosen)| match chosen.method {
            Skipped => 0,
            SnapshotHere => s.size.unwrap(),
            Wal => s.lsn - tree[s.parent.unwrap()].lsn,
        });
        prop_assert_eq!(own.sum::<u64>(), sizes.total);
        prop_assert_eq!(sizes.segments[0].accum_size, sizes.total);
    }
}
