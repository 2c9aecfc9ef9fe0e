//! `/v1/import`: making a timeline from a running Postgres.

use super::State;
use super::error::{ApiError, ApiResult, body, id};
use crate::import::{self, Progress, Request, Snapshot};
use api_client::model::{ImportCreate, ImportStarted};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use parking_lot::Mutex;
use replication::conninfo::Conninfo;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use types::{TenantId, TimelineId};

/// Imports that run at once.
pub const MAX_RUNNING: usize = 8;
/// Finished imports whose outcome is remembered.
pub const MAX_REMEMBERED: usize = 256;

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    cancel: CancellationToken,
    started: u64,
}

/// Imports of this daemon, running and finished.
#[derive(Debug, Default)]
pub struct Imports {
    tracker: TaskTracker,
    all: Mutex<HashMap<(TenantId, TimelineId), Running>>,
}

fn is_over(snapshot: &Snapshot) -> bool {
    matches!(snapshot.phase, import::Phase::Done | import::Phase::Failed)
}

impl Imports {
    fn admit(
        &self,
        key: (TenantId, TimelineId),
        now: u64,
    ) -> ApiResult<(Arc<Progress>, CancellationToken)> {
        let mut all = self.all.lock();
        let running = all
            .values()
            .filter(|r| !is_over(&r.progress.snapshot()))
            .count();
        if running >= MAX_RUNNING {
            return Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{MAX_RUNNING} imports run already"),
            ));
        }
        if all
            .get(&key)
            .is_some_and(|r| !is_over(&r.progress.snapshot()))
        {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "Conflict: this import runs already",
            ));
        }
        while all.len() >= MAX_REMEMBERED {
            let oldest = all
                .iter()
                .filter(|(_, r)| is_over(&r.progress.snapshot()))
                .min_by_key(|(_, r)| r.started);
            let Some(oldest) = oldest.map(|(k, _)| *k) else {
                break;
            };
            all.remove(&oldest);
        }
        let progress = Arc::new(Progress::default());
        let cancel = CancellationToken::new();
        all.insert(
            key,
            Running {
                progress: Arc::clone(&progress),
                cancel: cancel.clone(),
                started: now,
            },
        );
        Ok((progress, cancel))
    }

    /// Cancels all running imports and waits until they have cleaned up.
    pub async fn cancel_all(&self) {
        for running in self.all.lock().values() {
            running.cancel.cancel();
        }
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// `POST /v1/import`.
pub async fn create(
    Extract(state): Extract<State>,
    bytes: Bytes,
) -> ApiResult<(StatusCode, Json<ImportStarted>)> {
    let request: ImportCreate = body(&bytes)?;
    let conninfo: Conninfo = request
        .connstr
        .parse()
        .map_err(|e| ApiError::bad_request(format!("connstr: {e}")))?;
    let env = state.engine.env();
    let tenant = request
        .tenant_id
        .unwrap_or_else(|| TenantId(env.random_id()));
    let timeline = request
        .timeline_id
        .unwrap_or_else(|| TimelineId(env.random_id()));
    let now = u64::try_from(env.clock.wall().as_micros()).unwrap_or(u64::MAX);
    let (progress, cancel) = state.imports.admit((tenant, timeline), now)?;
    let job = Request {
        conninfo,
        tenant,
        name: request.name,
        timeline,
        max_rate: request.max_rate,
    };
    let (engine, receivers) = (Arc::clone(&state.engine), Arc::clone(&state.receivers));
    state.imports.tracker.spawn(async move {
        match import::run(&engine, &receivers, job, &progress, &cancel).await {
            Ok(done) => {
                info!(tenant = %done.tenant, timeline = %done.timeline, lsn = %done.lsn, "imported")
            }
            Err(e) => {
                warn!(%tenant, %timeline, "import failed: {e}");
                progress.failed(e.to_string());
            }
        }
    });
    Ok((
        StatusCode::ACCEPTED,
        Json(ImportStarted {
            tenant_id: tenant,
            timeline_id: timeline,
        }),
    ))
}

fn key(tenant: &str, timeline: &str) -> ApiResult<(TenantId, TimelineId)> {
    Ok((id("tenant_id", tenant)?, id("timeline_id", timeline)?))
}

fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NotFound: no such import")
}

/// `GET /v1/import/{tenant}/{timeline}`.
pub async fn detail(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> ApiResult<Json<Snapshot>> {
    let key = key(&tenant, &timeline)?;
    let all = state.imports.all.lock();
    all.get(&key)
        .map(|r| Json(r.progress.snapshot()))
        .ok_or_else(unknown)
}

/// `DELETE /v1/import/{tenant}/{timeline}`.
pub async fn cancel(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let key = key(&tenant, &timeline)?;
    let all = state.imports.all.lock();
    all.get(&key).ok_or_else(unknown)?.cancel.cancel();
    Ok((StatusCode::ACCEPTED, Json(Value::Null)))
}
