//! What a page costs inside the engine, beside a raw `pread` of 8 KiB of the same layer file in the
//! same run: in the page cache, and from the device. The figures are in `docs/benchmarks.md`.
//!
//! Rounds of the contenders alternate, so that whatever else the machine does hits all of them;
//! compared are the fastest rounds. `--count CASE N` after `--` does one case N times and nothing
//! else: under `valgrind --tool=callgrind` the difference of two such runs gives the instructions
//! of one.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "benchmark"
)]

mod support;

use layer_format::{LayerEntry, Name};
use pageserver::engine::Timeline;
use pageserver::engine::layer::Layer;
use pageserver::engine::layer_map::LayerMap;
use pageserver::engine::open_layers::OpenLayers;
use pageserver::engine::timeline::Position;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use support::*;
use types::shard::ShardIndex;
use types::{Generation, Key, KeyRange, Lsn, PAGE_SIZE, TenantShardId, TimelineId};

/// Pages of the relation: 64 MiB.
const PAGES: u32 = 8192;
/// Pages with changes.
const CHANGED: u32 = 512;
/// Changes of each.
const DELTAS: u16 = 20;
/// Operations of a round.
const ROUND: usize = 64;
/// Rounds.
const ROUNDS: usize = 400;
/// Pages read together.
const TOGETHER: u32 = 32;

struct Case<'a> {
    name: &'static str,
    /// Pages of one operation.
    pages: usize,
    /// The page cache forgets the layer file before each round.
    cold: bool,
    run: Box<dyn FnMut(u32) + 'a>,
}

impl<'a> Case<'a> {
    fn new(name: &'static str, run: impl FnMut(u32) + 'a) -> Self {
        Case {
            name,
            pages: 1,
            cold: false,
            run: Box::new(run),
        }
    }

    fn cold(self) -> Self {
        Case { cold: true, ..self }
    }

    fn together(self) -> Self {
        Case {
            pages: TOGETHER as usize,
            ..self
        }
    }
}

