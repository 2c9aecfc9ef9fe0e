//! What the simulation found once, as small histories of their own.

#![cfg(test)]

use layer_format::index_part::{Vanilla, VanillaImport};
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::timeline::scrub;
use pageserver::engine::{Error, Timeline};
use sim::faults::Faults;
use sim::node::ENOUGH;
use sim::oracle::{SPARSE, START, sparse, word_page};
use sim::run::begin_import;
use sim::site::{CHILD, GRANDCHILD, ROOT, Site, TENANT, load_all, newest, simulated, timeline};
use std::time::Duration;
use types::{Flavour, Lsn};

/// All of it is compacted.
const ALL: Force = Force {
    l0: true,
    images: true,
};
/// Nothing but the newest record stays readable.
const NO_HISTORY: Horizon = Horizon {
    bytes: 0,
    pitr: Duration::ZERO,
};

/// A read on a branch waited for its ancestor to reach the branch point, although nothing above
/// the LSN asked for was needed.
#[test]
fn what_is_durable_is_readable_while_the_ancestor_catches_up() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        root.checkpoint().await.unwrap();
        let durable = root.last_record_lsn();
        site.write(&root, 400).await;
        site.branch(&node, CHILD, ROOT).await;
        node.crash();

        let node = site.next().await;
        assert_eq!(timeline(&node, ROOT).last_record_lsn(), durable);
        let got = timeline(&node, CHILD).get(word_page(0), durable).await;
        let want = site.oracle.get(ROOT, word_page(0), durable).unwrap();
        assert_eq!(got.unwrap(), want.bytes());
    });
}

/// The check for children and the mark of deletion were two steps: a branch could be created in
/// between.
#[test]
fn a_timeline_is_not_deleted_while_a_branch_of_it_is_created() {
    simulated(async {
        for delete_first in [false, true] {
            let (mut site, node) = Site::new().await;
            let tenant = node.engine.tenant(TENANT).unwrap();
            site.branch(&node, CHILD, ROOT).await;
            node.bucket
                .set_faults(Faults::slow(Duration::from_millis(20)));
            let branch = tenant.branch(newest(GRANDCHILD, CHILD));
            let delete = tenant.delete_timeline(CHILD);
            let (branched, deleted) = match delete_first {
                false => tokio::join!(biased; branch, delete),
                true => {
                    let (deleted, branched) = tokio::join!(biased; delete, branch);
                    (branched, deleted)
                }
            };
            assert_ne!(
                branched.is_ok(),
                deleted.is_ok(),
                "{branched:?} {deleted:?}"
            );
            assert_eq!(deleted.is_ok(), delete_first);
        }
    });
}

/// The note of a deletion that was given up was on its way when its timeline was created once more:
/// the next start took the new timeline for deleted.
#[test]
fn a_timeline_is_not_created_while_a_deletion_may_still_take_effect() {
    simulated(async {
        let mut refused = 0;
        for wait in 0..80 {
            let (mut site, node) = Site::new().await;
            let tenant = node.engine.tenant(TENANT).unwrap();
            tenant.branch(newest(CHILD, ROOT)).await.unwrap();
            node.bucket
                .set_faults(Faults::slow(Duration::from_millis(40)));
            tokio::select! {
                biased;
                deleted = tenant.delete_timeline(CHILD) => deleted.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            node.bucket.set_faults(Faults::none());
            match tenant.branch(newest(CHILD, ROOT)).await {
                Ok(_) => {}
                Err(Error::Conflict(_)) => {
                    refused += 1;
                    tenant.delete_timeline(CHILD).await.unwrap();
                    tenant.branch(newest(CHILD, ROOT)).await.unwrap();
                }
                Err(e) => panic!("{wait}: {e}"),
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
            node.crash();
            let next = site.next().await;
            assert!(next.timeline(TENANT, CHILD).is_some(), "{wait}");
        }
        assert!(refused > 0);
    });
}

/// A timeline whose only child could not be loaded counted as childless.
#[test]
fn a_branch_that_could_not_be_loaded_protects_its_ancestor() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        site.branch(&node, CHILD, ROOT).await;
        site.branch(&node, GRANDCHILD, CHILD).await;
        node.engine.shutdown().await;

        let node = site.start(None);
        node.disk.break_path(&GRANDCHILD.to_string());
        load_all(&node).await;
        assert!(node.timeline(TENANT, GRANDCHILD).is_none());
        let tenant = node.engine.tenant(TENANT).unwrap();
        let e = tenant.delete_timeline(CHILD).await.unwrap_err();
        assert!(matches!(e, Error::Precondition(_)), "{e}");
    });
}

