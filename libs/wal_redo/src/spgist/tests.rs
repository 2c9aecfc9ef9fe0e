use super::tuple::{Dead, State};
use super::*;
use crate::index::testing::{Rec, any_page, any_record, items, le, page, survives, tuple};
use crate::index::tid;
use proptest::prelude::*;
use types::PAGE_SIZE;

const HERE: u32 = 5;
const THERE: u32 = 6;
const PARENT: u32 = 1;

fn special_of(flags: u16, redirections: u16, placeholders: u16) -> Vec<u8> {
    le![flags, redirections, placeholders, SPGIST_PAGE_ID]
}

/// Flags, redirections, placeholders.
fn read_special(buf: &[u8; PAGE_SIZE]) -> (u16, u16, u16) {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    let at = special(&p).unwrap();
    assert_eq!(p.u16_at(at + PAGE_ID).unwrap(), SPGIST_PAGE_ID);
    (
        p.u16_at(at).unwrap(),
        p.u16_at(at + 2).unwrap(),
        p.u16_at(at + 4).unwrap(),
    )
}

/// A live leaf tuple of 24 bytes.
fn leaf(n: u8, next: u16) -> Vec<u8> {
    let mut t = le![24u32 << 2, next];
    t.extend_from_slice(&tid(u32::from(n), 1));
    t.resize(24, n);
    t
}

/// An inner tuple with an 8-byte prefix and nodes that point to block `100 + i`.
fn inner(nodes: u32) -> Vec<u8> {
    let size = 16 + 16 * nodes;
    let mut t = le![nodes << 3 | 8 << 16, size as u16, 0u16];
    t.extend_from_slice(&[0xAB; 8]);
    for i in 0..nodes {
        t.extend(tuple(100 + i, 1, 0, 16));
    }
    t
}

/// [`inner`] with another downlink.
fn linked(nodes: u32, node: usize, block: u32, off: u16) -> Vec<u8> {
    let mut t = inner(nodes);
    let at = 16 + 16 * node;
    t[at..at + 6].copy_from_slice(&tid(block, off));
    t
}

fn placeholder() -> Vec<u8> {
    Dead::new(State::Placeholder).bytes().to_vec()
}

fn leaves(list: &[Vec<u8>], placeholders: u16) -> [u8; PAGE_SIZE] {
    page(&special_of(LEAF, 0, placeholders), list)
}

fn inners(list: &[Vec<u8>]) -> [u8; PAGE_SIZE] {
    page(&special_of(0, 0, 0), list)
}

/// Redirection state as records carry it, with its padding.
fn mover(xid: u32, is_build: bool) -> Vec<u8> {
    le![xid, u32::from(is_build)]
}

#[test]
fn dead_tuples_have_sixteen_bytes() {
    let expected = [le![1u32 | 16 << 2, 0u16], tid(9, 3).to_vec(), le![77u32]].concat();
    assert_eq!(Dead::redirect(9, 3, 77).bytes().to_vec(), expected);
    assert_eq!(
        Dead::new(State::Dead).bytes()[..12],
        [66, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0]
    );
}

#[test]
fn add_leaf_starts_a_chain_extends_it_or_replaces_a_dead_tuple() {
    let record = |new: u8, nulls: u8, off: u16, head: u16, parent: u16, t: &[u8]| {
        let main = [le![new, nulls, off, head, parent, 1u16], t.to_vec()].concat();
        Rec::new(ADD_LEAF, &main)
            .block(0, HERE, &[])
            .block(1, PARENT, &[])
    };
    let mut p = [0; PAGE_SIZE];
    let rec = record(1, 1, 1, 0, 1, &leaf(1, 0));
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(
        (items(&p), read_special(&p)),
        (vec![leaf(1, 0)], (LEAF | NULLS, 0, 0))
    );
    let mut parent = inners(&[inner(3)]);
    rec.apply(redo, 1, &mut parent).unwrap();
    assert_eq!(items(&parent), [linked(3, 1, HERE, 1)]);

    let mut p = leaves(&[leaf(1, 0), placeholder()], 1);
    record(0, 0, 2, 1, 0, &leaf(2, 0))
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(
        (items(&p), read_special(&p)),
        (vec![leaf(1, 2), leaf(2, 0)], (LEAF, 0, 0))
    );

    let mut p = leaves(&[Dead::new(State::Dead).bytes().to_vec(), leaf(2, 0)], 0);
    record(0, 0, 1, 1, 0, &leaf(3, 0))
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p), [leaf(3, 0), leaf(2, 0)]);

    // Only placeholders may be replaced.
    let mut p = leaves(&[leaf(1, 0), leaf(2, 0)], 0);
    let got = record(0, 0, 2, 1, 0, &leaf(2, 0)).apply(redo, 0, &mut p);
    assert!(matches!(got, Err(Fault::Rule(_))));
}

