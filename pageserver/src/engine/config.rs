//! Settings of a tenant: overrides of documented keys, with defaults.

use serde_json::{Map, Value};
use std::time::Duration;

/// Names of the settings a tenant can override (`docs/operations.md`).
pub const KNOWN_KEYS: &[&str] = &[
    "basebackup_cache_enabled",
    "checkpoint_distance",
    "checkpoint_timeout",
    "compaction_algorithm",
    "compaction_l0_first",
    "compaction_l0_semaphore",
    "compaction_period",
    "compaction_shard_ancestor",
    "compaction_target_size",
    "compaction_threshold",
    "compaction_upper_limit",
    "delta_chain_threshold",
    "eviction_policy",
    "evictions_low_residence_duration_metric_threshold",
    "gc_compaction_enabled",
    "gc_compaction_initial_threshold_kb",
    "gc_compaction_ratio_percent",
    "gc_compaction_verification",
    "gc_horizon",
    "gc_period",
    "heatmap_period",
    "image_creation_preempt_threshold",
    "image_creation_threshold",
    "image_layer_creation_check_threshold",
    "image_layer_force_creation_period",
    "l0_flush_delay_threshold",
    "l0_flush_stall_threshold",
    "lagging_wal_timeout",
    "lazy_slru_download",
    "lsn_lease_length",
    "lsn_lease_length_for_ts",
    "max_lsn_wal_lag",
    "min_resident_size_override",
    "pitr_interval",
    "rel_size_v2_enabled",
    "relsize_snapshot_cache_capacity",
    "sampling_ratio",
    "timeline_get_throttle",
    "timeline_offloading",
    "walreceiver_connect_timeout",
];

/// A tenant's settings that this version acts on, and all overrides as they were given.
#[derive(Clone, PartialEq, Debug)]
pub struct TenantConf {
    /// The open layer is frozen at this size, in bytes.
    pub checkpoint_distance: usize,
    /// The open layer is frozen at this age.
    pub checkpoint_timeout: Duration,
    /// Number of L0 layers at which they are compacted.
    pub compaction_threshold: usize,
    /// Number of full L0 layers, of `checkpoint_distance` each, that one compaction takes at most.
    pub compaction_upper_limit: usize,
    /// Size that compacted layers are cut at, in bytes.
    pub compaction_target_size: u64,
    /// Pause between looks for images to make and layers to merge; zero switches compaction off.
    pub compaction_period: Duration,
    /// Number of compacted delta layers above one key at which they are merged or replaced by
    /// images.
    pub image_creation_threshold: usize,
    /// Flushes wait for compaction at this number of L0 layers; zero switches this off.
    pub l0_flush_stall_threshold: usize,
    /// Most changes that a read replays: half of them from fresh data, half from compacted.
    pub delta_chain_threshold: usize,
    /// History kept, in bytes of WAL, if `pitr_interval` is zero.
    pub gc_horizon: u64,
    /// Pause between garbage collections; zero switches them off.
    pub gc_period: Duration,
    /// History kept, as a span of time.
    pub pitr_interval: Duration,
    /// How long a lease of an LSN lasts, and garbage collection waits after a start.
    pub lsn_lease_length: Duration,
    /// How long a lease lasts that comes with the LSN of a time.
    pub lsn_lease_length_for_ts: Duration,
    /// Limit for opening a WAL connection and for silence on an open one.
    pub walreceiver_connect_timeout: Duration,
    overrides: Map<String, Value>,
}

impl Default for TenantConf {
    fn default() -> Self {
        TenantConf {
            checkpoint_distance: 256 << 20,
            checkpoint_timeout: Duration::from_secs(600),
            compaction_threshold: 10,
            compaction_upper_limit: 10,
            compaction_target_size: 128 << 20,
            compaction_period: Duration::from_secs(20),
            image_creation_threshold: 3,
            l0_flush_stall_threshold: 30,
            delta_chain_threshold: 128,
            gc_horizon: 64 << 20,
            gc_period: Duration::from_secs(3600),
            pitr_interval: Duration::from_secs(7 * 24 * 3600),
            lsn_lease_length: Duration::from_secs(600),
            lsn_lease_length_for_ts: Duration::from_secs(60),
            walreceiver_connect_timeout: Duration::from_secs(10),
            overrides: Map::new(),
        }
    }
}