/// Stopping drops what is in memory; a reader or writer that came later saw the timeline without
/// it, and what was written then counted against the memory budget for ever.
#[test]
fn a_stopped_timeline_refuses_reads_and_writes() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        let next = site
            .oracle
            .batch(ROOT, root.last_record_lsn(), 1, true, &mut site.wal);
        node.bucket.set_faults(Faults {
            bucket_error: 1.0,
            ..Faults::none()
        });
        node.disk.set_faults(Faults {
            no_space: 1.0,
            ..Faults::none()
        });
        node.engine.shutdown().await;
        let read = root.get(word_page(0), root.last_record_lsn()).await;
        assert!(matches!(read, Err(Error::Shutdown)), "{read:?}");
        let written = root.write(next.unwrap()).await;
        assert!(matches!(written, Err(Error::Shutdown)), "{written:?}");
        assert_eq!(node.engine.unflushed(), 0);
    });
}

/// A superseded node put its index once more after its successor had deleted the timeline: the
/// next start found an index that named layers which were gone.
#[test]
fn a_deleted_timeline_stays_deleted_when_a_superseded_node_uploads() {
    simulated(async {
        let (mut site, old) = Site::new().await;
        let child = site.branch(&old, CHILD, ROOT).await;
        site.write(&child, 100).await;
        child.checkpoint().await.unwrap();

        let new = site.next().await;
        let tenant = new.engine.tenant(TENANT).unwrap();
        tenant.delete_timeline(CHILD).await.unwrap();
        assert_eq!(site.objects_of(CHILD), [""; 0]);
        site.write(&child, 100).await;
        child.checkpoint().await.unwrap_err();
        assert_ne!(site.objects_of(CHILD), [""; 0]);

        let last = site.next().await;
        assert!(last.timeline(TENANT, CHILD).is_none());
        assert_eq!(site.objects_of(CHILD), [""; 0]);
    });
}

/// A superseded node marked a timeline as deleted in an index of its own generation, which was the
/// newest one as long as its successor had nothing to upload.
#[test]
fn a_superseded_node_cannot_delete() {
    simulated(async {
        let (mut site, old) = Site::new().await;
        site.branch(&old, CHILD, ROOT).await;
        let _new = site.next().await;
        let tenant = old.engine.tenant(TENANT).unwrap();
        let e = tenant.delete_timeline(CHILD).await.unwrap_err();
        assert!(matches!(e, Error::Conflict(_)), "{e}");

        let last = site.next().await;
        assert!(last.timeline(TENANT, CHILD).is_some());
    });
}

/// A branch was read below its branch point although its ancestor had collected that history: what
/// was left of it answered, with older values.
#[test]
fn a_branch_does_not_read_what_its_ancestor_collected() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 1000).await;
        let child = site.branch(&node, CHILD, ROOT).await;
        site.write(&root, 1000).await;
        root.checkpoint().await.unwrap();
        root.compact(ALL).await.unwrap();
        let cutoff = root.gc(NO_HISTORY).await.unwrap().cutoff;
        assert!(cutoff > child.ancestor_lsn());
        let below = Lsn(child.ancestor_lsn().0 - 8);
        let e = child.pin(below).unwrap_err();
        assert!(matches!(e, Error::BelowCutoff { .. }), "{e}");
        child.pin(child.ancestor_lsn()).unwrap();
    });
}

