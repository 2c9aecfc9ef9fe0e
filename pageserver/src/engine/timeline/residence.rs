//! Which layers are on local disk, on demand: eviction and download. Neither changes what the
//! timeline holds.

use super::Timeline;
use crate::engine::error::{Error, Result};
use crate::engine::layer::Layer;
use std::sync::Arc;

impl Timeline {
    /// A persistent layer by its name.
    pub fn layer(&self, name: &str) -> Option<Arc<Layer>> {
        self.layers().file(name).cloned()
    }

    /// Removes the local copy of a layer. False if there was none.
    ///
    /// # Errors
    /// [`Error::Precondition`] if it is not in the bucket yet.
    pub async fn evict(&self, layer: &Layer) -> Result<bool> {
        let name = layer.name().to_string();
        // Held, so that no upload reads the file meanwhile.
        let remote = self.remote.lock().await;
        if !remote.holds(&name) {
            return Err(Error::Precondition(format!(
                "layer {}/{}/{name} is not in the bucket yet",
                self.tenant, self.id
            )));
        }
        layer.evict(&self.shared).await
    }

    /// Removes the local copies of all layers that are in the bucket. Returns how many, and their
    /// bytes.
    ///
    /// # Errors
    /// Those of removing a file; what was removed before stays so.
    pub async fn evict_all(&self) -> Result<(usize, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for layer in self.layers().files() {
            match self.evict(layer).await {
                Ok(true) => {
                    count += 1;
                    bytes += layer.size();
                }
                Ok(false) | Err(Error::Precondition(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok((count, bytes))
    }
}
