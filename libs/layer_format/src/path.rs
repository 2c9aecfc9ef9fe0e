//! Object keys: where things are in the bucket, relative to its configured prefix.
//!
//! ```text
//! tenants/<tenant shard>/tenant-manifest-<gen>.json
//! tenants/<tenant shard>/heatmap-v1.json
//! tenants/<tenant shard>/timelines/<timeline>/index_part.json-<gen>
//! tenants/<tenant shard of the index entry>/timelines/<timeline>/<layer name>-<gen>
//! tenants/<tenant>/timelines/<timeline>/initdb.tar.zst
//! ```

use crate::index_part::LayerEntry;
use crate::name::Name;
use types::{Generation, TenantId, TenantShardId, TimelineId};

/// Stem of the index object's name.
pub const INDEX_PART: &str = "index_part.json";
/// Name of the heatmap object.
pub const HEATMAP: &str = "heatmap-v1.json";
const MANIFEST: &str = "tenant-manifest";
const JSON: &str = ".json";

/// Beginning of every key of a tenant shard, without a trailing slash: for the unsharded identity
/// it is also the beginning of the keys of all shards.
pub fn tenant(id: &TenantShardId) -> String {
    format!("tenants/{id}")
}

/// Beginning of the keys of all timelines of a tenant shard.
pub fn timelines(id: &TenantShardId) -> String {
    format!("tenants/{id}/timelines/")
}

/// Beginning of the keys of a timeline.
pub fn timeline(id: &TenantShardId, timeline: &TimelineId) -> String {
    format!("tenants/{id}/timelines/{timeline}/")
}

/// The index of a timeline.
pub fn index_part(id: &TenantShardId, tl: &TimelineId, generation: Generation) -> String {
    format!("{}{INDEX_PART}{}", timeline(id, tl), generation.suffix())
}

/// Beginning of the keys of all generations of a timeline's index.
pub fn index_part_prefix(id: &TenantShardId, tl: &TimelineId) -> String {
    format!("{}{INDEX_PART}", timeline(id, tl))
}

/// Generation in the name of an index object (a key or its last element).
pub fn index_part_generation(key: &str) -> Option<Generation> {
    let rest = last_element(key).strip_prefix(INDEX_PART)?;
    match rest.strip_prefix('-') {
        None if rest.is_empty() => Some(Generation::NONE),
        None => None,
        Some(suffix) => Generation::parse_suffix(suffix),
    }
}

/// A layer. Shard and generation are those of its index entry, which may differ from the
/// reader's after a shard split.
pub fn layer(tenant: &TenantId, tl: &TimelineId, name: &Name, entry: &LayerEntry) -> String {
    let id = TenantShardId {
        tenant: *tenant,
        shard: entry.shard,
    };
    format!(
        "{}{}",
        timeline(&id, tl),
        name.object_name(entry.generation)
    )
}

/// The manifest of a tenant shard.
pub fn manifest(id: &TenantShardId, generation: Generation) -> String {
    format!("{}{}{JSON}", manifest_prefix(id), generation.suffix())
}

/// Beginning of the keys of all generations of a manifest.
pub fn manifest_prefix(id: &TenantShardId) -> String {
    format!("tenants/{id}/{MANIFEST}")
}

/// Generation in the name of a manifest object (a key or its last element).
pub fn manifest_generation(key: &str) -> Option<Generation> {
    let rest = last_element(key)
        .strip_prefix(MANIFEST)?
        .strip_suffix(JSON)?;
    match rest.strip_prefix('-') {
        None if rest.is_empty() => Some(Generation::NONE),
        None => None,
        Some(suffix) => Generation::parse_suffix(suffix),
    }
}

/// The heatmap of a tenant shard.
pub fn heatmap(id: &TenantShardId) -> String {
    format!("tenants/{id}/{HEATMAP}")
}

/// The archive a timeline was bootstrapped from; kept once per tenant, written by shard 0.
pub fn initdb(tenant: &TenantId, tl: &TimelineId) -> String {
    format!(
        "{}initdb.tar.zst",
        timeline(&TenantShardId::unsharded(*tenant), tl)
    )
}

/// A copy of [`initdb`] that survives deletion of the timeline.
pub fn initdb_preserved(tenant: &TenantId, tl: &TimelineId) -> String {
    format!(
        "{}initdb-preserved.tar.zst",
        timeline(&TenantShardId::unsharded(*tenant), tl)
    )
}

fn last_element(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_sharded_tenant() {
        let id: TenantShardId = "00112233445566778899aabbccddeeff-0104".parse().unwrap();
        let tl: TimelineId = "ffeeddccbbaa99887766554433221100".parse().unwrap();
        let g = Generation::new(7);
        let tdir = "tenants/00112233445566778899aabbccddeeff-0104";
        let dir = format!("{tdir}/timelines/ffeeddccbbaa99887766554433221100");
        assert_eq!(
            index_part(&id, &tl, g),
            format!("{dir}/index_part.json-00000007")
        );
        assert_eq!(
            index_part(&id, &tl, Generation::NONE),
            format!("{dir}/index_part.json")
        );
        assert_eq!(
            manifest(&id, g),
            format!("{tdir}/tenant-manifest-00000007.json")
        );
        assert_eq!(heatmap(&id), format!("{tdir}/heatmap-v1.json"));
        let unsharded =
            "tenants/00112233445566778899aabbccddeeff/timelines/ffeeddccbbaa99887766554433221100";
        assert_eq!(
            initdb(&id.tenant, &tl),
            format!("{unsharded}/initdb.tar.zst")
        );
        assert_eq!(
            initdb_preserved(&id.tenant, &tl),
            format!("{unsharded}/initdb-preserved.tar.zst")
        );

        let text = "000000067F00000005000040000000000000-000000067F00000005000040000000000001__0000000001000028";
        let name: Name = text.parse().unwrap();
        let entry = LayerEntry::new(1, Generation::new(3), "0002".parse().unwrap());
        assert_eq!(
            layer(&id.tenant, &tl, &name, &entry),
            format!("tenants/00112233445566778899aabbccddeeff-0002/timelines/{tl}/{text}-00000003")
        );
    }

    #[test]
    fn generations_are_read_off_object_names() {
        assert_eq!(
            index_part_generation("a/b/index_part.json-0000001a"),
            Some(Generation::new(26))
        );
        assert_eq!(
            index_part_generation("index_part.json"),
            Some(Generation::NONE)
        );
        assert_eq!(
            manifest_generation("x/tenant-manifest-00000002.json"),
            Some(Generation::new(2))
        );
        assert_eq!(
            manifest_generation("tenant-manifest.json"),
            Some(Generation::NONE)
        );
        for bad in [
            "index_part.json-1",
            "index_part.jsonx",
            "index_part.json-0000000g",
            "other",
        ] {
            assert_eq!(index_part_generation(bad), None);
            assert_eq!(manifest_generation(bad), None);
        }
    }
}