/// The id of a deleted timeline can be used again.
#[test]
fn a_new_timeline_may_have_the_id_of_a_deleted_one() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        site.branch(&node, CHILD, ROOT).await;
        let tenant = node.engine.tenant(TENANT).unwrap();
        tenant.delete_timeline(CHILD).await.unwrap();
        site.branch(&node, CHILD, ROOT).await;
        let next = site.next().await;
        assert!(next.timeline(TENANT, CHILD).is_some());
    });
}

/// Each try to flush to a full disk left a temporary file behind.
#[test]
fn a_flush_that_fails_leaves_no_temporary_file() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        let before = node.disk.files();
        node.disk.set_faults(Faults {
            no_space: 1.0,
            ..Faults::none()
        });
        root.freeze_and_flush().await.unwrap_err();
        assert_eq!(node.disk.files(), before);
        node.disk.set_faults(Faults::none());
        root.freeze_and_flush().await.unwrap();
        assert!(root.disk_consistent_lsn() > START && root.last_record_lsn() > Lsn(0));
    });
}

/// History of `timeline` is collected up to its newest record.
async fn collect(timeline: &Timeline) -> Lsn {
    timeline.checkpoint().await.unwrap();
    timeline.compact(ALL).await.unwrap();
    let cutoff = timeline.gc(NO_HISTORY).await.unwrap().cutoff;
    timeline.upload().await.unwrap();
    cutoff
}

/// While layers were uploaded, more was flushed and the cutoff raised: the index that followed said
/// that cutoff of layers that ended below it, and a crash left a timeline with no readable LSN.
#[test]
fn the_newest_record_is_readable_after_a_crash_whatever_is_collected_during_an_upload() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        node.bucket.set_faults(Faults::slow(Duration::from_secs(1)));
        root.freeze_and_flush().await.unwrap();
        let end = root.last_record_lsn();
        tokio::time::sleep(Duration::from_millis(1)).await;
        site.write(&root, 400).await;
        root.freeze_and_flush().await.unwrap();
        let cutoff = root.gc(NO_HISTORY).await.unwrap().cutoff;
        assert!(root.remote_consistent_lsn() < end && end < cutoff);
        while root.remote_consistent_lsn() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(root.remote_consistent_lsn(), end);
        node.crash();

        let node = site.next().await;
        let root = timeline(&node, ROOT);
        assert_eq!(root.last_record_lsn(), end);
        root.pin(end).unwrap();
        let got = root.get(word_page(0), end).await.unwrap();
        assert_eq!(
            got,
            site.oracle.get(ROOT, word_page(0), end).unwrap().bytes()
        );
    });
}

/// While the layers of a base backup were uploaded, the import ended: the index that followed called
/// it done, of layers that end where pages are not consistent yet.
#[test]
fn an_import_is_done_when_the_bucket_has_its_end() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let tenant = node.engine.tenant(TENANT).unwrap();
        let vanilla = Vanilla {
            flavour: Flavour::Vanilla,
            system_identifier: 1,
            timeline_id: 1,
            wal_segment_size: 16 << 20,
            source: None,
            slot: None,
            import: Some(VanillaImport {
                start_lsn: START,
                end_lsn: None,
                done: false,
            }),
            history: Vec::new(),
        };
        node.bucket.set_faults(Faults::slow(Duration::from_secs(1)));
        let import = begin_import(&tenant, CHILD, Some(vanilla)).await.unwrap();
        site.oracle.import(TENANT, CHILD);
        let finish = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            site.write(&import, 400).await;
            import.finish_import().await
        };
        tokio::select! {
            biased;
            uploaded = import.upload() => uploaded.unwrap(),
            finished = finish => panic!("{finished:?}"),
        }
        assert_eq!(import.remote_consistent_lsn(), START);
        node.crash();

        let node = site.start(None);
        let unfinished = node.load(ENOUGH).await.unwrap();
        assert!(node.timeline(TENANT, CHILD).is_none());
        assert_eq!(
            unfinished.iter().map(|u| u.timeline).collect::<Vec<_>>(),
            [CHILD]
        );
    });
}

