//! What happens to whole branches: archived and unarchived, hidden from the tenant's size.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiResult, body, id, optional_body};
use super::tenant::open;
use super::timeline::{find, joined};
use api_client::model::{Archival, ArchivalConfig};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Extract};
use serde::Deserialize;
use serde_json::Value;
use types::TimelineId;

/// `PUT …/archival_config`.
pub async fn archival_config(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    bytes: Bytes,
) -> ApiResult<Json<Value>> {
    let timeline: TimelineId = id("timeline_id", &timeline)?;
    let tenant = open(&state, id("tenant_shard_id", &tenant)?).await?;
    let request: ArchivalConfig = body(&bytes)?;
    let task = tokio::spawn(async move {
        match request.state {
            Archival::Archived => tenant.archive(timeline).await,
            Archival::Unarchived => tenant.unarchive(timeline).await,
        }
    });
    joined(task.await)??;
    Ok(Json(Value::Null))
}

#[derive(Deserialize, Default)]
struct Visibility {
    is_visible: Option<bool>,
}

/// `PUT …/mark_invisible`.
pub async fn mark_invisible(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    bytes: Bytes,
) -> ApiResult<Json<Value>> {
    let request: Visibility = optional_body(&bytes)?;
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    timeline.set_invisible(request.is_visible != Some(true));
    Ok(Json(Value::Null))
}
