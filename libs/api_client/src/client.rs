//! A client of one pageserver's management API.

use crate::model::{
    AncestorDetached, Archival, ArchivalConfig, ErrorBody, ImportCreate, ImportStarted,
    ImportStatus, LayerMapInfo, LsnByTimestamp, ScrubReport, ScrubRequest, Status, TenantCreate,
    TenantInfo, TimelineCreate, TimelineInfo,
};
use crate::size::TenantSize;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::{TenantId, TenantShardId, TimelineId};

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error("no answer from the pageserver at {url}: {source}. Is it running?")]
    Connection {
        /// Where it was looked for.
        url: String,
        /// The reason.
        source: reqwest::Error,
    },
    /// The server said no.
    #[error("{msg}")]
    Server {
        /// HTTP status.
        status: u16,
        /// Its explanation.
        msg: String,
    },
    /// The answer makes no sense.
    #[error("the pageserver at {url} gave an answer that is not understood: {source}")]
    Decode {
        /// The request.
        url: String,
        /// The reason.
        source: serde_json::Error,
    },
}

impl Error {
    /// HTTP status, if the server answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Server { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// A client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:9898`.
    pub fn new(base: &str) -> Self {
        Client {
            base: base.trim_end_matches('/').to_owned(),
            http: reqwest::Client::new(),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, &url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost = |source| Error::Connection {
            url: self.base.clone(),
            source,
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(lost)?;
        if !status.is_success() {
            return Err(failure(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { url, source })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// `GET /metrics`, as text.
    pub async fn metrics(&self) -> Result<String> {
        let lost = |source| Error::Connection {
            url: self.base.clone(),
            source,
        };
        let response = self
            .http
            .get(format!("{}/metrics", self.base))
            .send()
            .await
            .map_err(lost)?;
        response.text().await.map_err(lost)
    }

    /// All tenants.
    pub async fn tenants(&self) -> Result<Vec<TenantInfo>> {
        self.get("/v1/tenant").await
    }

    /// One tenant.
    pub async fn tenant(&self, tenant: TenantShardId) -> Result<TenantInfo> {
        self.get(&format!("/v1/tenant/{tenant}")).await
    }

    /// Creates a tenant; returns its id.
    pub async fn create_tenant(&self, request: &TenantCreate) -> Result<TenantId> {
        self.call(Method::POST, "/v1/tenant", Some(request)).await
    }

    /// Deletes a tenant.
    pub async fn delete_tenant(&self, tenant: TenantShardId) -> Result<()> {
        self.call(Method::DELETE, &format!("/v1/tenant/{tenant}"), None::<&()>)
            .await
    }

    /// The synthetic size of a tenant, with at most `retention` bytes of WAL as history.
    pub async fn tenant_size(
        &self,
        tenant: TenantShardId,
        retention: Option<u64>,
    ) -> Result<TenantSize> {
        let query = retention.map_or_else(String::new, |n| format!("?retention_period={n}"));
        self.get(&format!("/v1/tenant/{tenant}/synthetic_size{query}"))
            .await
    }

    /// All timelines of a tenant.
    pub async fn timelines(&self, tenant: TenantShardId) -> Result<Vec<TimelineInfo>> {
        self.get(&format!("/v1/tenant/{tenant}/timeline")).await
    }

    /// One timeline.
    pub async fn timeline(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
    ) -> Result<TimelineInfo> {
        self.get(&format!("/v1/tenant/{tenant}/timeline/{timeline}"))
            .await
    }

    /// Creates a timeline.
    pub async fn create_timeline(
        &self,
        tenant: TenantShardId,
        request: &TimelineCreate,
    ) -> Result<TimelineInfo> {
        self.call(
            Method::POST,
            &format!("/v1/tenant/{tenant}/timeline"),
            Some(request),
        )
        .await
    }

    /// Deletes a timeline.
    pub async fn delete_timeline(&self, tenant: TenantShardId, timeline: TimelineId) -> Result<()> {
        self.call(
            Method::DELETE,
            &format!("/v1/tenant/{tenant}/timeline/{timeline}"),
            None::<&()>,
        )
        .await
    }

    /// Archives a timeline, or takes it back into use.
    pub async fn set_archived(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        state: Archival,
    ) -> Result<()> {
        let path = format!("/v1/tenant/{tenant}/timeline/{timeline}/archival_config");
        self.call(Method::PUT, &path, Some(&ArchivalConfig { state }))
            .await
    }

    /// Makes a branch independent of its ancestor; with `several`, of a chain of them, without taking
    /// other branches along.
    pub async fn detach_ancestor(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        several: bool,
    ) -> Result<AncestorDetached> {
        let behaviour = if several { "v2" } else { "v1" };
        let path = format!(
            "/v1/tenant/{tenant}/timeline/{timeline}/detach_ancestor?detach_behavior={behaviour}"
        );
        self.call(Method::PUT, &path, None::<&()>).await
    }

    /// The LSN of a time of day (RFC 3339).
    pub async fn lsn_by_timestamp(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        timestamp: &str,
    ) -> Result<LsnByTimestamp> {
        let stamp = timestamp.replace('+', "%2B").replace(' ', "%20");
        self.get(&format!("/v1/tenant/{tenant}/timeline/{timeline}/get_lsn_by_timestamp?version=2&timestamp={stamp}")).await
    }

    /// Flushes and uploads everything ingested so far.
    pub async fn checkpoint(&self, tenant: TenantShardId, timeline: TimelineId) -> Result<()> {
        let path =
            format!("/v1/tenant/{tenant}/timeline/{timeline}/checkpoint?wait_until_uploaded=true");
        self.call(Method::PUT, &path, None::<&()>).await
    }

    /// The layers of a timeline.
    pub async fn layers(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
    ) -> Result<LayerMapInfo> {
        self.get(&format!("/v1/tenant/{tenant}/timeline/{timeline}/layer"))
            .await
    }

    /// Removes a layer from local disk; it stays in the bucket. False if it was not there.
    pub async fn evict_layer(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        name: &str,
    ) -> Result<bool> {
        let path = format!("/v1/tenant/{tenant}/timeline/{timeline}/layer/{name}");
        let url = format!("{}{path}", self.base);
        let lost = |source| Error::Connection {
            url: self.base.clone(),
            source,
        };
        let response = self.http.delete(&url).send().await.map_err(lost)?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(false);
        }
        let bytes = response.bytes().await.map_err(lost)?;
        if !status.is_success() {
            return Err(failure(status, &bytes));
        }
        Ok(true)
    }

    /// Reads all layers of a timeline and repairs what can be; returns when it is done.
    pub async fn scrub(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        request: &ScrubRequest,
    ) -> Result<ScrubReport> {
        let path = format!("/v1/tenant/{tenant}/timeline/{timeline}/scrub");
        self.call(Method::POST, &path, Some(request)).await
    }

    /// Starts an import.
    pub async fn import(&self, request: &ImportCreate) -> Result<ImportStarted> {
        self.call(Method::POST, "/v1/import", Some(request)).await
    }

    /// How far an import is.
    pub async fn import_status(&self, import: &ImportStarted) -> Result<ImportStatus> {
        self.get(&format!(
            "/v1/import/{}/{}",
            import.tenant_id, import.timeline_id
        ))
        .await
    }

    /// Cancels an import; it then removes what it made.
    pub async fn cancel_import(&self, import: &ImportStarted) -> Result<()> {
        let path = format!("/v1/import/{}/{}", import.tenant_id, import.timeline_id);
        self.call(Method::DELETE, &path, None::<&()>).await
    }
}

fn failure(status: StatusCode, body: &[u8]) -> Error {
    let msg = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(e) => e.msg,
        Err(_) => format!("HTTP status {status}"),
    };
    Error::Server {
        status: status.as_u16(),
        msg,
    }
}