/// A scrub put the objects of a timeline back that was deleted under it.
#[test]
fn a_scrub_brings_nothing_of_a_deleted_timeline_back() {
    simulated(async {
        for wait in 0..60 {
            let (mut site, node) = Site::new().await;
            let child = site.branch(&node, CHILD, ROOT).await;
            for _ in 0..4 {
                site.write(&child, 100).await;
                child.checkpoint().await.unwrap();
            }
            let tenant = node.engine.tenant(TENANT).unwrap();
            let options = scrub::Options {
                local: true,
                bucket: true,
                rate: u64::MAX,
            };
            node.bucket
                .set_faults(Faults::slow(Duration::from_millis(20)));
            let delete = async {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                tenant.delete_timeline(CHILD).await
            };
            let (scrubbed, deleted) = tokio::join!(biased; child.scrub(options), delete);
            deleted.unwrap();
            if let Ok(report) = scrubbed {
                assert!(report.bucket_repaired.is_empty() && report.lost.is_empty());
            }
            assert_eq!(site.objects_of(CHILD), [""; 0], "{wait}");
        }
    });
}

/// The index of a branch arrived after a successor had loaded the tenant without it and collected
/// its ancestor's history at the branch point: the next start read what was left of it.
#[test]
fn a_branch_whose_history_was_not_held_is_left_out() {
    simulated(async {
        let (mut site, old) = Site::new().await;
        let root = timeline(&old, ROOT);
        site.write(&root, 1000).await;
        root.checkpoint().await.unwrap();
        let at = root.last_record_lsn();
        old.bucket.set_faults(Faults::slow(Duration::from_secs(10)));
        let tenant = old.engine.tenant(TENANT).unwrap();
        let asked = tenant.branch(newest(CHILD, ROOT));
        tokio::select! {
            biased;
            r = asked => panic!("{r:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }

        let new = site.next().await;
        assert!(new.timeline(TENANT, CHILD).is_none());
        let root = timeline(&new, ROOT);
        site.write(&root, 1000).await;
        assert!(collect(&root).await > at);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(site.objects_of(CHILD).len(), 1);

        let last = site.next().await;
        assert!(last.timeline(TENANT, CHILD).is_none());
        let tenant = last.engine.tenant(TENANT).unwrap();
        // It counts for nothing: the id is free, or what is there can be removed.
        tenant.delete_timeline(CHILD).await.unwrap();
        assert_eq!(site.objects_of(CHILD), [""; 0]);
        let e = tenant.delete_timeline(CHILD).await.unwrap_err();
        assert!(matches!(e, Error::TimelineNotFound { .. }), "{e}");
        site.branch(&last, CHILD, ROOT).await;
        assert!(site.next().await.timeline(TENANT, CHILD).is_some());
    });
}

/// A branch that was found at a start stays readable, whatever is collected later.
#[test]
fn a_branch_whose_creation_was_not_answered_for_is_held_once_it_is_found() {
    simulated(async {
        let (mut site, old) = Site::new().await;
        let root = timeline(&old, ROOT);
        site.write(&root, 1000).await;
        root.checkpoint().await.unwrap();
        let at = root.last_record_lsn();
        old.bucket.set_faults(Faults {
            lost_reply: 1.0,
            ..Faults::none()
        });
        let tenant = old.engine.tenant(TENANT).unwrap();
        tenant.branch(newest(CHILD, ROOT)).await.unwrap_err();
        old.crash();
        for _ in 0..2 {
            let node = site.next().await;
            let root = timeline(&node, ROOT);
            site.write(&root, 1000).await;
            assert!(collect(&root).await > at);
            let got = timeline(&node, CHILD).get(word_page(0), at).await;
            let want = site.oracle.get(ROOT, word_page(0), at).unwrap();
            assert_eq!(got.unwrap(), want.bytes());
        }
    });
}

/// The history stays held after a creation with an unknown outcome, the same request succeeds at the
/// same LSN, another is refused, and the ancestor is not deleted meanwhile.
#[test]
fn a_creation_with_an_unknown_outcome_can_be_repeated() {
    simulated(async {
        for lost in [false, true] {
            let (mut site, node) = Site::new().await;
            let root = timeline(&node, ROOT);
            site.write(&root, 1000).await;
            root.checkpoint().await.unwrap();
            let at = root.last_record_lsn();
            node.bucket.set_faults(Faults {
                bucket_error: if lost { 0.0 } else { 1.0 },
                lost_reply: if lost { 1.0 } else { 0.0 },
                ..Faults::none()
            });
            let tenant = node.engine.tenant(TENANT).unwrap();
            tenant.branch(newest(CHILD, ROOT)).await.unwrap_err();
            node.bucket.set_faults(Faults::none());
            site.write(&root, 1000).await;
            assert!(collect(&root).await > at);
            let other = pageserver::engine::Branch {
                at: Some(root.last_record_lsn()),
                ..newest(CHILD, ROOT)
            };
            let e = tenant.branch(other).await.unwrap_err();
            assert!(matches!(e, Error::Conflict(_)), "{e}");
            let e = tenant.delete_timeline(ROOT).await.unwrap_err();
            assert!(matches!(e, Error::Precondition(_)), "{e}");
            let child = tenant.branch(newest(CHILD, ROOT)).await.unwrap();
            assert_eq!(child.ancestor_lsn(), at);
            let got = child.get(word_page(0), at).await.unwrap();
            let want = site.oracle.get(ROOT, word_page(0), at).unwrap();
            assert_eq!(got, want.bytes());
        }
    });
}

/// Deleting a timeline whose creation has an unknown outcome removes it for good, though its index
/// may be still on its way.
#[test]
fn a_creation_with_an_unknown_outcome_can_be_taken_back() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 1000).await;
        node.bucket
            .set_faults(Faults::slow(Duration::from_secs(10)));
        let tenant = node.engine.tenant(TENANT).unwrap();
        let asked = tenant.branch(newest(CHILD, ROOT));
        tokio::select! {
            biased;
            r = asked => panic!("{r:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        node.bucket.set_faults(Faults::none());
        tenant.delete_timeline(CHILD).await.unwrap();
        assert!(root.retention().branches().is_empty());
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(site.objects_of(CHILD).len(), 1);
        let next = site.next().await;
        assert!(next.timeline(TENANT, CHILD).is_none());
        assert_eq!(site.objects_of(CHILD), [""; 0]);
    });
}

