//! What a change costs on its way through the layers: into memory, to an L0 layer, from ten of those
//! to L1 layers, and to images. Changes are of random pages: records of about 100 bytes, or whole
//! pages. Beside each step, in the same run, the least that a machine has to do for it: a CRC-32C of
//! what is read and written, a copy, a write and an fsync of as many bytes. The figures are in
//! `docs/benchmarks.md`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "benchmark"
)]

mod support;

use pageserver::engine::Timeline;
use pageserver::engine::layer::Layer;
use pageserver::engine::timeline::compaction::Force;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use support::*;
use types::{Batch, Key};

/// Pages of the relation: 256 MiB.
const PAGES: u32 = 32_768;
/// L0 layers.
const LAYERS: u32 = 10;
/// Changes written at once.
const TOGETHER: usize = 1024;
/// Bytes handed to the file system at once.
const CHUNK: usize = 512 << 10;
/// Repetitions; the best is printed.
const ROUNDS: usize = 3;

/// What the changes are.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Heap inserts, 40 for each page.
    Records,
    /// Pages, as many as the relation has.
    Images,
}

impl Load {
    /// Changes of a layer.
    fn changes(self) -> usize {
        match self {
            Load::Records => PAGES as usize * 40 / LAYERS as usize,
            Load::Images => PAGES.div_ceil(LAYERS) as usize,
        }
    }
}

/// A step: how long it took, how long the least took, and the bytes that both are about.
#[derive(Default)]
struct Step {
    took: Times,
    least: Times,
    bytes: u64,
}

impl Step {
    fn print(&self) -> String {
        let rate = |t: &Times| self.bytes as f64 / 1e6 / t.min().as_secs_f64();
        let (ours, least) = (rate(&self.took), rate(&self.least));
        format!("{ours:>9.0} {least:>9.0} {:>6.2}", least / ours)
    }
}

#[derive(Default)]
struct Steps {
    /// Of values.
    write: Step,
    /// Of what is written.
    flush: Step,
    /// Of what is read.
    compact: Step,
    /// Of what is written.
    images: Step,
    values: usize,
    l1: usize,
    made: usize,
}

/// Random blocks with the number of their change, until each has had 40.
fn changes() -> impl Iterator<Item = (u32, u16)> {
    let mut counts = vec![0u16; PAGES as usize];
    scattered(PAGES).map(move |block| {
        let spread = (0..PAGES).map(|n| (block + n) % PAGES);
        let mut free = spread.filter(|b| counts[*b as usize] < 40);
        let block = free.next().unwrap();
        counts[block as usize] += 1;
        (block, counts[block as usize])
    })
}

fn paths(world: &World, layers: &[Arc<Layer>]) -> Vec<PathBuf> {
    let path = |l: &Arc<Layer>| world.directory.path().join(l.local_path());
    layers.iter().map(path).collect()
}

fn total(layers: &[Arc<Layer>]) -> u64 {
    layers.iter().map(|l| l.size()).sum()
}

/// Layers of a timeline that are not among `known`.
fn new_layers(timeline: &Timeline, known: &[Arc<Layer>]) -> Vec<Arc<Layer>> {
    let layers = timeline.layers();
    let is_new = |l: &&Arc<Layer>| known.iter().all(|k| k.name() != l.name());
    layers.files().filter(is_new).cloned().collect()
}

/// Reads the files and writes a file of `len` bytes, with a CRC of all of them.
fn least(world: &World, read: &[PathBuf], len: u64) {
    let mut buf = vec![7u8; CHUNK];
    for path in read {
        let mut file = File::open(path).unwrap();
        loop {
            let n = file.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            black_box(types::crc32c::of(&buf[..n]));
        }
    }
    let path = world.directory.path().join("plain");
    let mut file = File::create(&path).unwrap();
    for _ in 0..len / CHUNK as u64 {
        black_box(types::crc32c::of(&buf));
        file.write_all(&buf).unwrap();
    }
    file.sync_all().unwrap();
    fs::remove_file(&path).unwrap();
}

