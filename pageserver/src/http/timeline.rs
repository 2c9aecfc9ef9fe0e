//! `/v1/tenant/{tenant}/timeline`.

#![expect(
    clippy::disallowed_methods,
    reason = "changes run to their end even if the client goes away"
)]

use super::State;
use super::error::{ApiError, ApiResult, id, optional_body};
use super::tenant::open;
use crate::engine::{Branch, Error, State as TimelineStatus, Tenant, Timeline};
use crate::import::remove_slot;
use crate::walreceiver::Source;
use api_client::model::{TimelineCreate, TimelineInfo, TimelineState};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::warn;
use types::{Lsn, TenantShardId, TimelineId};

pub(super) type Params = HashMap<String, String>;

/// Seconds from 1970 to 2000, the epoch of Postgres timestamps.
const POSTGRES_EPOCH: u64 = 946_684_800;

pub(super) fn joined<T>(r: Result<T, tokio::task::JoinError>) -> ApiResult<T> {
    r.map_err(|e| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("HTTP request handler task panicked: {e}"),
        )
    })
}

pub(super) fn flag(params: &Params, key: &str, default: bool) -> ApiResult<bool> {
    match params.get(key).map(String::as_str) {
        None => Ok(default),
        Some("" | "1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(other) => Err(ApiError::bad_request(format!(
            "{key}: expected true or false, not {other:?}"
        ))),
    }
}

fn valid(lsn: Lsn) -> Option<Lsn> {
    lsn.is_valid().then_some(lsn)
}

async fn info(tenant: &Tenant, timeline: &Timeline, exact: bool) -> ApiResult<TimelineInfo> {
    let position = timeline.position();
    let receiver = timeline.receiver.lock().clone();
    let layers = timeline.layers();
    let exact_size = match timeline.state() {
        TimelineStatus::Active if exact => Some(timeline.exact_logical_size(position.last).await?),
        _ => None,
    };
    let (size, accurate) = match timeline.state() {
        TimelineStatus::Active => timeline.logical_size().await,
        _ => (0, false),
    };
    let oldest = timeline.gc_cutoff().max(timeline.ancestor_lsn());
    let remote = timeline.durable_lsn();
    let record = tenant.record();
    let name = record
        .timeline_names
        .get(&timeline.id.to_string())
        .and_then(Value::as_str)
        .map(ToOwned::to_owned);
    Ok(TimelineInfo {
        tenant_id: timeline.tenant,
        timeline_id: timeline.id,
        name,
        ancestor_timeline_id: timeline.ancestor().map(|(a, _)| a.id),
        ancestor_lsn: valid(timeline.ancestor_lsn()),
        last_record_lsn: position.last,
        prev_record_lsn: valid(position.prev),
        disk_consistent_lsn: timeline.disk_consistent_lsn(),
        remote_consistent_lsn: remote,
        remote_consistent_lsn_visible: remote,
        initdb_lsn: timeline.initdb_lsn(),
        applied_gc_cutoff_lsn: timeline.gc_cutoff(),
        min_readable_lsn: oldest,
        latest_gc_cutoff_lsn: oldest,
        current_logical_size: exact_size.unwrap_or(size),
        current_logical_size_is_accurate: exact_size.is_some() || accurate,
        current_physical_size: Some(layers.files().map(|l| l.size()).sum()),
        current_logical_size_non_incremental: exact_size,
        wal_source_connstr: receiver.connstr,
        last_received_msg_lsn: valid(receiver.last_received_lsn),
        last_received_msg_ts: (receiver.last_received_us > 0).then_some(receiver.last_received_us),
        pg_version: timeline.version.number(),
        state: match timeline.state() {
            TimelineStatus::Importing => TimelineState::Loading,
            TimelineStatus::Active => TimelineState::Active,
            TimelineStatus::Stopping => TimelineState::Stopping,
            TimelineStatus::Broken(reason) => TimelineState::Broken {
                reason,
                backtrace: String::new(),
            },
        },
        walreceiver_status: receiver.text,
        is_archived: Some(timeline.is_archived()),
        is_invisible: Some(timeline.marks().invisible_at.is_some()),
        awaits_download: false,
    })
}

