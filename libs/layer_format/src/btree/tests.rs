use super::*;
use crate::BLOCK_SIZE;
use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use types::{Fork, Key, RelTag};

fn block_key(n: u32) -> KeyBytes {
    let rel = RelTag {
        spc: 1663,
        db: 5,
        rel: 16384,
        fork: Fork::Main,
    };
    KeyBytes::of(&Key::rel_block(rel, n).to_bytes(), &[])
}

fn build(entries: impl IntoIterator<Item = (KeyBytes, u64)>, key_len: usize) -> Built {
    let mut b = Builder::new(key_len);
    for (k, v) in entries {
        b.append(k, v).unwrap();
    }
    b.finish().unwrap()
}

fn open(blocks: impl Into<Bytes>, root: u32, key_len: usize) -> Result<Index, Error> {
    Index::build(blocks.into(), root, key_len, |_| Ok::<(), Error>(()))
}

#[test]
fn builder_writes_the_published_bytes() {
    for (n, blocks, root, head, sha) in [
        (
            355u32,
            1,
            0,
            [1, 99, 0, 0, 18],
            "78150ed07f338f1e7b982d8ca06853cfddce0572fd8bcd6810a46f6a45c8ccee",
        ),
        (
            356,
            1,
            0,
            [1, 100, 0, 16, 2],
            "a44e23e352b6e63830da8ecdff2356831db1f314d957bc076cd4e6199cc7c6f8",
        ),
        (
            1000,
            1,
            0,
            [3, 232, 0, 16, 2],
            "414a5117e573e3f333735f422c265c19c80f412e650658850fe915d4e60333ce",
        ),
        (
            100_000,
            87,
            86,
            [0, 86, 1, 0, 18],
            "ba02a851cf1111f7fc6517ae8764b97dfb6f483d545d038f8bb11afa07a37c0a",
        ),
    ] {
        let built = build(
            (0..n).map(|i| (block_key(i), 8192 + 100 * u64::from(i))),
            18,
        );
        assert_eq!(built.blocks.len(), blocks * BLOCK_SIZE);
        assert_eq!(built.root, root);
        let at = root as usize * BLOCK_SIZE;
        assert_eq!(built.blocks[at..at + 5], head, "{n} entries");
        assert_eq!(
            hex::encode(Sha256::digest(&built.blocks)),
            sha,
            "{n} entries"
        );
        let index = open(built.blocks, root, 18).unwrap();
        assert_eq!(index.entries(), u64::from(n));
        let hit = index.seek(block_key(n - 1).as_slice()).entry().unwrap();
        assert_eq!(
            hit,
            Entry {
                key: block_key(n - 1),
                value: 8192 + 100 * u64::from(n - 1)
            }
        );
    }
}

#[test]
fn builder_refuses_what_the_format_cannot_hold() {
    let mut b = Builder::new(18);
    b.append(block_key(5), 1).unwrap();
    assert!(matches!(
        b.append(block_key(5), 1),
        Err(BuildError::NotAscending { .. })
    ));
    assert!(matches!(
        b.append(block_key(4), 1),
        Err(BuildError::NotAscending { .. })
    ));
    assert_eq!(
        b.append(block_key(6), MAX_VALUE + 1),
        Err(BuildError::Value(MAX_VALUE + 1))
    );
    assert!(matches!(
        b.append(KeyBytes::of(b"x", b""), 1),
        Err(BuildError::KeyLength { found: 1, .. })
    ));
    assert!(matches!(Builder::new(18).finish(), Err(BuildError::Empty)));
}

/// One-byte keys: small trees by hand.
fn node(level: u8, prefix: &[u8], entries: &[(&[u8], u64)]) -> Vec<u8> {
    let mut b = u16::try_from(entries.len()).unwrap().to_be_bytes().to_vec();
    let suffix = entries.first().map_or(0, |e| e.0.len());
    b.extend([
        level,
        u8::try_from(prefix.len()).unwrap(),
        u8::try_from(suffix).unwrap(),
    ]);
    b.extend_from_slice(prefix);
    entries.iter().for_each(|e| b.extend_from_slice(e.0));
    entries
        .iter()
        .for_each(|e| b.extend_from_slice(&e.1.to_be_bytes()[3..]));
    b.resize(BLOCK_SIZE, 0);
    b
}
const PTR: u64 = 0x80 << 32;

#[test]
fn any_correct_prefix_is_read() {
    let tree = [
        node(0, b"ab", &[(b"", 7)]),
        node(0, b"b", &[(b"a", 8), (b"c", 9)]),
        node(1, b"", &[(b"aa", PTR), (b"ba", PTR | 1)]),
    ]
    .concat();
    let index = open(tree, 2, 2).unwrap();
    let from = |k: &[u8]| index.seek(k).entry().map(|e| e.value);
    assert_eq!(from(b"\0\0"), Some(7));
    assert_eq!(from(b"ab"), Some(7));
    assert_eq!(from(b"ac"), Some(8));
    assert_eq!(from(b"bb"), Some(9));
    assert_eq!(from(b"bd"), None);
    let mut c = index.seek(b"zz");
    assert_eq!(c.previous_entry().map(|e| e.value), Some(9));
    assert_eq!(c.previous_entry().map(|e| e.value), Some(8));
    assert_eq!(c.previous_entry().map(|e| e.value), Some(7));
    assert_eq!(c.previous_entry(), None);
    assert_eq!(c.next_entry().map(|e| e.value), Some(7));
}