fn main() {
    if !wanted("getpage") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let world = || runtime.block_on(World::new());
    let (still, flushed, memory) = (world(), world(), world());
    let images = runtime.block_on(still.relation(PAGES, 0, 0, false));
    let timeline = runtime.block_on(flushed.relation(PAGES, CHANGED, DELTAS, true));
    let fresh = runtime.block_on(memory.relation(CHANGED, CHANGED, DELTAS, false));
    let file = largest(&images, &still);
    let blocks = (file.metadata().unwrap().len() / PAGE_SIZE as u64) as u32;
    let (last, page) = (timeline.last_record_lsn(), [0u8; PAGE_SIZE]);
    let unchanged = |n: u32| CHANGED + n % (PAGES - CHANGED);
    let read = |t: &Arc<Timeline>, block: u32, lsn: Lsn| {
        let page = runtime.block_on(t.page(REL, block, lsn)).unwrap();
        assert_eq!(page.len(), PAGE_SIZE);
        black_box(&page);
    };
    let pread = |len: usize| {
        let (mut buf, file) = (vec![0u8; len], &file);
        move |n: u32| {
            let at = u64::from(n % (blocks - 2)) * PAGE_SIZE as u64;
            file.read_exact_at(black_box(&mut buf), at).unwrap();
        }
    };
    let two = [page, page].concat();
    let mut one = pread(PAGE_SIZE);
    let mut cases = vec![
        Case::new("raw_pread_8k", pread(PAGE_SIZE)),
        Case::new("raw_pread_16k", pread(2 * PAGE_SIZE)),
        Case::new("crc32c_16k", |_| {
            black_box(types::crc32c::of(black_box(&two)));
        }),
        Case::new("image", |n| read(&images, n, START)),
        Case::new("image_below_an_l0", |n| {
            read(&timeline, unchanged(n), last);
        }),
        Case::new("20_deltas_in_an_l0", |n| {
            read(&timeline, n % CHANGED, last);
        }),
        Case::new("20_deltas_in_memory", |n| read(&fresh, n % CHANGED, last)),
        Case::new("32_images_together", |n| {
            let from = n / TOGETHER * TOGETHER;
            let pages = images.pages(REL, from..from + TOGETHER, START);
            for page in runtime.block_on(pages) {
                assert_eq!(page.unwrap().len(), PAGE_SIZE);
            }
        })
        .together(),
        Case::new("32_raw_preads_8k", move |n| {
            (n..n + TOGETHER).for_each(&mut one);
        })
        .together(),
        Case::new("raw_pread_8k_from_the_device", pread(PAGE_SIZE)).cold(),
        Case::new("image_from_the_device", |n| read(&images, n, START)).cold(),
    ];
    if let Some((name, n)) = counted() {
        let case = cases.iter_mut().find(|c| c.name == name).unwrap();
        scattered(PAGES).take(n).for_each(&mut case.run);
        return;
    }
    let mut times = vec![Times::default(); cases.len()];
    let mut next = scattered(PAGES);
    // The cold ones at the end: they would slow down the others.
    for round in 0..2 * ROUNDS {
        let turn = |(case, _): &(&mut Case<'_>, _)| case.cold == (round >= ROUNDS);
        for (case, times) in cases.iter_mut().zip(&mut times).filter(turn) {
            let blocks: Vec<u32> = next.by_ref().take(ROUND / case.pages).collect();
            if case.cold {
                forget(&file);
            }
            times.time(|| blocks.into_iter().for_each(&mut case.run));
        }
    }
    println!("{:<44} {:>9} {:>9}", "us per page", "min", "median");
    let raw = |cold: bool| cases.iter().position(|c| c.cold == cold).unwrap();
    for (case, own) in cases.iter().zip(&times) {
        own.print(case.name, ROUND, Some(&times[raw(case.cold)]));
    }
    for layers in [1_000, 10_000] {
        lookup(layers);
    }
}

/// `--count CASE N`.
fn counted() -> Option<(String, usize)> {
    let mut words = std::env::args().skip_while(|w| w != "--count").skip(1);
    Some((words.next()?, words.next()?.parse().ok()?))
}

/// The image layer of the relation.
fn largest(timeline: &Timeline, world: &World) -> File {
    let layers = timeline.layers();
    let layer = layers
        .files()
        .filter(|l| !l.is_delta())
        .max_by_key(|l| l.size())
        .unwrap();
    File::open(world.directory.path().join(layer.local_path())).unwrap()
}

/// The page cache forgets a file that is on disk.
fn forget(file: &File) {
    file.sync_all().unwrap();
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Time to find where a page is, in a map of `layers` layers: per stretch of 100 pages an image
/// layer and nine delta layers above it, one of which covers two stretches.
fn lookup(layers: u32) {
    let key = |n: u32| Key::rel_block(REL, n);
    let entry = LayerEntry::new(PAGE_SIZE as u64, Generation::new(1), ShardIndex::UNSHARDED);
    let tenant = TenantShardId::unsharded(TENANT);
    let stretches = layers / 10;
    let names = (0..layers).map(|n| {
        let (stretch, level) = (n / 10, u64::from(n % 10));
        let wide = u32::from(level == 9);
        let keys = KeyRange {
            start: key(stretch * 100),
            end: key((stretch + 1 + wide) * 100),
        };
        let lsn = |l: u64| START.saturating_add(l * 4096);
        match level {
            0 => Name::Image { keys, lsn: lsn(1) },
            _ => Name::Delta {
                keys,
                lsns: lsn(level)..lsn(level + 1),
            },
        }
    });
    let cache = OpenLayers::new(1 << 30, 64);
    let layer = |name| Layer::known(&cache, tenant, TimelineId([1; 16]), "", name, entry);
    let all: Vec<Arc<Layer>> = names.map(|n| Arc::new(layer(n))).collect();
    let mut build = Times::default();
    let map = build.time(|| LayerMap::new(all.iter().cloned(), Position::default()));
    for _ in 0..10 {
        build.time(|| LayerMap::new(all.iter().cloned(), Position::default()));
    }
    let (mut newest, mut walk) = (Times::default(), Times::default());
    let mut next = scattered(stretches * 100);
    for _ in 0..ROUNDS {
        let keys: Vec<Key> = next.by_ref().take(ROUND).map(key).collect();
        newest.time(|| {
            for key in &keys {
                assert!(black_box(map.search(key, Lsn::MAX)).is_some());
            }
        });
        walk.time(|| {
            for key in &keys {
                let mut end = Lsn::MAX;
                while let Some(found) = map.search(key, end) {
                    end = black_box(found).floor;
                }
            }
        });
    }
    newest.print(&format!("look_up_newest/{layers}_layers"), ROUND, None);
    walk.print(
        &format!("look_up_all_of_a_key/{layers}_layers"),
        ROUND,
        None,
    );
    build.print(&format!("build_map/{layers}_layers"), 1, None);
}
