//! `/v1/tenant`.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiError, ApiResult, id, optional_body};
use crate::engine::arrivals::Waiting;
use crate::engine::{Tenant, Timeline};
use api_client::model::{Tagged, TenantCreate, TenantInfo};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use types::{TenantId, TenantShardId};

/// How long a request waits for a tenant to be loaded.
const ACTIVE_WAIT: Duration = Duration::from_secs(5);

/// Members of a create request that other servers understand and this one can ignore.
const IGNORED: &[&str] = &[
    "tenant_id",
    "placement_policy",
    "shard_parameters",
    "generation",
];

/// Which timelines say that garbage is not to be collected, and why.
fn blocking(timelines: &[Arc<Timeline>]) -> Option<String> {
    let reasons = timelines.iter().filter_map(|t| {
        let blocking = t.marks().gc_blocking?;
        Some(format!(
            "{}: {:?} since {}",
            t.id, blocking.reasons, blocking.started_at
        ))
    });
    let reasons: Vec<String> = reasons.collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn tagged(slug: &str) -> Tagged {
    Tagged {
        slug: slug.to_owned(),
        data: None,
        background_jobs_running: None,
    }
}

fn info(tenant: &Tenant, details: bool) -> TenantInfo {
    let timelines = tenant.timelines();
    let size = || {
        timelines
            .iter()
            .flat_map(|t| t.layers().files().map(|l| l.size()).collect::<Vec<_>>())
            .sum()
    };
    TenantInfo {
        id: tenant.id,
        state: Tagged {
            background_jobs_running: Some(true),
            ..tagged("Active")
        },
        current_physical_size: details.then(size),
        attachment_status: tagged("attached"),
        generation: tenant.generation.0,
        gc_blocking: details.then(|| blocking(&timelines)).flatten(),
        has_in_progress_downloads: false,
        name: tenant.record().name,
        timelines: details.then(|| timelines.iter().map(|t| t.id).collect()),
    }
}

/// A tenant that waits to be loaded. The same as long as loading fails: it is tried again.
fn attaching(waiting: &Waiting) -> TenantInfo {
    TenantInfo {
        id: waiting.id,
        state: Tagged {
            background_jobs_running: Some(false),
            ..tagged("Attaching")
        },
        current_physical_size: None,
        attachment_status: tagged("maybe"),
        generation: None,
        gc_blocking: None,
        has_in_progress_downloads: true,
        name: None,
        timelines: None,
    }
}

/// A tenant, loaded first if it is not yet. Loading goes on if it takes longer than this waits.
pub(super) async fn open(state: &State, id: TenantShardId) -> ApiResult<Arc<Tenant>> {
    if let Ok(tenant) = state.engine.tenant(id) {
        return Ok(tenant);
    }
    let engine = Arc::clone(&state.engine);
    let loading = tokio::spawn(async move { engine.open(id).await });
    match tokio::time::timeout(ACTIVE_WAIT, loading).await {
        Ok(joined) => Ok(super::timeline::joined(joined)??),
        Err(_) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Timed out waiting 5s for tenant active state. Latest state: Some(Attaching)",
        )),
    }
}

/// `GET /v1/tenant`.
pub async fn list(Extract(state): Extract<State>) -> Json<Vec<TenantInfo>> {
    // In this order none is missed; one that arrives in between is there twice.
    let waiting = state.engine.waiting();
    let tenants = state.engine.tenants();
    let mut all: BTreeMap<TenantShardId, TenantInfo> =
        waiting.iter().map(|w| (w.id, attaching(w))).collect();
    all.extend(tenants.iter().map(|t| (t.id, info(t, false))));
    Json(all.into_values().collect())
}

/// `GET /v1/tenant/{tenant}`.
pub async fn detail(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
) -> ApiResult<Json<TenantInfo>> {
    let tenant: TenantShardId = id("tenant_shard_id", &tenant)?;
    Ok(Json(info(&*open(&state, tenant).await?, true)))
}

/// `POST /v1/tenant`.
pub async fn create(
    Extract(state): Extract<State>,
    bytes: Bytes,
) -> ApiResult<(StatusCode, Json<TenantId>)> {
    let mut request: TenantCreate = optional_body(&bytes)?;
    for key in IGNORED {
        request.settings.remove(*key);
    }
    let tenant = request
        .new_tenant_id
        .unwrap_or_else(|| TenantId(state.engine.env().random_id()));
    let task = tokio::spawn(async move {
        state
            .engine
            .create_tenant(
                TenantShardId::unsharded(tenant),
                request.settings,
                request.name,
            )
            .await
    });
    super::timeline::joined(task.await)??;
    Ok((StatusCode::CREATED, Json(tenant)))
}

/// `DELETE /v1/tenant/{tenant}`.
pub async fn delete(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
) -> ApiResult<Json<Value>> {
    let tenant: TenantShardId = id("tenant_shard_id", &tenant)?;
    let task = tokio::spawn(async move {
        if let Ok(found) = state.engine.open(tenant).await {
            for timeline in found.timelines() {
                super::timeline::detach_source(&state, &timeline).await;
            }
        }
        state.engine.delete_tenant(tenant).await
    });
    super::timeline::joined(task.await)??;
    Ok(Json(Value::Null))
}
