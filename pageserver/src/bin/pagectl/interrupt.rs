//! Ctrl-C.

use tokio::signal::unix::{SignalKind, signal};

/// The user, or whoever runs us, does not want this to go on.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Waits for SIGINT or SIGTERM; from the first call on they do not end the process by themselves.
pub async fn wait() {
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(mut int), Ok(mut term)) => {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        }
        // Then the signals keep their usual effect.
        _ => std::future::pending().await,
    }
}