async fn round(load: Load, out: &mut Steps) {
    let world = World::new().await;
    let timeline = world.relation(PAGES, 0, 0, false).await;
    let base: Vec<_> = timeline.layers().files().cloned().collect();
    let (mut lsn, mut changes) = (START, changes());
    out.values = load.changes() * LAYERS as usize;
    let (mut write, mut flush) = (Vec::new(), Vec::new());
    let mut raw = 0u64;
    for _ in 0..LAYERS {
        let mut batches = Vec::new();
        let mut left = load.changes();
        while left > 0 {
            let mut batch = Batch::new();
            for (block, offset) in changes.by_ref().take(left.min(TOGETHER)) {
                lsn = lsn.saturating_add(256);
                let key = Key::rel_block(REL, block);
                match load {
                    Load::Records => {
                        batch.put_postgres(key, lsn, false, &insert(block, offset, 30));
                    }
                    Load::Images => batch.put_image(key, lsn, &heap_page(block)),
                }
            }
            left -= left.min(TOGETHER);
            batch.last_lsn = lsn;
            raw += batch.raw.len() as u64;
            batches.push(batch);
        }
        let start = Instant::now();
        for batch in batches {
            timeline.write(batch).await.unwrap();
        }
        write.push(start.elapsed());
        let start = Instant::now();
        timeline.freeze_and_flush().await.unwrap();
        flush.push(start.elapsed());
    }
    let l0 = new_layers(&timeline, &base);
    assert_eq!(l0.len(), LAYERS as usize);
    out.write.bytes = raw;
    out.write.took.push(write.iter().sum());
    let (bytes, mut copy) = (vec![7u8; raw as usize], vec![8u8; CHUNK]);
    out.write.least.time(|| {
        for part in bytes.chunks(CHUNK) {
            copy[..part.len()].copy_from_slice(part);
            black_box(types::crc32c::of(&copy[..part.len()]));
        }
    });
    out.flush.bytes = total(&l0);
    out.flush.took.push(flush.iter().sum());
    out.flush.least.time(|| {
        let each = out.flush.bytes / u64::from(LAYERS);
        (0..LAYERS).for_each(|_| least(&world, &[], each));
    });

    let read = paths(&world, &l0);
    out.compact.bytes = total(&l0);
    // What is replaced goes away with its last user: `l0` keeps it for the comparison.
    let start = Instant::now();
    let force = Force {
        l0: true,
        images: false,
    };
    let outcome = timeline.compact(force).await.unwrap();
    out.compact.took.push(start.elapsed());
    assert_eq!((outcome.l0, outcome.images), (LAYERS as usize, 0));
    let known = [base, l0].concat();
    let l1 = new_layers(&timeline, &known);
    out.l1 = l1.len();
    out.compact.least.time(|| least(&world, &read, total(&l1)));

    let start = Instant::now();
    let force = Force {
        l0: false,
        images: true,
    };
    let outcome = timeline.compact(force).await.unwrap();
    out.images.took.push(start.elapsed());
    let images = new_layers(&timeline, &[known.clone(), l1.clone()].concat());
    assert_eq!(outcome.images, images.len());
    assert!(total(&images) > u64::from(PAGES) * 8192);
    out.made = images.len();
    out.images.bytes = total(&images);
    let mut read = paths(&world, &l1);
    if load == Load::Records {
        read.extend(paths(&world, &known[..known.len() - LAYERS as usize]));
    }
    out.images
        .least
        .time(|| least(&world, &read, total(&images)));
}

fn main() {
    if !wanted("compaction") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    println!("MB/s, the least a machine has to do, and their ratio; best of {ROUNDS}");
    for load in [Load::Records, Load::Images] {
        let mut steps = Steps::default();
        for _ in 0..ROUNDS {
            runtime.block_on(round(load, &mut steps));
        }
        let (name, values) = match load {
            Load::Records => ("records", steps.values),
            Load::Images => ("images", steps.values),
        };
        println!(
            "{name}: {values} values of {:.1} MB",
            steps.write.bytes as f64 / 1e6
        );
        println!("  into memory, of values     {}", steps.write.print());
        println!("  flush, of what is written  {}", steps.flush.print());
        println!(
            "  L0 to L1, of what is read  {}   {LAYERS} layers of {:.1} MB in all to {}",
            steps.compact.print(),
            steps.compact.bytes as f64 / 1e6,
            steps.l1
        );
        println!(
            "  images, of what is written {}   {} layers of {:.1} MB in all",
            steps.images.print(),
            steps.made,
            steps.images.bytes as f64 / 1e6
        );
    }
}
