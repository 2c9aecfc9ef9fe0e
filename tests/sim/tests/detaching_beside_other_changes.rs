//! Detaching a branch beside other changes of the tenant, and given up in the middle.

#![cfg(test)]

use pageserver::engine::Detach;
use sim::faults::Faults;
use sim::node::Node;
use sim::oracle::word_page;
use sim::site::{CHILD, GRANDCHILD, ROOT, SCRUB_BUCKET, Site, TENANT, simulated, timeline};
use std::time::Duration;
use types::TimelineId;

/// Detaches a branch over a slow network, for at most `wait` ms.
async fn detach_and_give_up(node: &Node, branch: TimelineId, wait: u64) {
    let tenant = node.engine.tenant(TENANT).unwrap();
    node.bucket
        .set_faults(Faults::slow(Duration::from_millis(40)));
    tokio::select! {
        biased;
        r = tenant.detach_ancestor(branch, Detach::default()) => r.map(drop).unwrap(),
        () = tokio::time::sleep(Duration::from_millis(wait)) => {}
    }
    node.bucket.set_faults(Faults::none());
}

/// A timeline was deleted while it was detached from its ancestor, and then given a child: the
/// branch that had left the ancestor before it.
#[test]
fn a_timeline_is_not_deleted_while_it_is_detached() {
    simulated(async {
        for delete_first in [false, true] {
            let (mut site, node) = Site::new().await;
            let root = timeline(&node, ROOT);
            site.write(&root, 400).await;
            site.branch(&node, GRANDCHILD, ROOT).await;
            let at = root.last_record_lsn();
            site.write(&root, 400).await;
            site.branch(&node, CHILD, ROOT).await;
            node.bucket
                .set_faults(Faults::slow(Duration::from_millis(20)));
            let tenant = node.engine.tenant(TENANT).unwrap();
            let detach = tenant.detach_ancestor(CHILD, Detach::default());
            let delete = tenant.delete_timeline(CHILD);
            let (detached, deleted) = match delete_first {
                false => tokio::join!(biased; detach, delete),
                true => {
                    let (deleted, detached) = tokio::join!(biased; delete, detach);
                    (detached, deleted)
                }
            };
            assert_eq!(deleted.is_ok(), delete_first, "{deleted:?}");
            assert_eq!(detached.is_ok(), !delete_first, "{detached:?}");

            let next = site.next().await;
            let got = timeline(&next, GRANDCHILD).get(word_page(0), at).await;
            let want = site.oracle.get(ROOT, word_page(0), at).unwrap();
            assert_eq!(got.unwrap(), want.bytes());
        }
    });
}

/// A detach was given up when the branch had its own history already. The next branch to be detached
/// took it for one that still has the ancestor, and its own detach once more wrote the ancestor's layers
/// over what the branch had made of them.
#[test]
fn a_branch_that_is_half_detached_moves_nowhere() {
    simulated(async {
        let mut half_detached = 0;
        for wait in 1..300 {
            let (mut site, node) = Site::new().await;
            let root = timeline(&node, ROOT);
            let tenant = node.engine.tenant(TENANT).unwrap();
            // The layer reaches beyond the branch point, so that it is cut.
            site.write(&root, 200).await;
            let first = site.branch(&node, GRANDCHILD, ROOT).await;
            site.write(&root, 200).await;
            site.branch(&node, CHILD, ROOT).await;
            root.checkpoint().await.unwrap();
            site.write(&first, 200).await;
            first.checkpoint().await.unwrap();

            detach_and_give_up(&node, GRANDCHILD, wait).await;
            let half = first.marks().ancestor.is_none() && first.ancestor().is_some();
            let moved = tenant.detach_ancestor(CHILD, Detach::default()).await;
            let moved = moved.unwrap().contains(&GRANDCHILD);
            if half {
                assert!(!moved && first.ancestor().is_none(), "{wait}");
                half_detached += 1;
            }
            tenant
                .detach_ancestor(GRANDCHILD, Detach::default())
                .await
                .unwrap();
            node.crash();

            let next = site.next().await;
            for id in [CHILD, GRANDCHILD] {
                let t = timeline(&next, id);
                assert!(t.ancestor().is_none(), "{wait}");
                let report = t.scrub(SCRUB_BUCKET).await.unwrap();
                assert!(
                    report.bucket_repaired.is_empty() && report.lost.is_empty(),
                    "{wait}"
                );
                site.check_newest(&t).await;
            }
        }
        assert!(half_detached > 0);
    });
}

/// A branch that was given up while it moved to another ancestor, and then went its own way, counted as
/// a child of that ancestor, which could not be deleted and kept history for it.
#[test]
fn a_branch_that_was_to_move_and_was_detached_holds_nothing() {
    simulated(async {
        let mut half_moved = 0;
        for wait in 1..300 {
            let (mut site, node) = Site::new().await;
            let root = timeline(&node, ROOT);
            let tenant = node.engine.tenant(TENANT).unwrap();
            site.write(&root, 200).await;
            let first = site.branch(&node, GRANDCHILD, ROOT).await;
            site.write(&root, 200).await;
            let child = site.branch(&node, CHILD, ROOT).await;
            root.checkpoint().await.unwrap();

            detach_and_give_up(&node, CHILD, wait).await;
            let is = |t: Option<_>| t == Some(CHILD);
            let noted = is(first.marks().ancestor.map(|(id, _)| id));
            half_moved += usize::from(noted && !is(first.ancestor().map(|(t, _)| t.id)));
            for id in [GRANDCHILD, CHILD] {
                let detached = tenant.detach_ancestor(id, Detach::default()).await;
                detached.unwrap();
            }
            assert_eq!(child.retention().branches(), [], "{wait}");
            tenant.delete_timeline(CHILD).await.unwrap();
            node.crash();

            let next = site.next().await;
            site.check_newest(&timeline(&next, GRANDCHILD)).await;
        }
        assert!(half_moved > 0);
    });
}
