//! Pages with records of an extension are read through `wal_redo_program`, a process.

#![expect(clippy::disallowed_methods, reason = "writes programs to be run")]
#![cfg(test)]

mod support;

use bytes::Bytes;
use pageserver::engine::redo_program::{Launcher, Process};
use pageserver::engine::{Engine, Timeline};
use pageserver::redo_process::Programs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{MAIN, Place, START, TENANT, VERSION};
use types::{Batch, Fork, Key, Lsn, RelTag, Value, WalRecord};
use wal_ingest::testing::RecordBuilder;

const EXTENSION: u8 = 128;
const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};

/// The example of this package, which is built with the tests.
fn example() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let built = me.parent().and_then(Path::parent).unwrap();
    let path = built.join("examples/redo_program");
    assert!(path.is_file(), "cargo build --example redo_program first");
    path
}

async fn timeline(place: &Place) -> (Arc<Engine>, Arc<Timeline>) {
    let engine = place.engine();
    let tenant = engine.create_tenant(TENANT, Default::default(), None).await;
    let timeline = support::timeline(&tenant.unwrap(), MAIN, 0).await;
    (engine, timeline)
}

/// A record of the example's manager: `byte` at offset `at` of a block.
fn put(block: u32, init: bool, at: u16, byte: u8) -> WalRecord {
    let [low, high] = at.to_le_bytes();
    let rec = RecordBuilder::new(VERSION, EXTENSION, 0).block(0, REL, block);
    let rec = if init { rec.init() } else { rec };
    WalRecord::Postgres {
        will_init: init,
        rec: Bytes::from(rec.main([low, high, byte]).build()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_extension_is_read() {
    let place = Place::default();
    let (engine, timeline) = timeline(&place).await;
    const BLOCKS: u32 = 8;
    let mut batch = Batch::new();
    for n in 0..20u64 {
        let lsn = Lsn(START.0 + 8 + n * 8);
        for block in 0..BLOCKS {
            let rec = put(block, n == 0, 6000 + n as u16, block as u8 + 1);
            batch.put(Key::rel_block(REL, block), lsn, &Value::WalRecord(rec));
        }
        batch.last_lsn = lsn;
    }
    let last = batch.last_lsn;
    timeline.write(batch).await.unwrap();

    let e = timeline.get(Key::rel_block(REL, 0), last).await;
    let e = e.unwrap_err().to_string();
    assert!(e.contains("wal_redo_program"), "{e}");

    let program = Programs::new(&example().to_string_lossy());
    engine.redo().configure(Arc::new(program));
    // More readers than processes.
    let reads: Vec<_> = (0..BLOCKS)
        .map(|block| {
            let timeline = Arc::clone(&timeline);
            async move { timeline.get(Key::rel_block(REL, block), last).await }
        })
        .map(tokio::task::spawn)
        .collect();
    for (block, read) in (0..).zip(reads) {
        let page = read.await.unwrap().unwrap();
        assert_eq!(page[6000..6020], [block + 1; 20]);
        assert_eq!(pg_format::page::lsn(page.first_chunk().unwrap()), last);
    }
    // At an LSN in the middle.
    let lsn = Lsn(START.0 + 8 * 5);
    let page = timeline.get(Key::rel_block(REL, 1), lsn).await.unwrap();
    assert_eq!(page[6000..6020], [[2; 5].as_slice(), &[0; 15]].concat());
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let programs = Programs::new("/nonexistent/pg{major}/redo");
    let e = programs.launch(VERSION).unwrap_err().to_string();
    assert!(e.contains("/nonexistent/pg17/redo"), "{e}");
}

/// A shell script as a running redo program.
fn script(directory: &tempfile::TempDir, text: &str) -> Box<dyn Process> {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.path().join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let programs = Programs::new(&path.to_string_lossy());
    loop {
        match programs.launch(VERSION) {
            // A process that another test forks just now has the file still open.
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => {}
            launched => return launched.unwrap(),
        }
    }
}

/// More than a pipe holds.
static REQUEST: [u8; 1 << 20] = [b'x'; 1 << 20];

#[test]
fn a_program_that_reads_nothing_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = script(&directory, "exec sleep 1000");
    let begun = Instant::now();
    let e = process
        .exchange(&REQUEST, &mut [0; 8192], Duration::from_millis(300))
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TimedOut, "{e}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    // Does not wait for the script.
    drop(process);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_program_that_ends_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = script(&directory, "exit 0");
    let e = process.exchange(&REQUEST, &mut [0; 8192], Duration::from_secs(30));
    assert_ne!(e.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn a_program_that_speaks_unasked_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let text = "head -c 9000 /dev/zero; exec cat > /dev/null";
    let mut process = script(&directory, text);
    let mut failed = None;
    for _ in 0..2 {
        let answer = process.exchange(&REQUEST, &mut [0; 8192], Duration::from_secs(30));
        failed = failed.or(answer.err());
    }
    assert!(failed.is_some());
}