#[test]
fn move_leafs_redirects_the_head_which_the_record_names_first() {
    let main = |build: bool| {
        [
            le![2u16, 1u8, 0u8, 0u8, 0u8, 1u16, 0u16, 0u16],
            mover(77, build),
            le![3u16, 1u16, 1u16, 2u16, 3u16],
            leaf(7, 0),
            leaf(8, 1),
            leaf(9, 2),
        ]
        .concat()
    };
    let record = |build| {
        Rec::new(MOVE_LEAFS, &main(build))
            .block(0, HERE, &[])
            .block(1, THERE, &[])
            .block(2, PARENT, &[])
    };
    let old = [leaf(1, 0), leaf(2, 0), leaf(3, 0)];
    let mut p = leaves(&old, 0);
    record(false).apply(redo, 0, &mut p).unwrap();
    let redirect = Dead::redirect(THERE, 3, 77).bytes().to_vec();
    assert_eq!(items(&p), [placeholder(), leaf(2, 0), redirect]);
    assert_eq!(read_special(&p), (LEAF, 1, 1));
    let mut p = leaves(&old, 0);
    record(true).apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [placeholder(), leaf(2, 0), placeholder()]);
    assert_eq!(read_special(&p), (LEAF, 0, 2));

    let mut p = [0; PAGE_SIZE];
    record(false).apply(redo, 1, &mut p).unwrap();
    assert_eq!(items(&p), [leaf(7, 0), leaf(8, 1), leaf(9, 2)]);
    let mut parent = inners(&[inner(2)]);
    record(false).apply(redo, 2, &mut parent).unwrap();
    assert_eq!(items(&parent), [linked(2, 0, THERE, 3)]);
}

fn node_record(new_page: u8, parent_block: u8, parent: u16, build: bool) -> Rec {
    let main = [
        le![1u16, 1u16, new_page, parent_block, parent, 0u16, 0u16],
        mover(77, build),
        inner(3),
    ]
    .concat();
    Rec::new(ADD_NODE, &main).block(0, HERE, &[])
}

#[test]
fn add_node_in_place() {
    let mut p = inners(&[inner(2), inner(1)]);
    node_record(0, 0, 0, false).apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [inner(3), inner(1)]);
}

#[test]
fn add_node_on_another_page() {
    for (build, trace, counters) in [
        (
            false,
            Dead::redirect(THERE, 1, 77).bytes().to_vec(),
            (0, 1, 0),
        ),
        (true, placeholder(), (0, 0, 1)),
    ] {
        let rec = node_record(1, 2, 1, build)
            .block(1, THERE, &[])
            .block(2, PARENT, &[]);
        let mut p = inners(&[inner(2), inner(1)]);
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!(
            (items(&p), read_special(&p)),
            (vec![trace, inner(1)], counters)
        );
        let mut p = [0; PAGE_SIZE];
        rec.apply(redo, 1, &mut p).unwrap();
        assert_eq!((items(&p), read_special(&p)), (vec![inner(3)], (0, 0, 0)));
        let mut p = inners(&[inner(1)]);
        rec.apply(redo, 2, &mut p).unwrap();
        assert_eq!(items(&p), [linked(1, 0, THERE, 1)]);
    }
    // The parent stands on the old page, then on the new one.
    let mut p = inners(&[inner(2), inner(1)]);
    node_record(0, 0, 2, false)
        .block(1, THERE, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p)[1], linked(1, 0, THERE, 1));
    let mut p = page(&special_of(0, 0, 1), &[placeholder(), inner(1)]);
    node_record(0, 1, 2, false)
        .block(1, THERE, &[])
        .apply(redo, 1, &mut p)
        .unwrap();
    assert_eq!(items(&p), [inner(3), linked(1, 0, THERE, 1)]);
    assert_eq!(read_special(&p), (0, 0, 0));
}

#[test]
fn split_tuple_on_one_page_and_on_two() {
    let main = |new: u8, same: u8| [le![1u16, 2u16, new, same], inner(1), inner(2)].concat();
    let mut p = inners(&[inner(3)]);
    Rec::new(SPLIT_TUPLE, &main(0, 1))
        .block(0, HERE, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p), [inner(1), inner(2)]);
    let rec = Rec::new(SPLIT_TUPLE, &main(0, 0))
        .block(0, HERE, &[])
        .block(1, THERE, &[]);
    let mut p = inners(&[inner(3)]);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [inner(1)]);
    let mut p = inners(&[inner(5)]);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(items(&p), [inner(5), inner(2)]);
}

fn pick_split_record(init: [u8; 3], parent_here: u8, build: bool) -> Rec {
    let [source, target, inner_page] = init;
    let main = [
        le![
            0u16,
            2u16,
            3u16,
            source,
            target,
            1u16,
            inner_page,
            0u8,
            parent_here,
            0u8
        ],
        le![2u16, 0u16, 0u16],
        mover(77, build),
        le![2u16, 1u16, 3u16, 1u16, 2u16, 0u8, 1u8, 1u8],
        inner(2),
        leaf(7, 0),
        leaf(8, 0),
        leaf(9, 0),
    ]
    .concat();
    Rec::new(PICKSPLIT, &main)
        .block(0, HERE, &[])
        .block(1, THERE, &[])
        .block(2, 20, &[])
        .block(3, PARENT, &[])
}

