//! The page service: Neon computes and our own tools read pages and backups over libpq.
//!
//! A connection is driven by [`page_protocol::server`]; this module listens, resolves tenants and
//! timelines, and reads pages from the engine.

mod handler;
mod stream;

pub use handler::Service;

use page_protocol::server::{self, Config};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Most connections at once; further ones wait in the listener's backlog.
pub const MAX_CONNECTIONS: usize = 20_000;

/// Accepts connections until cancelled, then waits for those that are open to end.
pub async fn listen(listener: TcpListener, service: Arc<Service>, cancel: CancellationToken) {
    let tracker = TaskTracker::new();
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            a = listener.accept() => a,
        };
        let (socket, peer) = match accepted {
            Ok(pair) => pair,
            Err(e) => {
                warn!("page service: accept failed: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        if let Err(e) = socket.set_nodelay(true) {
            debug!(%peer, "page service: cannot set TCP_NODELAY: {e}");
        }
        let (service, cancel) = (Arc::clone(&service), cancel.clone());
        tracker.spawn(async move {
            let _slot = slot;
            let connections = &service.engine().metrics().connections;
            connections.inc();
            let config = Config::default();
            let ended = Box::pin(server::serve(socket, &*service, &config, &cancel)).await;
            connections.dec();
            match ended {
                Ok(closed) => debug!(%peer, ?closed, "page service connection ended"),
                Err(e) => info!(%peer, "page service connection ended: {e}"),
            }
        });
    }
    tracker.close();
    tracker.wait().await;
}
