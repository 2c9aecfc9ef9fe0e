//! Sets up the SDK's client.

use super::Credentials;
use crate::config::S3Settings;
use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{self, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::time::Duration;

/// Time to reach the store.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for the bucket. Without credentials those of the environment are looked up when the
/// first request is made.
pub(super) async fn build(settings: &S3Settings, credentials: Option<Credentials>) -> Client {
    // A store reached without TLS needs no root certificates, which may not be installed.
    let plain = settings
        .endpoint
        .as_ref()
        .is_some_and(|u| u.starts_with("http://"));
    let http = if plain {
        HttpBuilder::new().build_http()
    } else {
        HttpBuilder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https()
    };
    let region = Region::new(settings.region.clone());
    let mut builder = match credentials {
        Some(c) => config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(config::Credentials::new(
                c.access_key,
                c.secret_key,
                None,
                None,
                "configuration",
            )),
        None => {
            let loader = aws_config::defaults(BehaviorVersion::latest());
            let shared = loader
                .region(region.clone())
                .http_client(http.clone())
                .load()
                .await;
            config::Builder::from(&shared)
        }
    };
    if let Some(url) = &settings.endpoint {
        // Other stores rarely have a host name per bucket.
        builder = builder.endpoint_url(url).force_path_style(true);
    }
    let config = builder
        .region(region)
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .build(),
        )
        // Checksums are given explicitly: what the SDK adds by itself other stores do not all know.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

/// Standard base64, the form of checksums in headers.
pub(super) fn base64(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(bytes)
}
