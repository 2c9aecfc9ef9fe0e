//! What happens to whole branches: archived and unarchived, hidden from the tenant's size,
//! detached from their ancestor.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiError, ApiResult, body, id, optional_body};
use super::tenant::open;
use super::timeline::{Params, find, joined};
use crate::engine::{Detach, Levels};
use api_client::model::{AncestorDetached, Archival, ArchivalConfig};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Extract};
use serde::Deserialize;
use serde_json::Value;
use types::TimelineId;

/// Most layers that a request may have copied or cut at once.
const MAX_CONCURRENCY: usize = 1000;

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

fn concurrency(params: &Params, key: &str, default: usize) -> ApiResult<usize> {
    let Some(text) = params.get(key) else {
        return Ok(default);
    };
    let parsed = text
        .parse()
        .ok()
        .filter(|n| (1..=MAX_CONCURRENCY).contains(n));
    parsed.ok_or_else(|| {
        ApiError::bad_request(format!("{key}: expected a number from 1 on, not {text:?}"))
    })
}

/// `PUT …/detach_ancestor`.
pub async fn detach_ancestor(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Json<AncestorDetached>> {
    let timeline: TimelineId = id("timeline_id", &timeline)?;
    let default = Detach::default();
    let how = Detach {
        levels: match params.get("detach_behavior").map(String::as_str) {
            None | Some("v1" | "no_ancestor_and_reparent") => Levels::OneAndReparent,
            Some("v2" | "multi_level_and_no_reparent") => Levels::Several,
            Some(other) => {
                let text = format!("detach_behavior: expected v1 or v2, not {other:?}");
                return Err(ApiError::bad_request(text));
            }
        },
        rewrites: concurrency(&params, "rewrite_concurrency", default.rewrites)?,
        copies: concurrency(&params, "copy_concurrency", default.copies)?,
    };
    let tenant = open(&state, id("tenant_shard_id", &tenant)?).await?;
    let task = tokio::spawn(async move { tenant.detach_ancestor(timeline, how).await });
    let reparented_timelines = joined(task.await)??;
    Ok(Json(AncestorDetached {
        reparented_timelines,
    }))
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