pub(super) async fn find(
    state: &State,
    tenant: &str,
    timeline: &str,
) -> ApiResult<(Arc<Tenant>, Arc<Timeline>)> {
    let tenant: TenantShardId = id("tenant_shard_id", tenant)?;
    let timeline: TimelineId = id("timeline_id", timeline)?;
    let tenant = open(state, tenant).await?;
    let timeline = tenant.timeline(timeline)?;
    Ok((tenant, timeline))
}

/// `GET …/timeline`.
pub async fn list(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
    Query(params): Query<Params>,
) -> ApiResult<Json<Vec<TimelineInfo>>> {
    let exact = flag(&params, "include-non-incremental-logical-size", false)?;
    let tenant = open(&state, id("tenant_shard_id", &tenant)?).await?;
    let mut all = Vec::new();
    for timeline in tenant.timelines() {
        all.push(info(&tenant, &timeline, exact).await?);
    }
    Ok(Json(all))
}

/// `GET …/timeline_and_offloaded`. Nothing is offloaded here.
pub async fn list_with_offloaded(
    state: Extract<State>,
    tenant: Path<String>,
    params: Query<Params>,
) -> ApiResult<Json<Value>> {
    let Json(timelines) = list(state, tenant, params).await?;
    Ok(Json(json!({"timelines": timelines, "offloaded": []})))
}

/// `GET …/timeline/{timeline}`.
pub async fn detail(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Json<TimelineInfo>> {
    let exact = flag(&params, "include-non-incremental-logical-size", false)?;
    let (tenant, timeline) = find(&state, &tenant, &timeline).await?;
    Ok(Json(info(&tenant, &timeline, exact).await?))
}

/// `POST …/timeline`.
pub async fn create(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
    bytes: Bytes,
) -> ApiResult<(StatusCode, Json<TimelineInfo>)> {
    let tenant = open(&state, id("tenant_shard_id", &tenant)?).await?;
    let request: TimelineCreate = optional_body(&bytes)?;
    let Some(ancestor) = request.ancestor_timeline_id else {
        return Err(ApiError::bad_request(
            "ancestor_timeline_id is missing: this server makes timelines as branches of others, or by POST /v1/import from a running Postgres; it does not run initdb",
        ));
    };
    let new = request
        .new_timeline_id
        .unwrap_or_else(|| TimelineId(state.engine.env().random_id()));
    let branch = Branch {
        id: new,
        ancestor,
        at: request.ancestor_start_lsn,
    };
    let task = tokio::spawn(async move {
        let timeline = tenant.branch(branch).await?;
        if let Some(name) = request.name {
            let key = new.to_string();
            tenant
                .update_record(|r| {
                    r.timeline_names
                        .insert(key.clone(), Value::String(name.clone()));
                })
                .await?;
        }
        Ok::<_, Error>((tenant, timeline))
    });
    let (tenant, timeline) = joined(task.await)??;
    Ok((
        StatusCode::CREATED,
        Json(info(&tenant, &timeline, false).await?),
    ))
}

/// Stops following a primary and gives its slot back.
pub(super) async fn detach_source(state: &State, timeline: &Timeline) {
    state.receivers.stop(timeline.tenant, timeline.id);
    let source = match Source::load(&*state.engine.env().disk, timeline) {
        Ok(Some(source)) => source,
        Ok(None) => return,
        Err(e) => return warn!(timeline = %timeline.id, "the slot on the primary stays: {e}"),
    };
    if let Err(e) = remove_slot(&source.conninfo, &source.slot).await {
        warn!(timeline = %timeline.id, "{e}");
    }
}

/// `DELETE …/timeline/{timeline}`.
pub async fn delete(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let tenant_id: TenantShardId = id("tenant_shard_id", &tenant)?;
    let timeline_id: TimelineId = id("timeline_id", &timeline)?;
    if !state.engine.knows(tenant_id) {
        return Err(ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            "Precondition failed: Requested tenant is missing",
        ));
    }
    let tenant = open(&state, tenant_id).await?;
    // One that is not loaded may still be in the bucket, from a creation that did not end.
    let timeline = tenant.timeline(timeline_id).ok();
    let task = tokio::spawn(async move {
        if let Some(timeline) = timeline.filter(|t| tenant.children(t.id).is_empty()) {
            detach_source(&state, &timeline).await;
        }
        tenant.delete_timeline(timeline_id).await
    });
    match joined(task.await)? {
        Err(Error::TimelineNotFound { .. }) => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "NotFound: timeline not found",
        )),
        Err(e) => Err(e.into()),
        Ok(()) => Ok((StatusCode::ACCEPTED, Json(Value::Null))),
    }
}

