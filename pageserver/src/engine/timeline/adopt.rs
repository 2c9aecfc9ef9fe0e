//! A branch that becomes independent: it takes over its ancestor's layers, or another ancestor.
//!
//! Readers find the same values before, during and after. The layers are there first, then the index
//! that names them and no ancestor, then readers stop asking the ancestor; a read during which any
//! timeline of the tenant got another ancestor is made again ([`Lineages`]).

use super::Timeline;
use crate::engine::error::{Error, Result};
use crate::engine::layer::Layer;
use bucket::Kind as BucketKind;
use layer_format::LayerEntry;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use types::Lsn;

/// Counts how often a timeline of a tenant got another ancestor.
#[derive(Debug, Default)]
pub struct Lineages(AtomicU64);

impl Lineages {
    /// The count; a reader that finds it changed reads again.
    pub fn epoch(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Timeline {
    /// Ancestor and branch point.
    pub fn ancestor(&self) -> Option<(Arc<Timeline>, Lsn)> {
        self.origin.load().as_deref().cloned()
    }

    /// Branch point; invalid without an ancestor.
    pub fn ancestor_lsn(&self) -> Lsn {
        self.origin.load().as_ref().map_or(Lsn::INVALID, |o| o.1)
    }

    /// Where the timeline left its ancestor, the one it was detached from included.
    pub fn left_ancestor_at(&self) -> Option<Lsn> {
        let former = || {
            self.marks
                .lock()
                .lineage
                .original_ancestor
                .map(|(_, at, _)| at)
        };
        self.ancestor().map(|(_, at)| at).or_else(former)
    }

    /// From here on readers look for older values elsewhere.
    fn set_ancestor(&self, ancestor: Option<(Arc<Timeline>, Lsn)>) {
        self.origin.store(ancestor.map(Arc::new));
        self.shared.lineages.0.fetch_add(1, Ordering::AcqRel);
    }

    /// A layer of an ancestor as one of this timeline, not copied yet.
    fn counterpart(&self, layer: &Layer) -> Layer {
        let entry = LayerEntry {
            generation: self.generation,
            shard: self.tenant.shard,
            ..*layer.entry()
        };
        Layer::known(
            &self.shared.open_layers,
            self.tenant,
            self.id,
            &self.directory(),
            layer.name().clone(),
            entry,
        )
    }

    /// Copies a layer of an ancestor into this timeline's part of the bucket. What the ancestor has
    /// not uploaded yet is uploaded from its file.
    pub(in crate::engine) async fn copy_layer(
        &self,
        ancestor: &Timeline,
        layer: &Layer,
    ) -> Result<Arc<Layer>> {
        let bucket = &self.shared.env.bucket;
        let copy = Arc::new(self.counterpart(layer));
        self.made.lock().push(Arc::clone(&copy));
        let to = copy.object_key(&self.tenant.tenant, &self.id);
        let from = layer.object_key(&ancestor.tenant.tenant, &ancestor.id);
        match bucket.copy(&from, &to).await {
            Err(e) if e.kind() == BucketKind::NotFound && layer.is_resident() => {
                self.put_layer(layer, &to).await?;
            }
            other => other?,
        }
        Ok(copy)
    }

    /// Uploads a layer that was made for this timeline.
    pub(in crate::engine) async fn upload_made(&self, layer: Layer) -> Result<Arc<Layer>> {
        let layer = Arc::new(layer);
        self.made.lock().push(Arc::clone(&layer));
        self.upload_layer(&layer).await?;
        Ok(layer)
    }

    /// Takes over its ancestor's history up to the branch point, which `layers` hold in the bucket, and
    /// is readable from `from` on. After an error the index in the bucket may or may not say so; the marks
    /// do.
    pub(in crate::engine) async fn become_root(
        &self,
        layers: Vec<Arc<Layer>>,
        ancestor: &Timeline,
        from: Lsn,
    ) -> Result<()> {
        let at = self.ancestor_lsn();
        {
            let mut remote = self.remote.lock().await;
            let names = layers.iter().map(|l| l.name().to_string());
            remote.note_uploaded(names);
            self.retention.reopen(at, from);
            self.update_map(|m| m.with_files(layers, &[]));
            let now = self.timestamp();
            self.mark(|m| {
                m.ancestor = None;
                m.lineage.original_ancestor = now.map(|now| (ancestor.id, at, now));
            });
            self.upload_now(&mut remote).await?;
        }
        self.leave(ancestor)
    }

    /// Readers stop asking the ancestor, and it stops holding history for them. The index in the
    /// bucket says so already.
    pub(in crate::engine) fn leave(&self, ancestor: &Timeline) -> Result<()> {
        if self.marks().ancestor.is_some() {
            return Err(Error::Internal(format!(
                "timeline {}/{} still has an ancestor",
                self.tenant, self.id
            )));
        }
        self.set_ancestor(None);
        ancestor.retention.remove_branch(self.id);
        Ok(())
    }

    /// Changes the ancestor for one that has the same history up to the branch point.
    pub(in crate::engine) async fn reparent(
        &self,
        from: &Timeline,
        to: &Arc<Timeline>,
    ) -> Result<()> {
        let at = self.ancestor_lsn();
        to.retention.restore_branch(self.id, at);
        self.mark(|m| {
            m.ancestor = Some((to.id, at));
            m.lineage.reparented_from(from.id);
        });
        self.store_marks().await?;
        self.set_ancestor(Some((Arc::clone(to), at)));
        from.retention.remove_branch(self.id);
        Ok(())
    }

    /// Deletes what failed attempts left behind. Not before an attempt has succeeded: until then the
    /// next one may make the same layers again.
    pub(in crate::engine) fn forget_made(&self) {
        let map = self.layers();
        let names: HashSet<String> = map.files().map(|l| l.name().to_string()).collect();
        let made = std::mem::take(&mut *self.made.lock());
        let unused = made
            .into_iter()
            .filter(|l| !names.contains(&l.name().to_string()));
        self.condemned.lock().extend(unused);
    }
}
