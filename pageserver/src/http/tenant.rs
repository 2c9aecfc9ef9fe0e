//! `/v1/tenant`.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiResult, id, optional_body};
use crate::engine::Tenant;
use api_client::model::{Tagged, TenantCreate, TenantInfo};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use serde_json::Value;
use types::{TenantId, TenantShardId};

/// Members of a create request that other servers understand and this one can ignore.
const IGNORED: &[&str] = &[
    "tenant_id",
    "placement_policy",
    "shard_parameters",
    "generation",
];

fn info(tenant: &Tenant, details: bool) -> TenantInfo {
    let timelines = tenant.timelines();
    let tagged = |slug: &str| Tagged {
        slug: slug.to_owned(),
        data: None,
        background_jobs_running: None,
    };
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
        has_in_progress_downloads: false,
        name: tenant.record().name,
        timelines: details.then(|| timelines.iter().map(|t| t.id).collect()),
    }
}

/// `GET /v1/tenant`.
pub async fn list(Extract(state): Extract<State>) -> Json<Vec<TenantInfo>> {
    Json(
        state
            .engine
            .tenants()
            .iter()
            .map(|t| info(t, false))
            .collect(),
    )
}

/// `GET /v1/tenant/{tenant}`.
pub async fn detail(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
) -> ApiResult<Json<TenantInfo>> {
    let tenant: TenantShardId = id("tenant_shard_id", &tenant)?;
    Ok(Json(info(&*state.engine.tenant(tenant)?, true)))
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
        if let Ok(found) = state.engine.tenant(tenant) {
            for timeline in found.timelines() {
                super::timeline::detach_source(&state, &timeline).await;
            }
        }
        state.engine.delete_tenant(tenant).await
    });
    super::timeline::joined(task.await)??;
    Ok(Json(Value::Null))
}
