//! Hand-made records and pages for tests of redo actions.

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::page::{Page, Place};
use crate::redo::Dialect;
use pg_wal::View;
use proptest::prelude::*;
use types::{Flavour, Lsn, PAGE_SIZE, PgMajor};

/// Concatenates the little-endian bytes of integers.
macro_rules! le {
    ($($v:expr),* $(,)?) => {{
        let mut out: Vec<u8> = Vec::new();
        $(out.extend_from_slice(&$v.to_le_bytes());)*
        out
    }};
}
pub(crate) use le;

/// A redo entry point.
pub(crate) type Redo = fn(&Context<'_>, &mut Page<'_>) -> Result<Effect, Fault>;
/// End of every hand-made record.
pub(crate) const LSN: Lsn = Lsn(0x0000_0007_1234_5678);

/// A record under construction.
#[derive(Clone, Debug)]
pub(crate) struct Rec {
    pub info: u8,
    pub main: Vec<u8>,
    pub blocks: Vec<(u8, u32, Vec<u8>)>,
    pub version: PgMajor,
}

impl Rec {
    pub fn new(info: u8, main: &[u8]) -> Rec {
        Rec {
            info,
            main: main.to_vec(),
            blocks: Vec::new(),
            version: PgMajor::V17,
        }
    }

    pub fn block(mut self, id: u8, block: u32, data: &[u8]) -> Rec {
        self.blocks.push((id, block, data.to_vec()));
        self
    }

    pub fn version(mut self, version: PgMajor) -> Rec {
        self.version = version;
        self
    }

    /// Calls `f` with the record seen from reference `id`, which must exist.
    pub fn with<T>(&self, id: u8, f: impl FnOnce(&Context<'_>) -> T) -> T {
        let raw = self.raw();
        let view = View::find(&raw, self.version, |n, _, _| n == id);
        let rec = view
            .expect("the record is well-formed")
            .expect("the test asks for a reference the record has");
        let dialect = Dialect {
            version: self.version,
            flavour: Flavour::Vanilla,
            hint_bits_logged: false,
        };
        f(&Context {
            rec: &rec,
            lsn: LSN,
            dialect,
        })
    }

    /// The raw bytes, with manager and CRC 0.
    fn raw(&self) -> Vec<u8> {
        let (mut head, mut payload) = (Vec::new(), Vec::new());
        for (id, block, data) in &self.blocks {
            head.extend([*id, if data.is_empty() { 0 } else { 0x20 }]);
            head.extend(le![data.len() as u16, 1663u32, 5u32, 16384u32, *block]);
            payload.extend(data);
        }
        head.push(254);
        head.extend(le![self.main.len() as u32]);
        let len = 24 + head.len() + payload.len() + self.main.len();
        let mut raw = le![len as u32, 77u32, 0u64, self.info, 0u8, 0u16, 0u32];
        raw.extend([head, payload, self.main.clone()].concat());
        raw
    }

    /// Applies the record to the page of reference `id`.
    pub fn apply(&self, redo: Redo, id: u8, page: &mut [u8; PAGE_SIZE]) -> Result<Effect, Fault> {
        self.with(id, |cx| redo(cx, &mut Page::new(page)))
    }
}

/// An index tuple of `len` bytes (8 at least) with a recognisable body.
pub(crate) fn tuple(block: u32, off: u16, info: u16, len: usize) -> Vec<u8> {
    let mut t = super::tid(block, off).to_vec();
    t.extend_from_slice(&(info | len as u16).to_le_bytes());
    t.extend((8..len).map(|i| (block as u8).wrapping_mul(31).wrapping_add(i as u8)));
    t
}

/// A page with the given special space and items.
pub(crate) fn page(special: &[u8], items: &[Vec<u8>]) -> [u8; PAGE_SIZE] {
    let mut buf = [0; PAGE_SIZE];
    let mut p = Page::new(&mut buf);
    p.init(special.len() as u16);
    p.put(PAGE_SIZE - special.len(), special).expect("fits");
    for item in items {
        super::append(&mut p, item).expect("fits");
    }
    buf
}

/// All items of a page in offset number order.
pub(crate) fn items(buf: &[u8; PAGE_SIZE]) -> Vec<Vec<u8>> {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    (1..=p.max_offset())
        .map(|off| p.item(off).expect("item").to_vec())
        .collect()
}

/// Pages between well-formed and noise.
pub(crate) fn any_page(special: usize) -> impl Strategy<Value = Box<[u8; PAGE_SIZE]>> {
    let item = (8usize..200, any::<[u8; 24]>(), any::<bool>());
    let sane = (
        proptest::collection::vec(item, 0..40),
        proptest::collection::vec(any::<u8>(), special),
        proptest::collection::vec((0..PAGE_SIZE, any::<u8>()), 0..6),
        any::<bool>(),
    )
        .prop_map(move |(list, tail, flips, noise)| {
            let mut buf = Box::new([0; PAGE_SIZE]);
            let mut p = Page::new(&mut buf);
            p.init(special as u16);
            let _ = p.put(PAGE_SIZE - special, &tail);
            for (len, seed, honest) in list {
                let mut t: Vec<u8> = seed.iter().copied().cycle().take(len).collect();
                if honest && let Some(info) = t.get_mut(6..8) {
                    info.copy_from_slice(&(len as u16).to_le_bytes());
                }
                let off = p.max_offset() + 1;
                let _ = p.add(&t, off, Place::Shift);
            }
            if noise {
                for (at, v) in flips {
                    if let Some(b) = buf.get_mut(at) {
                        *b = v;
                    }
                }
            }
            buf
        });
    let noise = proptest::collection::vec(any::<u8>(), PAGE_SIZE)
        .prop_map(|v| Box::new(<[u8; PAGE_SIZE]>::try_from(v).expect("length")));
    prop_oneof![6 => sane, 1 => noise]
}

fn any_version() -> impl Strategy<Value = PgMajor> {
    prop_oneof![
        Just(PgMajor::V14),
        Just(PgMajor::V15),
        Just(PgMajor::V16),
        Just(PgMajor::V17),
        Just(PgMajor::V18)
    ]
}

/// Bytes that look like counts and offset numbers often enough to get somewhere.
fn any_bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..max),
        proptest::collection::vec(
            prop_oneof![Just(0u8), 0..6u8, Just(16u8), any::<u8>()],
            0..max
        ),
        proptest::collection::vec(0..24u16, 0..max / 2)
            .prop_map(|v| v.into_iter().flat_map(u16::to_le_bytes).collect()),
    ]
}

/// A record of any kind with a few references.
pub(crate) fn any_record() -> impl Strategy<Value = Rec> {
    let block = (prop_oneof![0..4u32, any::<u32>()], any_bytes(300));
    (
        0..=0xFFu8,
        any_bytes(120),
        proptest::collection::vec(block, 1..6),
        any_version(),
    )
        .prop_map(|(info, main, blocks, version)| {
            let blocks = (0..)
                .zip(blocks)
                .map(|(id, (blk, data))| (id, blk, data))
                .collect();
            Rec {
                info,
                main,
                blocks,
                version,
            }
        })
}

/// Applies a record to the page from every reference; only the absence of panics counts, and
/// that a page still in order before an error stays addressable.
pub(crate) fn survives(redo: Redo, rec: &Rec, page: &[u8; PAGE_SIZE]) {
    for (id, _, _) in &rec.blocks {
        let mut copy = *page;
        if rec.apply(redo, *id, &mut copy) == Ok(Effect::Untouched) {
            assert_eq!(&copy, page, "an untouched page must not change");
        }
    }
}
