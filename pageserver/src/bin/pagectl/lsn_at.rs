//! `pagectl lsn-at`.

use crate::arguments::LsnAt;
use crate::at;
use crate::output;
use crate::session::Session;
use anyhow::{Context as _, Result};

/// Says which LSN a branch had at a time.
pub async fn run(session: &Session, arguments: &LsnAt) -> Result<()> {
    let time = at::time(arguments.time).context("that is an LSN already; give a time")?;
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let answer = at::lookup(session, &found, time).await?;
    if session.json {
        return Ok(output::json(&answer)?);
    }
    let meaning = at::meaning(&answer.kind);
    Ok(output::line(format!(
        "{}  ({}: {meaning})",
        answer.lsn, answer.kind
    ))?)
}
