//! One flipped bit, at every byte of what the engine wrote: never a wrong value, and always found.
//!
//! The files are a delta layer, an image layer and an index as the engine uploads them. Each byte is
//! flipped once in a pseudo-random bit, those of the structures (summary, record and table of
//! checksums, index, blob headers, footer) in all eight.

#![cfg(test)]

use bytes::Bytes;
use layer_format::checksum::Record;
use layer_format::reader::{Extent, Head};
use layer_format::{BLOCK_SIZE, IndexPart, Layer, LayerEntry, Name, blob, path};
use pageserver::engine::timeline::scrub::Options;
use pageserver::engine::{Error, ErrorKind};
use sim::node::Node;
use sim::oracle::{self, START};
use sim::random::Random;
use sim::site::{CHILD, GRANDCHILD, ROOT, Site, TENANT, load_all, newest, simulated, timeline};
use types::{Batch, Key, Lsn, TimelineId, Value};

const ALL: Options = Options {
    local: true,
    bucket: true,
    rate: u64::MAX,
};

/// A layer as it lies on disk.
struct File {
    name: Name,
    entry: LayerEntry,
    path: String,
    key: String,
    bytes: Vec<u8>,
}

/// A site whose root has one image layer and one delta layer, both uploaded, and its layers.
async fn site() -> (Site, Node, Vec<File>) {
    let (mut site, node) = Site::new().await;
    // The layers stay what they are.
    site.settings
        .insert("compaction_period".into(), "0s".into());
    let root = timeline(&node, ROOT);
    site.write(&root, 300).await;
    root.checkpoint().await.unwrap();
    let files = files(&node, ROOT);
    let deltas = files.iter().filter(|f| f.name.is_delta()).count();
    assert_eq!((files.len(), deltas), (2, 1));
    (site, node, files)
}

fn files(node: &Node, id: TimelineId) -> Vec<File> {
    let layers = timeline(node, id).layers();
    let file = |l: &std::sync::Arc<pageserver::engine::layer::Layer>| File {
        name: l.name().clone(),
        entry: *l.entry(),
        path: l.local_path(),
        key: l.object_key(&TENANT.tenant, &id),
        bytes: node.disk.content(&l.local_path()).unwrap(),
    };
    layers.files().map(file).collect()
}

/// Opens a file as the engine does.
fn open(file: &[u8], of: &File) -> Result<Layer, String> {
    let head = Head::decode(file.get(..BLOCK_SIZE).ok_or("cut off")?).map_err(|e| e.to_string())?;
    let tail = file.get(head.tail_offset() as usize..).ok_or("cut off")?;
    let tail = Bytes::copy_from_slice(tail);
    let layer = Layer::open(head, &of.name, &TENANT.tenant, &tail).map_err(|e| e.to_string())?;
    match layer.file_crc32c() == of.entry.crc32c {
        true => Ok(layer),
        false => Err("another file".into()),
    }
}

fn extents(layer: &Layer) -> Vec<Extent> {
    match layer {
        Layer::Delta(l) => l.entries().map(|e| e.extent).collect(),
        Layer::Image(l) => l.entries().map(|e| e.extent).collect(),
    }
}

/// Reads one value as the engine does: the blocks that hold it, verified.
fn read(file: &[u8], layer: &Layer, extent: Extent) -> Result<Bytes, String> {
    let blocks = layer.to_read(extent);
    let bytes = &file[blocks.offset as usize..blocks.end() as usize];
    let sums = layer.checksums().ok_or("no checksums")?;
    sums.verify(blocks.offset, bytes)
        .map_err(|e| e.to_string())?;
    let at = (extent.offset - blocks.offset) as usize;
    let bytes = Bytes::copy_from_slice(&bytes[at..at + extent.len as usize]);
    blob::decode(&bytes).map_err(|e| e.to_string())
}

/// Bytes that are neither content nor padding.
fn structure(file: &File, layer: &Layer) -> Vec<bool> {
    let len = file.bytes.len();
    let mut out = vec![false; len];
    let mut mark = |from: usize, to: usize| out[from..to].iter_mut().for_each(|b| *b = true);
    let block0: &[u8; BLOCK_SIZE] = file.bytes.first_chunk().unwrap();
    let record = Record::decode(block0).unwrap().unwrap();
    let table = record.table_block as usize * BLOCK_SIZE;
    mark(0, 96);
    mark(4096, 4096 + 28);
    mark(table, table + record.table_block as usize * 4);
    mark(len - 20, len);
    let index = layer.summary().index_start as usize * BLOCK_SIZE;
    for block in (index..table).step_by(BLOCK_SIZE) {
        let node = &file.bytes[block..block + BLOCK_SIZE];
        let used = node.iter().rposition(|b| *b != 0).unwrap_or(0);
        mark(block, block + used + 1);
    }
    for e in extents(layer) {
        mark(e.offset as usize, e.offset as usize + 4);
    }
    out
}