/// Leases ended by the time of day: putting the clock forward ended them all.
#[test]
fn a_lease_lasts_whatever_the_time_of_day() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 1000).await;
        let at = root.last_record_lsn();
        let minute = Duration::from_secs(60);
        root.lease(at, minute).unwrap();
        for hours in [1, -2] {
            node.clock.jump(hours * 3_600_000);
            site.write(&root, 1000).await;
            assert!(collect(&root).await > at);
            root.pin(at).unwrap();
        }
        tokio::time::sleep(minute * 2).await;
        collect(&root).await;
        let e = root.pin(at).unwrap_err();
        assert!(matches!(e, Error::BelowCutoff { .. }), "{e}");
    });
}

/// A branch at a leased LSN below the cutoff is as good as any: the next start holds its history.
#[test]
fn a_branch_at_a_leased_lsn_survives_a_restart() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 1000).await;
        let at = root.last_record_lsn();
        let day = Duration::from_secs(24 * 3600);
        root.lease(at, day).unwrap();
        site.write(&root, 1000).await;
        assert!(collect(&root).await > at);
        let request = pageserver::engine::Branch {
            at: Some(at),
            ..newest(CHILD, ROOT)
        };
        let tenant = node.engine.tenant(TENANT).unwrap();
        tenant.branch(request).await.unwrap();
        node.crash();
        let node = site.next().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 1000).await;
        collect(&root).await;
        let got = timeline(&node, CHILD).get(word_page(0), at).await.unwrap();
        let want = site.oracle.get(ROOT, word_page(0), at).unwrap();
        assert_eq!(got, want.bytes());
    });
}

