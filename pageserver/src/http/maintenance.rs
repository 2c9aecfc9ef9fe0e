//! Work on a timeline's layers on demand: checkpoint, compaction, garbage collection, leases.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiError, ApiResult, optional_body};
use super::timeline::{Params, find, flag, joined};
use crate::engine::Error;
use crate::engine::timeline::Horizon;
use crate::engine::timeline::compaction::Force;
use crate::engine::timeline::scrub;
use api_client::model::{ScrubReport, ScrubRequest};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use layer_format::index_part::GcBlockingReason;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::SystemTime;
use types::Lsn;

/// Most bytes a second that a scrub reads unless told otherwise.
const SCRUB_RATE: u64 = 100 << 20;

fn force(params: &Params) -> ApiResult<Force> {
    Ok(Force {
        l0: flag(params, "force_l0_compaction", false)?,
        images: flag(params, "force_image_layer_creation", false)?,
    })
}

/// `PUT …/checkpoint`.
pub async fn checkpoint(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Json<Value>> {
    let upload = flag(&params, "wait_until_uploaded", false)?;
    let compact = flag(&params, "compact", true)?;
    let force = force(&params)?;
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    let task = tokio::spawn(async move {
        timeline.freeze_and_flush().await?;
        if compact {
            timeline.compact(force).await?;
        }
        if upload {
            timeline.upload().await?;
        }
        Ok::<(), Error>(())
    });
    joined(task.await)??;
    Ok(Json(Value::Null))
}

/// `PUT …/compact`.
pub async fn compact(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Json<Value>> {
    let upload = flag(&params, "wait_until_uploaded", false)?;
    let force = force(&params)?;
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    let task = tokio::spawn(async move {
        timeline.compact(force).await?;
        if upload {
            timeline.upload().await?;
        }
        Ok::<(), Error>(())
    });
    joined(task.await)??;
    Ok(Json(Value::Null))
}

#[derive(Deserialize, Default)]
struct CollectBody {
    gc_horizon: Option<u64>,
}

/// `PUT …/do_gc`.
pub async fn collect(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    body: Bytes,
) -> ApiResult<Json<Value>> {
    let body: CollectBody = optional_body(&body)?;
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    let started = state.engine.env().clock.monotonic();
    let task = tokio::spawn(async move {
        let conf = timeline.shared().conf.load_full();
        if !timeline.may_collect() {
            return Ok::<_, Error>(Default::default());
        }
        let horizon = Horizon {
            bytes: body.gc_horizon.unwrap_or(conf.gc_horizon),
            pitr: conf.pitr_interval,
        };
        timeline.gc(horizon).await
    });
    let done = joined(task.await)??;
    let elapsed = state.engine.env().clock.monotonic().saturating_sub(started);
    Ok(Json(json!({
        "layers_total": done.total,
        "layers_needed_by_cutoff": done.by_cutoff,
        "layers_needed_by_pitr": 0,
        "layers_needed_by_branches": done.by_branches,
        "layers_needed_by_leases": done.by_leases,
        "layers_not_updated": done.not_updated,
        "layers_removed": done.removed,
        "elapsed": {"secs": elapsed.as_secs(), "nanos": elapsed.subsec_nanos()},
    })))
}

async fn set_gc_blocked(
    state: &State,
    (tenant, timeline): (String, String),
    blocked: bool,
) -> ApiResult<Json<Value>> {
    let (_, timeline) = find(state, &tenant, &timeline).await?;
    let task = tokio::spawn(async move {
        match blocked {
            true => timeline.block_gc(GcBlockingReason::Manual).await,
            false => timeline.unblock_gc(GcBlockingReason::Manual).await,
        }
    });
    joined(task.await)??;
    Ok(Json(Value::Null))
}

/// `POST …/block_gc`.
pub async fn block_gc(
    Extract(state): Extract<State>,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    set_gc_blocked(&state, path, true).await
}

/// `POST …/unblock_gc`.
pub async fn unblock_gc(
    Extract(state): Extract<State>,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    set_gc_blocked(&state, path, false).await
}

/// `POST …/scrub`: reads all layers and repairs what it can; answers when it is done.
pub async fn scrub(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    body: Bytes,
) -> ApiResult<Json<ScrubReport>> {
    let request: ScrubRequest = optional_body(&body)?;
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    timeline.check_active()?;
    let options = scrub::Options {
        local: request.local.unwrap_or(true),
        bucket: request.bucket.unwrap_or(true),
        rate: request.rate.unwrap_or(SCRUB_RATE),
    };
    let task = tokio::spawn(async move { timeline.scrub(options).await });
    let report = joined(task.await)??;
    Ok(Json(ScrubReport {
        layers: report.layers,
        bytes: report.bytes,
        without_digest: report.without_digest,
        local_repaired: report.local_repaired,
        bucket_repaired: report.bucket_repaired,
        lost: report.lost,
        unchecked: report.unchecked,
        leftovers: report.leftovers,
    }))
}

/// Body of `POST …/lsn_lease`.
#[derive(Debug, Deserialize)]
pub struct LeaseBody {
    /// What is to stay readable.
    pub lsn: Lsn,
}

/// `POST …/lsn_lease`.
pub async fn lease(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Json(body): Json<LeaseBody>,
) -> ApiResult<Json<Value>> {
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    timeline.check_active()?;
    let length = timeline.shared().conf.load().lsn_lease_length;
    let until = timeline.lease(body.lsn, length).map_err(|e| match e {
        Error::BelowCutoff { requested, cutoff } => ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            format!("invalid lsn lease request at {requested}: tried to request an lsn lease for an lsn below the latest gc cutoff at {cutoff}"),
        ),
        other => other.into(),
    })?;
    let until = SystemTime::UNIX_EPOCH + until;
    Ok(Json(json!({
        "valid_until": humantime::format_rfc3339_millis(until).to_string(),
    })))
}