fn bits(random: &mut Random, all: bool) -> std::ops::Range<u32> {
    match all {
        true => 0..8,
        false => {
            let bit = random.below(8) as u32;
            bit..bit + 1
        }
    }
}

#[test]
fn in_a_layer_file() {
    simulated(async {
        let (_site, node, files) = site().await;
        node.crash();
        for file in files {
            let layer = open(&file.bytes, &file).unwrap();
            let structure = structure(&file, &layer);
            let extents = extents(&layer);
            let index = layer.summary().index_start as usize * BLOCK_SIZE;
            let values: Vec<Bytes> = extents
                .iter()
                .map(|e| read(&file.bytes, &layer, *e).unwrap())
                .collect();
            let mut random = Random::new(1, "bits");
            let mut bad = file.bytes.clone();
            let mut found_by_reading = 0;
            for at in 0..bad.len() {
                for bit in bits(&mut random, structure[at]) {
                    bad[at] ^= 1 << bit;
                    let place = (&file.name, at, bit);
                    // A CRC finds any single bit; here that the digest is one of all bytes.
                    if structure[at] || at % 16 == 0 {
                        assert_ne!(
                            Some(types::crc32c::of(&bad)),
                            file.entry.crc32c,
                            "{place:?}"
                        );
                    }
                    // Opening is given block 0 and everything from the index on, nothing else.
                    if !(BLOCK_SIZE..index).contains(&at) {
                        assert!(open(&bad, &file).is_err(), "{place:?}");
                        bad[at] ^= 1 << bit;
                        continue;
                    }
                    let mut found = false;
                    let other = random.below(extents.len() as u64) as usize;
                    for (n, (extent, value)) in extents.iter().zip(&values).enumerate() {
                        let blocks = layer.to_read(*extent);
                        let used = blocks.offset as usize <= at && at < blocks.end() as usize;
                        // Those that the damage concerns, and one of the others.
                        if !used && n != other {
                            continue;
                        }
                        match read(&bad, &layer, *extent) {
                            Ok(read) => assert!(!used && read == *value, "{place:?}"),
                            Err(e) => assert!(used, "{place:?}: {e}"),
                        }
                        found |= used;
                    }
                    // Every unit of the values belongs to one of them.
                    assert!(found, "{place:?}");
                    found_by_reading += 1;
                    bad[at] ^= 1 << bit;
                }
            }
            assert!(found_by_reading >= index - BLOCK_SIZE);
            assert_eq!(bad, file.bytes);
        }
    });
}

#[test]
fn in_an_index() {
    simulated(async {
        let (mut site, node, _) = site().await;
        node.crash();
        let key = path::index_part(&TENANT, &ROOT, timeline(&node, ROOT).generation);
        let good = site.store.body(&key).unwrap();
        let known = IndexPart::from_json(&good).unwrap();
        assert_eq!(known.layer_metadata.len(), 2);
        let mut random = Random::new(1, "bits");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << bit;
                let read = IndexPart::from_json(&bad);
                assert!(read.is_err(), "byte {at:#x} bit {bit}");
            }
            // A daemon refuses the tenant: without the index nobody knows what else is held for it.
            let mut bad = good.to_vec();
            bad[at] ^= 1 << random.below(8);
            site.store.damage(&key, bad.into());
            let node = site.next().await;
            assert!(node.engine.tenant(TENANT).is_err(), "byte {at:#x}");
            node.crash();
            node.ended().await;
        }
        for length in 0..good.len() {
            assert!(IndexPart::from_json(&good[..length]).is_err(), "{length}");
        }
        site.store.damage(&key, good);
        let node = site.next().await;
        assert!(node.timeline(TENANT, ROOT).is_some());
    });
}

/// A node on the files as they were written. The disks of a site share their files.
fn restarted(site: &mut Site, first: &Node, files: &[File]) -> Node {
    let node = site.start(Some(&first.disk));
    for file in files {
        assert!(node.disk.damage(&file.path, |f| f.clone_from(&file.bytes)));
    }
    node
}

/// Reads everything and compares it with what is right.
async fn check(site: &Site, node: &Node) -> Result<(), Error> {
    let root = timeline(node, ROOT);
    for lsn in [START, root.last_record_lsn()] {
        for key in oracle::keys() {
            let got = root.get_opt(key, lsn).await?;
            let want = site.oracle.get(ROOT, key, lsn).map(|c| c.bytes());
            let there = |v: &Option<Bytes>| v.as_ref().is_some_and(|v| !v.is_empty());
            assert!(got == want || !there(&got) && !there(&want), "{key} {lsn}");
        }
    }
    Ok(())
}