/// Commit times are on shard zero.
fn only_on_shard_zero(timeline: &Timeline) -> ApiResult<()> {
    if timeline.tenant.shard.is_zero() {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "Commit times are only available on shard zero",
    ))
}

/// `GET …/get_lsn_by_timestamp`.
pub async fn lsn_by_timestamp(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Json<Value>> {
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    timeline.check_active()?;
    let text = params
        .get("timestamp")
        .ok_or_else(|| ApiError::bad_request("param timestamp is missing"))?;
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|e| ApiError::bad_request(format!("Invalid time: {text:?}: {e}")))?;
    only_on_shard_zero(&timeline)?;
    let with_lease = flag(&params, "with_lease", false)?;
    let found = timeline.lsn_for_timestamp(postgres_time(time)).await?;
    let version: u8 = match params.get("version") {
        None => 2,
        Some(v) => v
            .parse()
            .map_err(|_| ApiError::bad_request(format!("version: expected a number, not {v:?}")))?,
    };
    let lease = || {
        let length = timeline.shared().conf.load().lsn_lease_length_for_ts;
        // Whoever gets no lease is not told when it ends.
        timeline.lease(found.lsn(), length).ok()
    };
    let until = with_lease.then(lease).flatten();
    Ok(Json(if version >= 2 {
        let mut answer = json!({"lsn": found.lsn(), "kind": found.kind()});
        if let (Some(until), Some(members)) = (until, answer.as_object_mut()) {
            let until = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + until);
            members.insert("valid_until".into(), until.to_string().into());
        }
        answer
    } else if found.kind() == "present" {
        json!(found.lsn())
    } else {
        json!(found.kind())
    }))
}

/// `GET …/get_timestamp_of_lsn`.
pub async fn timestamp_of_lsn(
    Extract(state): Extract<State>,
    Path((tenant, timeline)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> ApiResult<Json<String>> {
    let (_, timeline) = find(&state, &tenant, &timeline).await?;
    timeline.check_active()?;
    only_on_shard_zero(&timeline)?;
    let text = params
        .get("lsn")
        .ok_or_else(|| ApiError::bad_request("param lsn is missing"))?;
    let lsn: Lsn = match text.parse::<u64>() {
        Ok(n) => Lsn(n),
        Err(_) => id("lsn", text)?,
    };
    let _pin = timeline.pin_readable(lsn)?;
    match timeline.timestamp_of_lsn(lsn).await? {
        Some(us) => Ok(Json(humantime::format_rfc3339(unix_time(us)).to_string())),
        None => Err(ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            format!("Precondition failed: Timestamp for lsn {lsn} not found"),
        )),
    }
}

fn postgres_time(time: SystemTime) -> i64 {
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH);
    match time.duration_since(epoch) {
        Ok(d) => micros(d),
        Err(e) => -micros(e.duration()),
    }
}

fn unix_time(postgres: i64) -> SystemTime {
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH);
    let span = Duration::from_micros(postgres.unsigned_abs());
    let time = if postgres >= 0 {
        epoch.checked_add(span)
    } else {
        epoch.checked_sub(span)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
