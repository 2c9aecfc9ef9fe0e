//! A timeline as ingest sees it.

use crate::engine::{Error, Timeline};
use bytes::Bytes;
use std::sync::Arc;
use types::{Batch, Key};
use wal_ingest::{Store, StoreError};

/// Writes to a timeline and reads its newest state.
#[derive(Debug, Clone)]
pub struct TimelineStore(pub Arc<Timeline>);

fn opaque(e: Error) -> StoreError {
    StoreError(Box::new(e))
}

impl Store for TimelineStore {
    async fn get(&self, key: Key) -> Result<Option<Bytes>, StoreError> {
        let value = self
            .0
            .get_opt(key, self.0.last_record_lsn())
            .await
            .map_err(opaque)?;
        Ok(value.filter(|v| !(key.is_sparse() && v.is_empty())))
    }

    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.write(batch).await.map_err(opaque)
    }
}