/// Bytes worth a restart of the engine: one in `stride`, and the first and last few of each region.
fn worth(file: &File, stride: usize) -> Vec<usize> {
    let layer = open(&file.bytes, file).unwrap();
    let structure = structure(file, &layer);
    let edge = |at: usize| structure[at] != structure[at.saturating_sub(1)];
    (0..file.bytes.len())
        .filter(|at| at % stride == 0 || edge(*at))
        .collect()
}

/// A damaged local file is put aside and fetched again; the right page is served. What no read
/// uses, a scrub finds.
#[test]
fn in_a_local_file_under_the_engine() {
    simulated(async {
        let (mut site, node, files) = site().await;
        let mut random = Random::new(2, "bits");
        node.engine.shutdown().await;
        for file in &files {
            for at in worth(file, 127) {
                let node = restarted(&mut site, &node, &files);
                let bit = random.below(8);
                assert!(node.disk.damage(&file.path, |f| f[at] ^= 1 << bit));
                load_all(&node).await;
                check(&site, &node).await.unwrap();
                let damaged = format!("{}.damaged", file.path);
                let found = node.counter("pageserver_checksum_failures_total");
                if found == 0 {
                    let report = timeline(&node, ROOT).scrub(ALL).await.unwrap();
                    assert_eq!(report.local_repaired.len(), 1, "byte {at:#x}: {report:?}");
                    check(&site, &node).await.unwrap();
                }
                let found = node.counter("pageserver_checksum_failures_total");
                assert_eq!(found, 1, "byte {at:#x}");
                assert!(node.disk.content(&damaged).is_some(), "byte {at:#x}");
                let now = node.disk.content(&file.path);
                assert!(now.as_ref() == Some(&file.bytes), "byte {at:#x}");
                node.crash();
                node.ended().await;
            }
        }
    });
}

/// A damaged object without a local copy is an error that says what is damaged, where; no page.
#[test]
fn in_an_object_under_the_engine() {
    simulated(async {
        let (mut site, node, files) = site().await;
        let mut random = Random::new(3, "bits");
        node.crash();
        for file in &files {
            for at in worth(file, 127) {
                let mut bad = file.bytes.clone();
                bad[at] ^= 1 << random.below(8);
                site.store.damage(&file.key, bad.into());
                let node = site.next().await;
                let e = match node.timeline(TENANT, ROOT) {
                    Some(_) => check(&site, &node).await.unwrap_err().to_string(),
                    None => panic!("byte {at:#x}: not loaded"),
                };
                let parts = [TENANT.to_string(), ROOT.to_string(), file.name.to_string()];
                for part in parts.iter().map(String::as_str).chain(["CRC-32C"]) {
                    assert!(e.contains(part), "byte {at:#x}: {e}");
                }
                let block = at / BLOCK_SIZE;
                let layer = open(&file.bytes, file).unwrap();
                if block < layer.summary().index_start as usize && !(4096..4104).contains(&at) {
                    // Block 0 is verified as a whole.
                    let unit = layer.checksums().unwrap().unit();
                    let from = if block == 0 { 0 } else { at / unit * unit };
                    let place = format!("file offset {from:#x}:");
                    assert!(e.contains(&place), "byte {at:#x}: {e}");
                }
                let left = node.disk.files();
                assert!(!left.keys().any(|f| f.contains("___temp")), "{left:?}");
                node.crash();
                node.ended().await;
                site.store.damage(&file.key, file.bytes.clone().into());
            }
        }
        let node = site.next().await;
        check(&site, &node).await.unwrap();
    });
}

