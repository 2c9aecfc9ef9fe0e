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

/// What an object of a timeline is, by its key.
enum Object {
    Index(Generation),
    Layer(Generation),
    /// Something that this program does not know, and leaves alone.
    Other,
}

impl Object {
    fn of(key: &str) -> Object {
        if let Some(generation) = path::index_part_generation(key) {
            return Object::Index(generation);
        }
        let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
        match Name::parse_object(name) {
            Ok((_, generation)) => Object::Layer(generation),
            Err(_) => Object::Other,
        }
    }
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
        let mut remote = self.remote.lock().await;
        let listing = bucket
            .list(&path::timeline(&self.tenant, &self.id), false)
            .await?;
        let keys: Vec<String> = listing.objects.into_iter().map(|o| o.key).collect();
        let indexes = keys.iter().filter_map(|k| path::index_part_generation(k));
        let in_use = indexes.filter(|g| *g <= self.generation).max();
        let named = self.needed(remote.index());
        let is_left = |key: &&String| match Object::of(key) {
            Object::Index(generation) => in_use.is_some_and(|newest| generation < newest),
            Object::Layer(generation) => generation < self.generation && !named.contains(*key),
            Object::Other => false,
        };
        if !keys.iter().any(|k| is_left(&k)) || remote.index().deleted_at.is_some() {
            return Ok(0);
        }
        // This generation's index, and the question whether it still is the newest.
        self.upload_now(&mut remote).await?;
        let needed = self.needed(remote.index());
        let older = |key: &String| match Object::of(key) {
            Object::Index(generation) => generation < self.generation,
            Object::Layer(generation) => generation < self.generation && !needed.contains(key),
            Object::Other => false,
        };
        let left: Vec<String> = keys.into_iter().filter(older).collect();
        bucket.delete(&left).await?;
        info!(tenant = %self.tenant, timeline = %self.id, objects = left.len(), first = ?left.first(), "objects of older generations that nothing names, removed");
        Ok(left.len())
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
