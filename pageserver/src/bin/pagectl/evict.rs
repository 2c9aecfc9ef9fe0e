//! `pagectl evict`.

use crate::arguments::Evict;
use crate::output;
use crate::session::Session;
use anyhow::{Result, ensure};
use indicatif::HumanBytes;
use serde_json::json;

/// Removes the layers of a branch from local disk.
pub async fn run(session: &Session, arguments: &Evict) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let (tenant, timeline) = (found.tenant_id(), found.id());
    let map = session.client.layers(tenant, timeline).await?;
    let (mut count, mut bytes) = (0u64, 0u64);
    let mut failed = Vec::new();
    for layer in map.historic_layers.iter().filter(|l| !l.remote) {
        let name = &layer.layer_file_name;
        match session.client.evict_layer(tenant, timeline, name).await {
            Ok(true) => {
                count += 1;
                bytes = bytes.saturating_add(layer.layer_file_size);
            }
            Ok(false) => {}
            Err(e) => failed.push(format!("{name}: {e}")),
        }
    }
    if session.json {
        output::json(&json!({"evicted": count, "bytes": bytes, "failed": &failed}))?;
    } else {
        output::line(format!(
            "{count} layers removed from local disk, {}",
            HumanBytes(bytes)
        ))?;
        for what in &failed {
            output::line(format!("stays: {what}"))?;
        }
    }
    ensure!(
        failed.is_empty(),
        "{} layers stay on local disk",
        failed.len()
    );
    Ok(())
}
