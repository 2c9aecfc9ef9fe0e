//! `pagectl layers`.

use crate::arguments::Layers;
use crate::output;
use crate::session::Session;
use crate::table::{Side, Table};
use anyhow::Result;
use indicatif::HumanBytes;

/// Lists the layers of a branch.
pub async fn run(session: &Session, arguments: &Layers) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let map = session.client.layers(found.tenant_id(), found.id()).await?;
    if session.json {
        return Ok(output::json(&map)?);
    }
    let mut table = Table::new([
        ("KIND", Side::Left),
        ("FROM LSN", Side::Left),
        ("TO LSN", Side::Left),
        ("SIZE", Side::Right),
        ("WHERE", Side::Left),
        ("NAME", Side::Left),
    ]);
    let end = |lsn: Option<types::Lsn>| lsn.map(|l| l.to_string()).unwrap_or_default();
    for l in &map.in_memory_layers {
        table.row([
            l.kind.to_lowercase(),
            l.lsn_start.to_string(),
            end(l.lsn_end),
            String::new(),
            "memory".to_owned(),
            String::new(),
        ]);
    }
    let mut total = 0u64;
    for l in &map.historic_layers {
        total = total.saturating_add(l.layer_file_size);
        let kind = match l.l0 {
            Some(true) => "delta L0".to_owned(),
            _ => l.kind.to_lowercase(),
        };
        table.row([
            kind,
            l.lsn_start.to_string(),
            end(l.lsn_end),
            HumanBytes(l.layer_file_size).to_string(),
            if l.remote { "bucket" } else { "disk" }.to_owned(),
            l.layer_file_name.clone(),
        ]);
    }
    output::line(table)?;
    Ok(output::line(format!(
        "{} files, {}",
        map.historic_layers.len(),
        HumanBytes(total)
    ))?)
}