#[test]
fn picksplit_distributes_leaves() {
    let rec = pick_split_record([0, 1, 1], 0, false);
    let mut p = leaves(&[leaf(1, 0), leaf(2, 0), placeholder()], 1);
    rec.apply(redo, 0, &mut p).unwrap();
    let redirect = Dead::redirect(20, 1, 77).bytes().to_vec();
    assert_eq!(items(&p), [placeholder(), redirect, leaf(7, 0)]);
    assert_eq!(read_special(&p), (LEAF, 1, 1));
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(items(&p), [leaf(8, 0), leaf(9, 0)]);
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 2, &mut p).unwrap();
    assert_eq!((items(&p), read_special(&p)), (vec![inner(2)], (0, 0, 0)));
    let mut p = inners(&[inner(1), inner(2)]);
    rec.apply(redo, 3, &mut p).unwrap();
    assert_eq!(items(&p), [inner(1), linked(2, 0, 20, 1)]);
}

#[test]
fn picksplit_during_a_build_and_with_the_parent_beside() {
    let mut p = leaves(&[leaf(1, 0), leaf(2, 0), placeholder()], 1);
    pick_split_record([0, 1, 1], 0, true)
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p), [placeholder(), placeholder(), leaf(7, 0)]);
    assert_eq!(read_special(&p), (LEAF, 0, 2));
    let mut p = page(&special_of(0, 0, 1), &[placeholder(), inner(2)]);
    pick_split_record([0, 1, 0], 1, false)
        .apply(redo, 2, &mut p)
        .unwrap();
    assert_eq!(items(&p), [inner(2), linked(2, 0, 20, 1)]);
    // A source that starts over cannot take offset number 3 first.
    let mut p = [0; PAGE_SIZE];
    let got = pick_split_record([1, 1, 1], 0, false).apply(redo, 0, &mut p);
    assert!(matches!(got, Err(Fault::Page(_))));
}

#[test]
fn vacuum_leaf_in_all_its_steps() {
    // 1 becomes dead, 2 a placeholder, 4 takes the place of 3, 5 now leads to 3.
    let main = [
        le![1u16, 1u16, 1u16, 1u16],
        mover(77, false),
        le![1u16, 2u16, 4u16, 3u16, 5u16, 3u16],
    ]
    .concat();
    let mut p = leaves(
        &[leaf(1, 0), leaf(2, 0), leaf(3, 0), leaf(4, 0), leaf(5, 4)],
        0,
    );
    Rec::new(VACUUM_LEAF, &main)
        .block(0, HERE, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    let dead = Dead::new(State::Dead).bytes().to_vec();
    let expected = [dead, placeholder(), leaf(4, 0), placeholder(), leaf(5, 3)];
    assert_eq!(items(&p), expected);
    assert_eq!(read_special(&p), (LEAF, 0, 2));
}

#[test]
fn vacuum_root_deletes_items() {
    let main = [le![2u16, 0u16], mover(77, false), le![1u16, 3u16]].concat();
    let mut p = leaves(&[leaf(1, 0), leaf(2, 0), leaf(3, 0)], 0);
    Rec::new(VACUUM_ROOT, &main)
        .block(0, 1, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p), [leaf(2, 0)]);
}

#[test]
fn vacuum_redirect_has_a_longer_header_since_16() {
    let redirect = Dead::redirect(9, 9, 77).bytes().to_vec();
    let mut forgotten = placeholder();
    forgotten[12..].copy_from_slice(&le![77u32]);
    for (version, header) in [
        (PgMajor::V15, le![2u16, 3u16, 77u32]),
        (PgMajor::V16, le![2u16, 3u16, 77u32, 0u16]),
    ] {
        let list = [
            redirect.clone(),
            leaf(2, 0),
            redirect.clone(),
            placeholder(),
        ];
        let mut p = page(&special_of(LEAF, 2, 1), &list);
        let main = [header, le![1u16, 3u16]].concat();
        let rec = Rec::new(VACUUM_REDIRECT, &main)
            .block(0, HERE, &[])
            .version(version);
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!(items(&p), [forgotten.clone(), leaf(2, 0)]);
        assert_eq!(read_special(&p), (LEAF, 0, 1));
    }
}

#[test]
fn a_link_needs_the_node_to_exist() {
    let main = [le![1u8, 0u8, 1u16, 0u16, 1u16, 3u16], leaf(1, 0)].concat();
    let rec = Rec::new(ADD_LEAF, &main)
        .block(0, HERE, &[])
        .block(1, PARENT, &[]);
    let mut parent = inners(&[inner(3)]);
    assert!(matches!(
        rec.apply(redo, 1, &mut parent),
        Err(Fault::Rule(_))
    ));
}

proptest! {
    #[test]
    fn any_record_on_any_page_never_panics(rec in any_record(), page in any_page(8)) {
        survives(redo, &rec, &page);
    }
}
