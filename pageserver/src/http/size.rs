//! `/v1/tenant/{tenant}/synthetic_size`.

use super::State;
use super::error::{ApiError, ApiResult, id};
use super::timeline::{Params, flag};
use crate::engine::synthetic_size::{Kind, Method, SegmentMeta, TimelineInput};
use api_client::size::{self, TenantSize};
use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use std::fmt::Write as _;
use types::TenantShardId;

/// Width of a drawing, and height of a line in it.
const WIDTH: u64 = 1000;
const LINE: usize = 24;

fn kind(kind: Kind) -> size::Kind {
    match kind {
        Kind::BranchStart => size::Kind::BranchStart,
        Kind::BranchPoint => size::Kind::BranchPoint,
        Kind::GcCutOff => size::Kind::GcCutOff,
        Kind::BranchEnd => size::Kind::BranchEnd,
        Kind::LeasePoint => size::Kind::LeasePoint,
        Kind::LeaseStart => size::Kind::LeaseStart,
        Kind::LeaseEnd => size::Kind::LeaseEnd,
    }
}

fn method(method: Method) -> size::Method {
    match method {
        Method::SnapshotHere => size::Method::SnapshotHere,
        Method::Wal => size::Method::Wal,
        Method::Skipped => size::Method::Skipped,
    }
}

fn segment(meta: &SegmentMeta) -> size::SegmentMeta {
    size::SegmentMeta {
        segment: size::Segment {
            parent: meta.segment.parent,
            lsn: meta.segment.lsn,
            size: meta.segment.size,
            needed: meta.segment.needed,
        },
        timeline_id: meta.timeline,
        kind: kind(meta.kind),
    }
}

fn input(input: &TimelineInput, max_retention: Option<u64>) -> size::TimelineInput {
    size::TimelineInput {
        timeline_id: input.timeline,
        ancestor_id: input.ancestor,
        ancestor_lsn: input.ancestor_lsn,
        last_record: input.last_record,
        latest_gc_cutoff: input.latest_gc_cutoff,
        next_pitr_cutoff: input.next_pitr_cutoff,
        retention_param_cutoff: max_retention.map(|bytes| input.retention_cutoff(bytes)),
        lease_points: input.lease_points.clone(),
    }
}

fn number(params: &Params, key: &str) -> ApiResult<Option<u64>> {
    let parse = |text: &String| {
        let wrong = |_| ApiError::bad_request(format!("{key}: expected a number, not {text:?}"));
        text.parse().map_err(wrong)
    };
    params.get(key).map(parse).transpose()
}

/// `GET …/synthetic_size` and `GET …/size`.
pub async fn size(
    Extract(state): Extract<State>,
    Path(tenant): Path<String>,
    Query(params): Query<Params>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let tenant: TenantShardId = id("tenant_shard_id", &tenant)?;
    let inputs_only = flag(&params, "inputs_only", false)?;
    let max_retention = number(&params, "retention_period")?;
    let html = headers
        .get(header::ACCEPT)
        .is_some_and(|v| v.as_bytes() == b"text/html");
    let tenant = super::tenant::open(&state, tenant).await?;
    if !tenant.id.shard.is_zero() {
        return Err(ApiError::bad_request(
            "Size calculations are only available on shard zero",
        ));
    }
    if html && inputs_only {
        return Err(ApiError::bad_request(
            "inputs_only: there is no drawing of inputs alone",
        ));
    }
    let inputs = tenant.size_inputs(max_retention).await?;
    let sizes = (!inputs_only).then(|| inputs.calculate());
    let chosen = |s: &crate::engine::synthetic_size::Sizes| {
        let one = |s: &crate::engine::synthetic_size::SegmentSize| size::SegmentSize {
            method: method(s.method),
            accum_size: s.accum_size,
        };
        s.segments.iter().map(one).collect()
    };
    let timelines = inputs.timelines.iter();
    let answer = TenantSize {
        id: tenant.id.tenant,
        size: sizes.as_ref().map(|s| s.total),
        segment_sizes: sizes.as_ref().map(chosen),
        inputs: size::Inputs {
            segments: inputs.segments.iter().map(segment).collect(),
            timeline_inputs: timelines.map(|t| input(t, max_retention)).collect(),
        },
    };
    if html {
        return Ok(Html(drawing(&answer)).into_response());
    }
    Ok(Json(answer).into_response())
}

/// The history of a tenant, one line for each timeline, LSNs from left to right.
fn drawing(size: &TenantSize) -> String {
    let segments = &size.inputs.segments;
    let lsns = || segments.iter().map(|m| m.segment.lsn);
    let (first, last) = (lsns().min().unwrap_or(0), lsns().max().unwrap_or(0));
    let x = |lsn: u64| {
        let span = u128::from((last - first).max(1));
        10 + u128::from(lsn - first) * u128::from(WIDTH) / span
    };
    let timelines = &size.inputs.timeline_inputs;
    let y = |of: &size::SegmentMeta| {
        let row = timelines
            .iter()
            .position(|t| t.timeline_id == of.timeline_id);
        (row.unwrap_or(0) + 1) * LINE
    };
    let mut svg = String::new();
    let methods = size.segment_sizes.iter().flatten();
    for (meta, chosen) in segments.iter().zip(methods) {
        let colour = match chosen.method {
            size::Method::SnapshotHere => "green",
            size::Method::Wal => "black",
            size::Method::Skipped => "silver",
        };
        let (to_x, to_y) = (x(meta.segment.lsn), y(meta));
        let parent = meta.segment.parent.and_then(|p| segments.get(p));
        let (from_x, from_y) = parent.map_or((to_x, to_y), |p| (x(p.segment.lsn), y(p)));
        let bytes = meta.segment.size.unwrap_or(0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<g stroke=\"{colour}\" fill=\"{colour}\"><title>{:?} of {} at {}: {:?}, {} bytes, logical size {bytes}</title>\
             <line x1=\"{from_x}\" y1=\"{from_y}\" x2=\"{to_x}\" y2=\"{to_y}\" stroke-width=\"3\"/>\
             <circle cx=\"{to_x}\" cy=\"{to_y}\" r=\"4\"/></g>",
            meta.kind,
            meta.timeline_id,
            types::Lsn(meta.segment.lsn),
            chosen.method,
            chosen.accum_size,
        );
    }
    let (width, height) = (WIDTH + 20, (timelines.len() + 1) * LINE);
    format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>Size of {id}</title></head><body>\n\
         <h1>Tenant {id}: {total} bytes</h1>\n\
         <p>One line for each timeline, LSNs {from} to {to}. Green: kept as a copy of the data there; black: kept as WAL; grey: not kept.</p>\n\
         <svg width=\"{width}\" height=\"{height}\" xmlns=\"http://www.w3.org/2000/svg\">\n{svg}</svg>\n</body></html>\n",
        id = size.id,
        total = size.size.unwrap_or(0),
        from = types::Lsn(first),
        to = types::Lsn(last),
    )
}