/// The id of a deleted timeline can be used again, and the new timeline be branched.
#[test]
fn a_timeline_with_the_id_of_a_deleted_one_can_be_branched() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        site.branch(&node, CHILD, ROOT).await;
        let tenant = node.engine.tenant(TENANT).unwrap();
        tenant.delete_timeline(CHILD).await.unwrap();
        site.branch(&node, CHILD, ROOT).await;
        site.branch(&node, GRANDCHILD, CHILD).await;
    });
}

/// A branch costs one PUT.
#[test]
fn a_branch_is_one_put() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        root.checkpoint().await.unwrap();
        let before = site.store.puts();
        site.branch(&node, CHILD, ROOT).await;
        assert_eq!(site.store.puts() - before, 1);
    });
}

/// A scan on a branch did not wait for its ancestor to catch up after a crash, as reads of single keys
/// do, and left keys out.
#[test]
fn a_scan_waits_for_the_ancestor() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 2000).await;
        site.branch(&node, CHILD, ROOT).await;
        let at = root.last_record_lsn();
        node.crash();
        let node = site.next().await;
        let (root, child) = (timeline(&node, ROOT), timeline(&node, CHILD));
        assert!(root.last_record_lsn() < at);
        let range = types::KeyRange {
            start: sparse(0),
            end: sparse(SPARSE),
        };
        let (scanned, ()) = tokio::join!(biased; child.scan(range, at), async {
            site.write(&root, at.0 - root.last_record_lsn().0).await;
        });
        let want = site.oracle.sparse(CHILD, at);
        assert!(!want.is_empty());
        assert_eq!(scanned.unwrap(), want);
        node.engine.shutdown().await;
        let e = child.scan(range, at).await.unwrap_err();
        assert!(matches!(e, Error::Shutdown), "{e}");
    });
}

/// A timeline was at work before its children's branch points were registered: an index put, or
/// history collected, meanwhile left the children out.
#[test]
fn a_timeline_that_is_loaded_holds_its_children_from_the_first_moment() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        site.branch(&node, CHILD, ROOT).await;
        site.branch(&node, GRANDCHILD, CHILD).await;
        // Loaded after the others, with requests to the bucket.
        let last = types::TimelineId([9; 16]);
        let tenant = node.engine.tenant(TENANT).unwrap();
        sim::import(&tenant, last).await.unwrap();
        node.engine.shutdown().await;

        let node = site.start(None);
        node.bucket
            .set_faults(Faults::slow(Duration::from_millis(50)));
        let held = || {
            let mut found = 0;
            for t in node.engine.timers().live() {
                let children = t.retention().branches().len();
                let has_child = [ROOT, CHILD].contains(&t.id);
                assert_eq!(children, usize::from(has_child), "{}", t.id);
                found += 1;
            }
            found
        };
        // At whatever moment background work could look.
        let look = async {
            loop {
                held();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            () = look => {}
            () = load_all(&node) => {}
        }
        assert_eq!(held(), 4);
    });
}

