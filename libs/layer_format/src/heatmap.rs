//! The heatmap of a tenant shard, `heatmap-v1.json`: layers a warm stand-by should have, in the
//! order in which it should fetch them. May be stale; last writer wins.

use crate::index_part::{self, Error, LayerEntry};
use crate::name::Name;
use serde::{Deserialize, Serialize};
use types::{Generation, TimelineId};

/// Layers worth keeping warm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Heatmap {
    /// Generation of the location that wrote it.
    pub generation: Generation,
    /// Its timelines.
    pub timelines: Vec<TimelineHeatmap>,
    /// Hint for how often to look, in milliseconds.
    #[serde(default)]
    pub upload_period_ms: Option<u64>,
}

/// Layers of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHeatmap {
    /// The timeline.
    pub timeline_id: TimelineId,
    /// In the order in which to fetch them.
    pub layers: Vec<HeatmapLayer>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatmapLayer {
    /// Its name.
    pub name: Name,
    /// Its entry in the index.
    pub metadata: LayerEntry,
    /// Last access, seconds since the Unix epoch.
    pub access_time: u64,
    /// Listed, but not to be fetched.
    #[serde(default)]
    pub cold: bool,
}

impl TimelineHeatmap {
    /// Sorts into fetching order: hot before cold, L0 first, then the newest.
    pub fn sort(&mut self) {
        self.layers.sort_by_key(|l| {
            (
                l.cold,
                !l.name.is_l0(),
                std::cmp::Reverse(l.name.lsn_range().end),
            )
        });
    }

    /// The layers to fetch.
    pub fn hot(&self) -> impl Iterator<Item = &HeatmapLayer> {
        self.layers.iter().filter(|l| !l.cold)
    }
}

impl Heatmap {
    /// Reads a document.
    pub fn from_json(json: &[u8]) -> Result<Heatmap, Error> {
        index_part::from_json("heatmap", json)
    }

    /// Writes the document.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        index_part::to_json("heatmap", self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_round_trips_and_sorts_hot_layers_first() {
        let keys = "000000067F00000005000040000000000000-000000067F00000005000040000000000001";
        let full = "000000000000000000000000000000000000-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF";
        let layer = |name: &str, cold: &str| {
            format!(
                r#"{{"name":"{name}","metadata":{{"file_size":8192,"generation":1}},"access_time":1700000000{cold}}}"#
            )
        };
        let json = format!(
            r#"{{"generation":3,"timelines":[{{"timeline_id":"ffeeddccbbaa99887766554433221100","layers":[{},{},{},{}]}}],
               "upload_period_ms":60000,"later":true}}"#,
            layer(&format!("{keys}__0000000000000900"), r#","cold":true"#),
            layer(&format!("{keys}__0000000000000100"), ""),
            layer(&format!("{keys}__0000000000000200"), ""),
            layer(&format!("{full}__0000000000000100-0000000000000200"), ""),
        );
        let mut map = Heatmap::from_json(json.as_bytes()).unwrap();
        assert_eq!(
            (map.generation, map.upload_period_ms),
            (Generation::new(3), Some(60_000))
        );
        map.timelines[0].sort();
        let order: Vec<_> = map.timelines[0]
            .layers
            .iter()
            .map(|l| l.name.lsn_range().end.0)
            .collect();
        assert_eq!(order, [0x200, 0x201, 0x101, 0x901]);
        assert_eq!(map.timelines[0].hot().count(), 3);
        assert_eq!(Heatmap::from_json(&map.to_json().unwrap()).unwrap(), map);
        assert!(Heatmap::from_json(b"{}").is_err());
    }
}
