//! Objects of older generations that no index names: what a crash or a takeover left behind, and the
//! indexes of earlier starts.
//!
//! They go once an index of this generation is in the bucket and the generation was confirmed after
//! that: whoever attaches the tenant from then on reads this index, or a newer one, and none of them
//! can name what no earlier one of this generation names. Only a daemon that was superseded still
//! writes objects of older generations, which nobody reads.

use super::{State, Timeline};
use crate::engine::error::Result;
use layer_format::index_part::IndexPart;
use layer_format::{Name, path};
use std::collections::HashSet;
use tracing::info;
use types::Generation;

/// Generation of a layer object, by its key.
fn layer_generation(key: &str) -> Option<Generation> {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    Name::parse_object(name)
        .ok()
        .map(|(_, generation)| generation)
}

impl Timeline {
    /// Deletes objects of older generations that nothing needs; returns their number.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the tenant was attached elsewhere: nothing was deleted.
    ///
    /// [`Error::Conflict`]: crate::engine::Error::Conflict
    pub(super) async fn remove_leftovers(&self) -> Result<usize> {
        if self.state() != State::Active || self.shared.lease.is_none() {
            return Ok(0);
        }
        let bucket = &self.shared.env.bucket;
        let listing = bucket
            .list(&path::timeline(&self.tenant, &self.id), false)
            .await?;
        let keys: Vec<String> = listing.objects.into_iter().map(|o| o.key).collect();
        let mut remote = self.remote.lock().await;
        let indexes = keys.iter().filter_map(|k| path::index_part_generation(k));
        let in_use = indexes.filter(|g| *g <= self.generation).max();
        let none_left = match in_use {
            None => true,
            Some(in_use) => self.leftovers(&keys, in_use, remote.index()).is_empty(),
        };
        if none_left || remote.index().deleted_at.is_some() {
            return Ok(0);
        }
        // This generation's index, and the question whether it still is the newest.
        self.upload_now(&mut remote).await?;
        let left = self.leftovers(&keys, self.generation, remote.index());
        bucket.delete(&left).await?;
        info!(tenant = %self.tenant, timeline = %self.id, objects = left.len(), first = ?left.first(), "objects of older generations that nothing names, removed");
        Ok(left.len())
    }

    /// Of these keys, the indexes older than `newest` and the layers of generations before ours that
    /// nothing needs. What this program does not know is not among them.
    fn leftovers(&self, keys: &[String], newest: Generation, index: &IndexPart) -> Vec<String> {
        let needed = self.needed(index);
        let is_left = |key: &&String| match path::index_part_generation(key) {
            Some(generation) => generation < newest,
            None => {
                layer_generation(key).is_some_and(|g| g < self.generation) && !needed.contains(*key)
            }
        };
        keys.iter().filter(is_left).cloned().collect()
    }

    /// Keys of the layers that an index names, of those in use, and of those that wait for their last
    /// reader.
    fn needed(&self, index: &IndexPart) -> HashSet<String> {
        let (tenant, id) = (&self.tenant.tenant, &self.id);
        let named = index.layer_metadata.iter();
        let mut needed: HashSet<String> =
            named.map(|(n, e)| path::layer(tenant, id, n, e)).collect();
        let map = self.layers();
        needed.extend(map.files().map(|l| l.object_key(tenant, id)));
        for leaving in [&self.retired, &self.condemned] {
            let leaving = leaving.lock();
            needed.extend(leaving.iter().map(|l| l.object_key(tenant, id)));
        }
        needed
    }
}
