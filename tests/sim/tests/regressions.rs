//! What the simulation found once, as small histories of their own.

#![cfg(test)]

use pageserver::engine::Error;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use sim::faults::Faults;
use sim::oracle::{START, word_page};
use sim::site::{CHILD, GRANDCHILD, ROOT, Site, TENANT, newest, simulated, timeline};
use types::Lsn;

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
            node.bucket.set_faults(Faults {
                delay: std::time::Duration::from_millis(20),
                ..Faults::none()
            });
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
        node.engine.load_all().await.unwrap();
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
        let force = Force {
            l0: true,
            images: true,
        };
        let horizon = Horizon {
            bytes: 0,
            pitr: std::time::Duration::ZERO,
        };
        root.compact(force).await.unwrap();
        let cutoff = root.gc(horizon).await.unwrap().cutoff;
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