/// A setting is unknown or has an unusable value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No setting has this name.
    #[error("unknown tenant setting {0:?}{hint}", hint = nearest(.0).map(|n| format!(", did you mean {n:?}?")).unwrap_or_default())]
    Unknown(String),
    /// The value does not fit.
    #[error("tenant setting {key}: {value} is not {expected}")]
    Value {
        /// The setting.
        key: String,
        /// What was given.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

impl TenantConf {
    /// The daemon's settings for tenants with a tenant's overrides on top.
    pub fn new(
        defaults: &Map<String, Value>,
        overrides: &Map<String, Value>,
    ) -> Result<Self, Error> {
        let mut conf = TenantConf::default();
        for (key, value) in defaults.iter().chain(overrides) {
            if !KNOWN_KEYS.contains(&key.as_str()) {
                return Err(Error::Unknown(key.clone()));
            }
            match key.as_str() {
                "checkpoint_distance" => {
                    conf.checkpoint_distance = size(key, value, 64 << 10, 4 << 30)?;
                }
                "compaction_threshold" => conf.compaction_threshold = count(key, value, 1)?,
                "compaction_upper_limit" => conf.compaction_upper_limit = count(key, value, 1)?,
                "compaction_target_size" => {
                    conf.compaction_target_size = size(key, value, 64 << 10, 4 << 30)? as u64;
                }
                "compaction_period" => conf.compaction_period = duration(key, value)?,
                "image_creation_threshold" => {
                    conf.image_creation_threshold = count(key, value, 1)?;
                }
                "l0_flush_stall_threshold" => {
                    conf.l0_flush_stall_threshold = count(key, value, 0)?;
                }
                "delta_chain_threshold" => conf.delta_chain_threshold = count(key, value, 2)?,
                "gc_horizon" => {
                    conf.gc_horizon = value
                        .as_u64()
                        .ok_or_else(|| bad(key, value, "a number of bytes"))?;
                }
                "gc_period" => conf.gc_period = duration(key, value)?,
                "pitr_interval" => conf.pitr_interval = duration(key, value)?,
                "lsn_lease_length" => conf.lsn_lease_length = duration(key, value)?,
                "lsn_lease_length_for_ts" => {
                    conf.lsn_lease_length_for_ts = duration(key, value)?;
                }
                "checkpoint_timeout" => conf.checkpoint_timeout = duration(key, value)?,
                "walreceiver_connect_timeout" => {
                    conf.walreceiver_connect_timeout = duration(key, value)?;
                }
                _ => {}
            }
        }
        conf.overrides = overrides.clone();
        Ok(conf)
    }

    /// The overrides as they were given.
    pub fn overrides(&self) -> &Map<String, Value> {
        &self.overrides
    }
}

fn bad(key: &str, value: &Value, expected: &'static str) -> Error {
    Error::Value {
        key: key.to_owned(),
        value: value.to_string(),
        expected,
    }
}

fn size(key: &str, value: &Value, min: u64, max: u64) -> Result<usize, Error> {
    value
        .as_u64()
        .filter(|n| (min..=max).contains(n))
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| bad(key, value, "a number of bytes between 64 KiB and 4 GiB"))
}

fn count(key: &str, value: &Value, min: u64) -> Result<usize, Error> {
    value
        .as_u64()
        .filter(|n| (min..=1_000_000).contains(n))
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| bad(key, value, "a number in the range of this setting"))
}

fn duration(key: &str, value: &Value) -> Result<Duration, Error> {
    value
        .as_str()
        .and_then(|s| humantime::parse_duration(s).ok())
        .ok_or_else(|| bad(key, value, "a duration such as \"10s\" or \"1h 30m\""))
}

/// The known key most like `name`, if any is close.
fn nearest(name: &str) -> Option<&'static str> {
    KNOWN_KEYS
        .iter()
        .map(|k| (edit_distance(k, name), *k))
        .min()
        .filter(|(d, k)| *d <= k.len() / 3)
        .map(|(_, k)| k)
}

/// Levenshtein distance, for suggestions in error messages.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(128).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, cb) in row.iter_mut().skip(1).zip(&b) {
            let up = *slot;
            left = (left + 1)
                .min(up + 1)
                .min(diagonal + usize::from(ca != *cb));
            diagonal = up;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let mut m = Map::new();
        m.insert("checkpoint_distanse".into(), Value::from(1 << 20));
        let e = TenantConf::new(&Map::new(), &m).unwrap_err();
        assert!(e.to_string().contains("\"checkpoint_distance\""), "{e}");
    }

    #[test]
    fn values_are_checked() {
        let mut m = Map::new();
        m.insert("checkpoint_distance".into(), Value::from(1));
        assert!(matches!(
            TenantConf::new(&Map::new(), &m),
            Err(Error::Value { .. })
        ));
        let mut m = Map::new();
        m.insert("checkpoint_timeout".into(), Value::from("5m"));
        assert_eq!(
            TenantConf::new(&Map::new(), &m).unwrap().checkpoint_timeout,
            Duration::from_secs(300)
        );
    }
}