#[test]
fn broken_trees_are_refused() {
    let leaf = |k: &[u8], v| node(0, b"", &[(k, v)]);
    let two = |a: (&[u8], u64), b: (&[u8], u64)| node(1, b"", &[a, b]);
    let check = |blocks: &[Vec<u8>], root| open(blocks.concat(), root, 1).map(|_| ()).unwrap_err();

    assert_eq!(open(vec![0; 100], 0, 1).unwrap_err(), Error::Size(100));
    assert_eq!(open(vec![], 0, 1).unwrap_err(), Error::Size(0));
    assert!(matches!(
        check(&[leaf(b"a", 1)], 1),
        Error::OutOfRange { block: 1, .. }
    ));
    assert!(matches!(
        check(&[vec![0; BLOCK_SIZE]], 0),
        Error::Node {
            source: NodeError::Empty,
            ..
        }
    ));
    let mut big = leaf(b"a", 1);
    big[0] = 0xFF;
    assert!(matches!(
        check(&[big], 0),
        Error::Node {
            source: NodeError::Overflow { .. },
            ..
        }
    ));
    let mut prefix = leaf(b"a", 1);
    prefix[3] = 1;
    assert!(matches!(
        check(&[prefix], 0),
        Error::Node {
            source: NodeError::KeyLength { .. },
            ..
        }
    ));
    let mut level = leaf(b"a", 1);
    level[2] = 99;
    assert!(matches!(
        check(&[level], 0),
        Error::Node {
            source: NodeError::Level(99),
            ..
        }
    ));
    assert!(matches!(
        check(&[leaf(b"a", 1 << 39)], 0),
        Error::Value { .. }
    ));

    let a = leaf(b"a", 1);
    let c = leaf(b"c", 1);
    assert_eq!(
        check(&[a.clone(), two((b"a", PTR), (b"c", PTR))], 1),
        Error::Revisited(0)
    );
    assert!(matches!(
        check(&[node(1, b"", &[(b"a", PTR)])], 0),
        Error::Revisited(0)
    ));
    assert!(matches!(
        check(&[a.clone(), node(2, b"", &[(b"a", PTR)])], 1),
        Error::Level { .. }
    ));
    assert!(matches!(
        check(&[a.clone(), node(1, b"", &[(b"a", 0)])], 1),
        Error::NotAPointer { .. }
    ));
    assert!(matches!(
        check(
            &[a.clone(), c.clone(), two((b"a", PTR | 1), (b"c", PTR))],
            2
        ),
        Error::Order { .. }
    ));
    assert!(matches!(
        check(
            &[a.clone(), c.clone(), two((b"a", PTR), (b"d", PTR | 1))],
            2
        ),
        Error::Order { .. }
    ));
    assert!(matches!(
        check(&[a, c, two((b"a", PTR), (b"\0", PTR | 1))], 2),
        Error::Order { .. }
    ));
    assert!(matches!(
        check(&[node(0, b"", &[(b"b", 1), (b"b", 2)])], 0),
        Error::Order { entry: 1, .. }
    ));
    assert!(matches!(
        check(&[node(0, b"b", &[(b"", 1), (b"", 2)])], 0),
        Error::Order { entry: 1, .. }
    ));
}

/// Keys that share prefixes of every length, as relations do.
fn clustered_key() -> impl Strategy<Value = [u8; 18]> {
    (0u8..3, 0u32..3, prop_oneof![0u32..2000, any::<u32>()]).prop_map(|(a, r, b)| {
        Key {
            field1: a,
            field2: 1663,
            field3: 5,
            field4: 16384 + r,
            field5: 0,
            field6: b,
        }
        .to_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn index_behaves_like_an_ordered_map(
        model in proptest::collection::btree_map((clustered_key(), 0u64..50), 0..=MAX_VALUE, 1..3000),
        probes in proptest::collection::vec((clustered_key(), 0u64..50), 50),
    ) {
        let model: BTreeMap<KeyBytes, u64> =
            model.into_iter().map(|((k, l), v)| (KeyBytes::of(&k, &l.to_be_bytes()), v)).collect();
        let built = build(model.iter().map(|(k, v)| (*k, *v)), 26);
        let index = open(built.blocks, built.root, 26).unwrap();
        prop_assert_eq!(index.entries(), model.len() as u64);

        let mut cursor = index.first();
        for (key, value) in &model {
            prop_assert_eq!(cursor.next_entry(), Some(Entry { key: *key, value: *value }));
        }
        prop_assert_eq!(cursor.next_entry(), None);
        for (key, value) in model.iter().rev() {
            prop_assert_eq!(cursor.previous_entry(), Some(Entry { key: *key, value: *value }));
        }
        prop_assert_eq!(cursor.previous_entry(), None);

        for (k, l) in probes {
            let key = KeyBytes::of(&k, &l.to_be_bytes());
            let mut found = index.seek(key.as_slice());
            let expect = model.range(key..).next().map(|(k, v)| Entry { key: *k, value: *v });
            prop_assert_eq!(found.entry(), expect);
            let before = model.range(..key).next_back().map(|(k, v)| Entry { key: *k, value: *v });
            prop_assert_eq!(found.previous_entry(), before);
        }
    }

    #[test]
    fn damaged_index_blocks_never_panic(
        n in 1u32..3000,
        flips in proptest::collection::vec((any::<usize>(), 1u8..), 1..20),
        root: u32,
    ) {
        let built = build((0..n).map(|i| (block_key(i * 7), u64::from(i))), 18);
        let mut bytes = built.blocks;
        for (at, bits) in flips {
            let at = at % bytes.len();
            bytes[at] ^= bits;
        }
        for root in [built.root, root % 8] {
            if let Ok(index) = open(bytes.clone(), root, 18) {
                let mut cursor = index.first();
                let mut count = 0;
                while cursor.next_entry().is_some() {
                    count += 1;
                }
                prop_assert_eq!(count, index.entries());
            }
        }
    }
}
