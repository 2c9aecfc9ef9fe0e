//! `…/layer`: what a timeline consists of, and which of it is on local disk.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiError, ApiResult};
use super::timeline::{find, joined};
use crate::engine::Timeline;
use crate::engine::layer::Layer;
use api_client::model::{InMemoryLayerInfo, LayerInfo, LayerMapInfo};
use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::sync::Arc;

/// `GET …/layer`.
pub async fn list(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> ApiResult<Json<LayerMapInfo>> {
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    let map = timeline.layers();
    let memory = |kind: &str, l: &crate::engine::memory::Layer| InMemoryLayerInfo {
        kind: kind.to_owned(),
        lsn_start: l.start(),
        lsn_end: l.end(),
    };
    Ok(Json(LayerMapInfo {
        in_memory_layers: map
            .open()
            .map(|l| memory("Open", l))
            .into_iter()
            .chain(map.frozen().iter().map(|l| memory("Frozen", l)))
            .collect(),
        historic_layers: map
            .files()
            .map(|l| LayerInfo {
                kind: if l.is_delta() { "Delta" } else { "Image" }.to_owned(),
                layer_file_name: l.name().to_string(),
                layer_file_size: l.size(),
                lsn_start: l.lsns().start,
                lsn_end: l.is_delta().then_some(l.lsns().end),
                remote: !l.is_resident(),
                l0: l.is_delta().then_some(l.is_l0()),
            })
            .collect(),
    }))
}

fn layer(timeline: &Timeline, name: &str) -> ApiResult<Arc<Layer>> {
    timeline.layer(name).ok_or_else(|| {
        ApiError::bad_request(format!(
            "Layer {}/{}/{name} not found",
            timeline.tenant, timeline.id
        ))
    })
}

fn changed(changed: bool) -> Response {
    match changed {
        true => Json(Value::Null).into_response(),
        false => StatusCode::NOT_MODIFIED.into_response(),
    }
}

/// `GET …/layer/{file}`: fetches it from the bucket. 304 if it is on local disk.
pub async fn fetch(
    Extract(state): Extract<State>,
    Path((tenant, timeline, name)): Path<(String, String, String)>,
) -> ApiResult<Response> {
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    let layer = layer(&timeline, &name)?;
    let task = tokio::spawn(async move { layer.fetch(timeline.shared()).await });
    Ok(changed(joined(task.await)??))
}

/// `DELETE …/layer/{file}`: removes it from local disk. 304 if it is not there.
pub async fn evict(
    Extract(state): Extract<State>,
    Path((tenant, timeline, name)): Path<(String, String, String)>,
) -> ApiResult<Response> {
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    let layer = layer(&timeline, &name)?;
    let task = tokio::spawn(async move { timeline.evict(&layer).await });
    Ok(changed(joined(task.await)??))
}
