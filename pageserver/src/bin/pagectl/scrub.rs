//! `pagectl scrub`.

use crate::arguments::Scrub;
use crate::output;
use crate::session::Session;
use anyhow::{Result, ensure};
use api_client::model::ScrubRequest;
use indicatif::HumanBytes;

/// Verifies the layers of a branch, repairs what it can, and fails if something is lost.
pub async fn run(session: &Session, arguments: &Scrub) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let request = ScrubRequest {
        local: Some(!arguments.bucket_only),
        bucket: Some(!arguments.local_only),
        rate: arguments.rate.map(|mib| mib.saturating_mul(1 << 20)),
    };
    let report = session
        .client
        .scrub(found.tenant_id(), found.id(), &request)
        .await?;
    if session.json {
        output::json(&report)?;
    } else {
        output::line(format!(
            "{} layers, {} read",
            report.layers,
            HumanBytes(report.bytes)
        ))?;
        if report.without_digest > 0 {
            output::line(format!(
                "{} of them carry no digest: only their sizes were compared",
                report.without_digest
            ))?;
        }
        for name in &report.local_repaired {
            output::line(format!("local file fetched again: {name}"))?;
        }
        for name in &report.bucket_repaired {
            output::line(format!("object written again: {name}"))?;
        }
        if report.leftovers > 0 {
            output::line(format!(
                "{} objects that a crash or an earlier start had left behind, removed",
                report.leftovers
            ))?;
        }
        for what in &report.lost {
            output::line(format!("NO GOOD COPY: {what}"))?;
        }
        for what in &report.unchecked {
            output::line(format!("could not be checked: {what}"))?;
        }
    }
    ensure!(
        report.lost.is_empty(),
        "{} layers have no good copy",
        report.lost.len()
    );
    ensure!(
        report.unchecked.is_empty(),
        "{} checks could not be made; try again",
        report.unchecked.len()
    );
    Ok(())
}