/// An upload that nobody waited for any more was never made up for.
#[test]
fn an_upload_that_is_dropped_is_made_up_for() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        node.bucket
            .set_faults(Faults::slow(Duration::from_millis(400)));
        root.freeze_and_flush().await.unwrap();
        // The job that the flush has queued comes to nothing.
        let queued = root.upload();
        tokio::select! {
            biased;
            r = queued => panic!("{r:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        node.bucket.set_faults(Faults::none());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(root.remote_consistent_lsn(), root.disk_consistent_lsn());
    });
}

/// What compaction replaced was never deleted if the upload was dropped in the middle of deleting it.
#[test]
fn a_deletion_of_layers_that_is_dropped_is_made_up_for() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        root.checkpoint().await.unwrap();
        let force = Force {
            images: false,
            ..ALL
        };
        let before = site.objects_of(ROOT);
        root.compact(force).await.unwrap();
        assert!(root.layers_to_delete() > 0);
        for wait in 1..500 {
            node.bucket
                .set_faults(Faults::slow(Duration::from_millis(40)));
            tokio::select! {
                biased;
                _ = root.upload() => {}
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            node.bucket.set_faults(Faults::none());
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(root.layers_to_delete(), 0);
        let now = site.objects_of(ROOT);
        let gone = before.iter().filter(|key| !now.contains(key));
        assert!(gone.count() > 0, "{before:?} {now:?}");
        assert_eq!(now.len(), root.layers().file_count() + 1);
    });
}

/// Flushes waited for compaction, and compaction for more flushes.
#[test]
fn flushes_do_not_wait_for_a_compaction_that_waits_for_them() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        node.engine.shutdown().await;
        site.settings
            .insert("l0_flush_stall_threshold".into(), 2.into());
        site.settings
            .insert("compaction_threshold".into(), 4.into());
        let node = site.next().await;
        let root = timeline(&node, ROOT);
        for _ in 0..6 {
            site.write(&root, 100).await;
            root.freeze().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(root.disk_consistent_lsn(), root.last_record_lsn());
        }
    });
}

/// A write that nobody waited for any more left values above the newest record, and no flush of them
/// succeeded ever after.
#[test]
fn a_write_that_is_dropped_is_done_or_not() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        site.settings
            .insert("delta_chain_threshold".into(), 2.into());
        let root = timeline(&node, ROOT);
        site.write(&root, 1000).await;
        site.branch(&node, CHILD, ROOT).await;
        node.crash();
        // Chains are cut by reading what is below them: the root has to catch up first.
        let node = site.next().await;
        let (root, child) = (timeline(&node, ROOT), timeline(&node, CHILD));
        let mut dropped = 0;
        for _ in 0..200 {
            let at = child.last_record_lsn();
            let batch = site.oracle.batch(CHILD, at, 3, true, &mut site.wal);
            tokio::select! {
                biased;
                written = child.write(batch.unwrap()) => written.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(1)) => dropped += 1,
            }
        }
        assert!(dropped > 0);
        let missing = child.ancestor_lsn().0 - root.last_record_lsn().0;
        site.write(&root, missing).await;
        child.checkpoint().await.unwrap();
        let at = child.last_record_lsn();
        assert_eq!(child.remote_consistent_lsn(), at);
        for key in sim::oracle::keys() {
            let got = child.get_opt(key, at).await.unwrap();
            let want = site.oracle.get(CHILD, key, at).map(|c| c.bytes());
            let there = |value: Option<bytes::Bytes>| value.filter(|v| !v.is_empty());
            assert_eq!(there(got), there(want));
        }
    });
}

/// A flush that ran into a stop took what the stop had dropped for written.
#[test]
fn a_flush_of_a_stopped_timeline_fails() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        let root = timeline(&node, ROOT);
        site.write(&root, 400).await;
        let before = root.disk_consistent_lsn();
        root.stop().await;
        let e = root.freeze_and_flush().await.unwrap_err();
        assert!(matches!(e, Error::Shutdown), "{e}");
        assert_eq!(root.disk_consistent_lsn(), before);
    });
}
