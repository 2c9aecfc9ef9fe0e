//! `pagectl status`.

use crate::output;
use crate::session::Session;
use crate::timeline;
use anyhow::Result;
use serde_json::json;

/// Shows the server and all branches on it.
pub async fn run(session: &Session) -> Result<()> {
    let status = session.client.status().await?;
    let catalog = session.catalog().await?;
    let branches: Vec<_> = catalog.all().collect();
    if session.json {
        let tenants: Vec<_> = catalog.tenants.iter().map(|t| &t.info).collect();
        let timelines: Vec<_> = branches.iter().map(|f| f.timeline).collect();
        let all = json!({"status": status, "tenants": tenants, "timelines": timelines});
        return Ok(output::json(&all)?);
    }
    output::line(format!(
        "node {} at {}, {} tenants, {} branches",
        status.id,
        session.server,
        catalog.tenants.len(),
        branches.len()
    ))?;
    if branches.is_empty() {
        return Ok(output::line(
            "\nImport a running Postgres with: pagectl import postgres://USER@HOST/DATABASE --name NAME",
        )?);
    }
    output::line("")?;
    Ok(output::line(timeline::table(&branches))?)
}
