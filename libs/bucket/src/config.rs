//! The `[remote_storage]` table of the configuration file. Its kind is recognised by its keys.
//!
//! | kind | keys |
//! |---|---|
//! | directory | `local_path` |
//! | S3 | `bucket_name`, `bucket_region`, `prefix_in_bucket`, `endpoint`, `concurrency_limit` (100), `max_keys_per_list_response`, `upload_storage_class` |
//! | both | `timeout` (`120s`), `small_timeout` (`30s`) |

use crate::{Bucket, Credentials, Local, S3};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Default limit of concurrent requests.
pub(crate) const CONCURRENCY: usize = 100;
/// Default time for a request that moves an object.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);
/// Default time for any other request.
pub(crate) const SMALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Region of a store with its own endpoint, which ignores it.
const ANY_REGION: &str = "us-east-1";

/// A table that does not say where the bucket is.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// None of the keys that tell the kind.
    #[error("remote_storage needs `local_path`, or `bucket_name` and `bucket_region`")]
    Missing,
    /// A kind that is not supported.
    #[error("remote_storage: {0}")]
    Unsupported(&'static str),
    /// A value that cannot be used.
    #[error("remote_storage.{key}: {cause}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong.
        cause: String,
    },
}

/// The table as written. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory of a local bucket.
    pub local_path: Option<PathBuf>,
    /// Name of an S3 bucket.
    pub bucket_name: Option<String>,
    /// Its region.
    pub bucket_region: Option<String>,
    /// Path within the bucket below which everything lies.
    pub prefix_in_bucket: Option<String>,
    /// URL of a store other than AWS.
    pub endpoint: Option<String>,
    /// Most requests at a time.
    pub concurrency_limit: Option<usize>,
    /// Entries asked for in one listing request.
    pub max_keys_per_list_response: Option<i32>,
    /// Storage class of new objects.
    pub upload_storage_class: Option<String>,
    /// Time for a request that moves an object.
    #[serde(deserialize_with = "duration")]
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// Time for any other request.
    #[serde(deserialize_with = "duration")]
    #[serde(default)]
    pub small_timeout: Option<Duration>,
    /// Azure's bucket name; recognised to say that it is not supported.
    pub container_name: Option<String>,
    /// Azure.
    pub container_region: Option<String>,
    /// Azure.
    pub storage_account: Option<String>,
    /// Azure.
    pub prefix_in_container: Option<String>,
    /// Azure.
    pub conn_pool_size: Option<usize>,
    /// Azure.
    pub put_block_size_mb: Option<usize>,
}

fn duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    text.map(|t| humantime::parse_duration(&t).map_err(serde::de::Error::custom))
        .transpose()
}

/// Settings of an S3 bucket, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Settings {
    pub bucket: String,
    pub region: String,
    pub prefix: String,
    pub endpoint: Option<String>,
    pub concurrency: usize,
    pub max_keys: Option<i32>,
    pub storage_class: Option<String>,
    pub timeout: Duration,
    pub small_timeout: Duration,
}

impl Config {
    /// The table of a bucket in a directory.
    pub fn local(path: impl Into<PathBuf>) -> Config {
        Config {
            local_path: Some(path.into()),
            ..Config::default()
        }
    }

    /// Opens the bucket. An S3 bucket uses `credentials`, or what the environment has (variables,
    /// profile, web identity, instance role).
    pub async fn open(
        &self,
        credentials: Option<Credentials>,
    ) -> Result<Arc<dyn Bucket>, ConfigError> {
        if let Some(path) = &self.local_path {
            self.check_local()?;
            let opened = Local::open(path);
            let bucket =
                opened.map_err(|e| invalid("local_path", format!("{}: {e}", path.display())))?;
            return Ok(Arc::new(bucket));
        }
        let settings = self.s3()?;
        Ok(Arc::new(S3::connect(settings, credentials).await))
    }

    fn check_local(&self) -> Result<(), ConfigError> {
        if self.bucket_name.is_some() || self.container_name.is_some() {
            return Err(invalid(
                "local_path",
                "there is a bucket as well; keep one".into(),
            ));
        }
        Ok(())
    }

