//! The management API over HTTP: `/v1/…` and `/metrics`.
//!
//! Errors are `{"msg": …}` with a status by kind. A trailing slash is insignificant; unknown paths
//! and methods are 404. Handlers that change something run to their end even if the client goes
//! away.

mod branches;
mod error;
mod imports;
mod layers;
mod maintenance;
mod size;
mod tenant;
mod timeline;

pub use error::ApiError;
pub use imports::Imports;

use crate::engine::Engine;
use crate::walreceiver::Receivers;
use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use prometheus_client::registry::Registry;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower::util::MapRequestLayer;
use tracing::error;

/// Largest request body, in bytes.
pub const MAX_BODY: usize = 2 << 20;
/// How long open requests may go on when the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);

/// What handlers work with.
#[derive(Debug)]
pub struct Inner {
    /// The engine.
    pub engine: Arc<Engine>,
    /// WAL receivers.
    pub receivers: Arc<Receivers>,
    /// Running and finished imports.
    pub imports: Imports,
    /// How long a request waits for WAL.
    pub wait_limit: Duration,
    id: u64,
    registry: Registry,
    loaded: AtomicBool,
}

/// Shared handle to [`Inner`].
#[derive(Clone, Debug)]
pub struct State(Arc<Inner>);

impl Deref for State {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl State {
    /// The state of a server for node `id`.
    pub fn new(
        engine: Arc<Engine>,
        receivers: Arc<Receivers>,
        id: u64,
        registry: Registry,
        wait_limit: Duration,
    ) -> Self {
        State(Arc::new(Inner {
            engine,
            receivers,
            imports: Imports::default(),
            wait_limit,
            id,
            registry,
            loaded: AtomicBool::new(false),
        }))
    }
}

/// Until all tenants are loaded nothing is said about any: an empty answer would look like loss.
async fn only_when_loaded(
    axum::extract::State(state): axum::extract::State<State>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let path = request.uri().path();
    let about_tenants = path.starts_with("/v1/tenant") || path.starts_with("/v1/import");
    if about_tenants && !state.loaded.load(Ordering::Acquire) {
        let text = "tenant map is still initializing";
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    next.run(request).await
}

/// Serves until cancelled.
pub async fn listen(listener: TcpListener, state: State, cancel: CancellationToken) {
    let app = MapRequestLayer::new(strip_trailing_slash).layer(router(state));
    let service = axum::ServiceExt::<Request>::into_make_service(app);
    let stop = cancel.clone();
    let server = axum::serve(listener, service)
        .with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        r = async { server.await } => {
            if let Err(e) = r {
                error!("HTTP server failed: {e}");
            }
        }
        () = async { cancel.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
    }
}

impl State {
    /// All tenants are loaded: requests about them are answered from now on.
    pub fn set_loaded(&self) {
        self.loaded.store(true, Ordering::Release);
    }
}

/// All routes.
pub fn router(state: State) -> Router {
    let t = "/v1/tenant/{tenant}";
    let tl = "/v1/tenant/{tenant}/timeline/{timeline}";
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/v1/tenant", get(tenant::list).post(tenant::create))
        .route(t, get(tenant::detail).delete(tenant::delete))
        .route(&format!("{t}/size"), get(size::size))
        .route(&format!("{t}/synthetic_size"), get(size::size))
        .route(
            &format!("{t}/timeline"),
            get(timeline::list).post(timeline::create),
        )
        .route(
            &format!("{t}/timeline_and_offloaded"),
            get(timeline::list_with_offloaded),
        )
        .route(tl, get(timeline::detail).delete(timeline::delete))
        .route(
            &format!("{tl}/get_lsn_by_timestamp"),
            get(timeline::lsn_by_timestamp),
        )
        .route(
            &format!("{tl}/get_timestamp_of_lsn"),
            get(timeline::timestamp_of_lsn),
        )
        .route(
            &format!("{tl}/archival_config"),
            put(branches::archival_config),
        )
        .route(
            &format!("{tl}/detach_ancestor"),
            put(branches::detach_ancestor),
        )
        .route(
            &format!("{tl}/mark_invisible"),
            put(branches::mark_invisible),
        )
        .route(&format!("{tl}/block_gc"), post(maintenance::block_gc))
        .route(&format!("{tl}/unblock_gc"), post(maintenance::unblock_gc))
        .route(&format!("{tl}/checkpoint"), put(maintenance::checkpoint))
        .route(&format!("{tl}/compact"), put(maintenance::compact))
        .route(&format!("{tl}/do_gc"), put(maintenance::collect))
        .route(&format!("{tl}/lsn_lease"), post(maintenance::lease))
        .route(&format!("{tl}/scrub"), post(maintenance::scrub))
        .route(&format!("{tl}/layer"), get(layers::list))
        .route(
            &format!("{tl}/layer/{{file}}"),
            get(layers::fetch).delete(layers::evict),
        )
        .route("/v1/import", post(imports::create))
        .route(
            "/v1/import/{tenant}/{timeline}",
            get(imports::detail).delete(imports::cancel),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(
            state.clone(),
            only_when_loaded,
        ))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(error::uniform))
        .with_state(state)
}

fn strip_trailing_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    if path.len() > 1 && path.ends_with('/') {
        let trimmed = path.trim_end_matches('/');
        let text = match request.uri().query() {
            Some(q) => format!("{trimmed}?{q}"),
            None => trimmed.to_owned(),
        };
        if let Ok(uri) = text.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    request
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "page not found")
}

async fn status(axum::extract::State(state): axum::extract::State<State>) -> impl IntoResponse {
    Json(api_client::model::Status { id: state.id })
}

async fn metrics(
    axum::extract::State(state): axum::extract::State<State>,
) -> Result<Response, ApiError> {
    let engine = &state.engine;
    engine
        .metrics()
        .unflushed_bytes
        .set(i64::try_from(engine.unflushed()).unwrap_or(i64::MAX));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &state.registry)
        .map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let mut response = text.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}