/// Cut or grown at every boundary between two regions of the file and a byte beside it.
#[test]
fn truncated_files_are_fetched_again() {
    simulated(async {
        let (mut site, node, files) = site().await;
        node.engine.shutdown().await;
        for file in &files {
            let layer = open(&file.bytes, file).unwrap();
            let block0 = file.bytes.first_chunk().unwrap();
            let table = Record::decode(block0).unwrap().unwrap().table_block as usize;
            let index = layer.summary().index_start as usize;
            let end = file.bytes.len();
            let mut boundaries = vec![0, 96, 4096, 4124, end - 20, end];
            boundaries.extend([1, index, table].map(|block| block * BLOCK_SIZE));
            boundaries.push(table * BLOCK_SIZE + table * 4);
            boundaries.extend(extents(&layer).iter().map(|e| e.offset as usize));
            let around = boundaries
                .iter()
                .flat_map(|b| [b.wrapping_sub(1), *b, b + 1]);
            for length in around.filter(|l| *l <= end + 1 && *l != end) {
                let mut bad = file.bytes.clone();
                bad.resize(length, 0);
                assert!(open(&bad, file).is_err(), "{length} of {end} bytes");
                // At a start the length is known to be wrong: fetched without a word.
                let first = restarted(&mut site, &node, &files);
                assert!(first.disk.damage(&file.path, |f| f.clone_from(&bad)));
                load_all(&first).await;
                check(&site, &first).await.unwrap();
                let now = first.disk.content(&file.path);
                assert!(now.as_ref() == Some(&file.bytes), "{length} of {end} bytes");
                // While the engine runs, the next to open the file finds it.
                let again = restarted(&mut site, &node, &files);
                load_all(&again).await;
                assert!(again.disk.damage(&file.path, |f| f.clone_from(&bad)));
                let report = timeline(&again, ROOT).scrub(ALL).await.unwrap();
                assert_eq!(report.local_repaired.len(), 1, "{length} of {end} bytes");
                check(&site, &again).await.unwrap();
                // In the bucket: written again from the file.
                site.store.damage(&file.key, bad.into());
                let report = timeline(&again, ROOT).scrub(ALL).await.unwrap();
                assert_eq!(report.bucket_repaired.len(), 1, "{length} of {end} bytes");
                assert_eq!(site.store.body(&file.key).unwrap(), file.bytes);
                for node in [first, again] {
                    node.crash();
                    node.ended().await;
                }
            }
        }
    });
}

/// Two layers' files are swapped, on disk and in the bucket: an image and a delta layer, and two
/// delta layers of the same name, size and LSNs from two branches, each right in itself.
#[test]
fn swapped_files_are_noticed() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 300).await;
        root.checkpoint().await.unwrap();
        let key = Key::rel_block(oracle::RELATION, 0);
        let tenant = node.engine.tenant(TENANT).unwrap();
        let mut lsn = Lsn::INVALID;
        for (id, fill) in [(CHILD, 1u8), (GRANDCHILD, 2)] {
            let branch = tenant.branch(newest(id, ROOT)).await.unwrap();
            lsn = branch.ancestor_lsn().saturating_add(8);
            let mut batch = Batch::new();
            batch.put(key, lsn, &Value::Image(Bytes::from(vec![fill; 8192])));
            batch.last_lsn = lsn;
            branch.write(batch).await.unwrap();
            branch.checkpoint().await.unwrap();
        }
        let of_root = files(&node, ROOT);
        let (a, b) = (files(&node, CHILD), files(&node, GRANDCHILD));
        assert_eq!(
            (&a[0].name, a[0].bytes.len()),
            (&b[0].name, b[0].bytes.len())
        );
        assert_ne!(a[0].bytes, b[0].bytes);
        node.engine.shutdown().await;

        for (x, y) in [(&a[0], &b[0]), (&of_root[0], &of_root[1])] {
            // On disk: both are fetched again.
            let on_disk = site.start(Some(&node.disk));
            assert!(on_disk.disk.damage(&x.path, |f| f.clone_from(&y.bytes)));
            assert!(on_disk.disk.damage(&y.path, |f| f.clone_from(&x.bytes)));
            load_all(&on_disk).await;
            for (id, fill) in [(CHILD, 1u8), (GRANDCHILD, 2)] {
                let got = timeline(&on_disk, id).get(key, lsn).await.unwrap();
                assert_eq!(got, vec![fill; 8192]);
            }
            check(&site, &on_disk).await.unwrap();
            assert!(on_disk.disk.content(&x.path).as_ref() == Some(&x.bytes));
            assert!(on_disk.disk.content(&y.path).as_ref() == Some(&y.bytes));
            on_disk.crash();
            on_disk.ended().await;

            // In the bucket: nothing is read.
            site.store.damage(&x.key, y.bytes.clone().into());
            site.store.damage(&y.key, x.bytes.clone().into());
            let from_bucket = site.next().await;
            let mut refused = 0;
            for id in [CHILD, GRANDCHILD] {
                if let Err(e) = timeline(&from_bucket, id).get(key, lsn).await {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                    refused += 1;
                }
            }
            if let Err(e) = check(&site, &from_bucket).await {
                assert!(
                    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Internal),
                    "{e}"
                );
                refused += 1;
            }
            assert!(refused > 0);
            from_bucket.crash();
            from_bucket.ended().await;
            site.store.damage(&x.key, x.bytes.clone().into());
            site.store.damage(&y.key, y.bytes.clone().into());
        }
    });
}