    /// The settings of an S3 bucket, checked.
    pub(crate) fn s3(&self) -> Result<S3Settings, ConfigError> {
        if self.container_name.is_some() || self.storage_account.is_some() {
            return Err(ConfigError::Unsupported(
                "Azure containers are not supported; use S3 or local_path",
            ));
        }
        let bucket = self
            .bucket_name
            .clone()
            .filter(|b| !b.is_empty())
            .ok_or(ConfigError::Missing)?;
        let region = match (&self.bucket_region, &self.endpoint) {
            (Some(region), _) => region.clone(),
            (None, Some(_)) => ANY_REGION.to_owned(),
            (None, None) => {
                return Err(ConfigError::Unsupported(
                    "a bucket without bucket_region means Google Cloud Storage, which is reached through its S3 \
                     interface: set endpoint = \"https://storage.googleapis.com\" and use HMAC keys",
                ));
            }
        };
        if let Some(url) = self
            .endpoint
            .as_ref()
            .filter(|u| !u.starts_with("http://") && !u.starts_with("https://"))
        {
            return Err(invalid(
                "endpoint",
                format!("{url:?} is no http or https URL"),
            ));
        }
        let prefix = self
            .prefix_in_bucket
            .as_deref()
            .unwrap_or_default()
            .trim_matches('/');
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        crate::key::check_prefix(&prefix).map_err(|e| invalid("prefix_in_bucket", e.to_owned()))?;
        let concurrency = self.concurrency_limit.unwrap_or(CONCURRENCY);
        if !(1..=100_000).contains(&concurrency) {
            return Err(invalid(
                "concurrency_limit",
                "must lie between 1 and 100000".into(),
            ));
        }
        if self.max_keys_per_list_response.is_some_and(|n| n < 1) {
            return Err(invalid(
                "max_keys_per_list_response",
                "must be positive".into(),
            ));
        }
        Ok(S3Settings {
            bucket,
            region,
            prefix,
            endpoint: self.endpoint.clone(),
            concurrency,
            max_keys: self.max_keys_per_list_response,
            storage_class: self.upload_storage_class.clone(),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            small_timeout: self.small_timeout.unwrap_or(SMALL_TIMEOUT),
        })
    }
}

fn invalid(key: &'static str, cause: String) -> ConfigError {
    ConfigError::Invalid { key, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn kind_is_recognised_by_its_keys() {
        assert_eq!(parse("local_path = '/x'"), Config::local("/x"));
        let s3 = parse(
            "bucket_name = 'b'\nbucket_region = 'eu-1'\nprefix_in_bucket = '/a/b/'\nconcurrency_limit = 7\n\
             timeout = '2m'\nsmall_timeout = '5s'\nmax_keys_per_list_response = 10",
        );
        let s = s3.s3().unwrap();
        assert_eq!(
            (s.bucket.as_str(), s.region.as_str(), s.prefix.as_str()),
            ("b", "eu-1", "a/b/")
        );
        assert_eq!((s.concurrency, s.max_keys), (7, Some(10)));
        assert_eq!(
            (s.timeout, s.small_timeout),
            (Duration::from_secs(120), Duration::from_secs(5))
        );
        let minio = parse("bucket_name = 'b'\nendpoint = 'http://127.0.0.1:9000'")
            .s3()
            .unwrap();
        assert_eq!(
            (minio.region.as_str(), minio.prefix.as_str()),
            (ANY_REGION, "")
        );
    }

    #[test]
    fn mistakes_are_explained() {
        assert!(
            toml::from_str::<Config>("bucket = 'b'")
                .unwrap_err()
                .to_string()
                .contains("bucket_name")
        );
        for (text, says) in [
            ("", "needs `local_path`"),
            ("bucket_name = 'b'", "Google"),
            ("container_name = 'c'", "Azure"),
            ("bucket_name = 'b'\nendpoint = 'minio:9000'", "endpoint"),
            (
                "bucket_name = 'b'\nbucket_region = 'r'\nconcurrency_limit = 0",
                "concurrency_limit",
            ),
            (
                "bucket_name = 'b'\nbucket_region = 'r'\nprefix_in_bucket = 'a/../b'",
                "prefix_in_bucket",
            ),
        ] {
            let error = parse(text).s3().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(toml::from_str::<Config>("local_path = '/x'\ntimeout = 'soon'").is_err());
    }
}
