//! Objects of older generations go when a scrub meets them, if nothing needs them.

#![cfg(test)]

use bucket::{Body, Bucket, PutMode};
use bytes::Bytes;
use layer_format::path;
use pageserver::engine::{Error, Timeline};
use sim::faults::Faults;
use sim::site::{ROOT, SCRUB_BUCKET, Site, TENANT, simulated, timeline};
use std::collections::BTreeSet;
use std::time::Duration;
use types::Generation;

/// Keys of what a timeline needs in the bucket.
fn needed(t: &Timeline, index: Generation) -> BTreeSet<String> {
    let map = t.layers();
    let layers = map.files().map(|l| l.object_key(&TENANT.tenant, &ROOT));
    layers
        .chain([path::index_part(&TENANT, &ROOT, index)])
        .collect()
}

/// Keys of what the timeline has in the bucket.
fn objects(site: &Site) -> BTreeSet<String> {
    site.objects_of(ROOT).into_iter().collect()
}

/// A node that loses power after it has uploaded a layer and before it has put the index.
async fn leave_something(site: &mut Site, node: sim::node::Node) {
    let root = timeline(&node, ROOT);
    site.write(&root, 400).await;
    let before = site.objects_of(ROOT).len();
    node.bucket
        .set_faults(Faults::slow(Duration::from_millis(200)));
    let count = |site: &Site| site.objects_of(ROOT).len();
    let watch = async {
        while count(site) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = watch => {}
        r = root.checkpoint() => panic!("{r:?}"),
    }
    node.crash();
    tokio::time::sleep(Duration::from_secs(10)).await;
}

#[test]
fn what_a_crash_left_behind_is_removed() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        leave_something(&mut site, node).await;
        let node = site.next().await;
        leave_something(&mut site, node).await;
        // Of another program.
        let strange = format!("{}initdb.tar.zst", path::timeline(&TENANT, &ROOT));
        let node = site.next().await;
        let body = Body::Bytes(Bytes::from_static(b"x"));
        let put = node.bucket.put(&strange, body, PutMode::Overwrite);
        put.await.unwrap();
        let root = timeline(&node, ROOT);
        let generation = node.engine.tenant(TENANT).unwrap().generation;
        let mut expected = needed(&root, generation);
        expected.insert(strange);
        let before = objects(&site);
        let report = root.scrub(SCRUB_BUCKET).await.unwrap();
        let after = objects(&site);
        assert_eq!(after, expected);
        assert!(report.leftovers >= 2, "{report:?}");
        assert_eq!(report.leftovers, before.difference(&after).count());
        // The next one finds nothing, and puts nothing.
        let puts = site.store.puts();
        assert_eq!(root.scrub(SCRUB_BUCKET).await.unwrap().leftovers, 0);
        assert_eq!(site.store.puts(), puts);
        node.crash();

        let node = site.next().await;
        site.check_newest(&timeline(&node, ROOT)).await;
    });
}

#[test]
fn a_superseded_node_removes_nothing() {
    simulated(async {
        let (mut site, node) = Site::new().await;
        leave_something(&mut site, node).await;
        let old = site.next().await;
        let new = site.next().await;
        let before = objects(&site);
        let e = timeline(&old, ROOT).scrub(SCRUB_BUCKET).await.unwrap_err();
        assert!(matches!(e, Error::Conflict(_)), "{e}");
        let after = objects(&site);
        assert_eq!(before.difference(&after).count(), 0);
        let report = timeline(&new, ROOT).scrub(SCRUB_BUCKET).await.unwrap();
        assert!(report.leftovers >= 2, "{report:?}");
    });
}
