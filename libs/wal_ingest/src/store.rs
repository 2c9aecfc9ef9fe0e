//! What ingest needs of the timeline it writes to.

use bytes::Bytes;
use std::future::Future;
use types::{Batch, Key};

/// A failure of the store; opaque to ingest.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// A timeline as ingest sees it. Only one [`crate::Ingest`] writes to it at a time.
pub trait Store: Sync {
    /// The newest value of a key at or below the last LSN that [`Store::write`] published,
    /// reconstructed if need be, including what is inherited from ancestors. `None`: there is
    /// none, or its newest version is a tombstone. Must not wait for an LSN.
    fn get(&self, key: Key) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Takes a batch. If `batch.last_lsn` is valid, the LSN readers may use moves to it (and
    /// `batch.size_delta` counts) after the values are readable; otherwise the values stay
    /// invisible until a later batch moves it, and the store must keep them in the same layer as
    /// that batch. A value for a (key, LSN) above the published LSN that exists already, left by an
    /// attempt that was given up, is replaced. Back-pressure is applied by taking long.
    fn write(&self, batch: Batch) -> impl Future<Output = Result<(), StoreError>> + Send;
}
