//! `pagectl tenant …`.

use crate::arguments::{TenantCreate, TenantDelete, TenantSize};
use crate::catalog;
use crate::output;
use crate::session::Session;
use crate::table::{Side, Table};
use anyhow::{Result, bail};
use api_client::model::TenantCreate as Request;
use api_client::size::Method;
use indicatif::HumanBytes;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use types::{Lsn, TenantShardId};

/// Lists tenants.
pub async fn list(session: &Session) -> Result<()> {
    let catalog = session.catalog().await?;
    if session.json {
        let infos: Vec<_> = catalog.tenants.iter().map(|t| &t.info).collect();
        return Ok(output::json(&infos)?);
    }
    let mut table = Table::new([
        ("TENANT", Side::Left),
        ("STATE", Side::Left),
        ("BRANCHES", Side::Right),
        ("SIZE", Side::Right),
        ("ID", Side::Left),
    ]);
    for t in &catalog.tenants {
        let size: u64 = t
            .timelines
            .iter()
            .filter_map(|t| t.current_physical_size)
            .sum();
        table.row([
            t.info.name.clone().unwrap_or_default(),
            t.info.state.slug.clone(),
            t.timelines.len().to_string(),
            HumanBytes(size).to_string(),
            t.info.id.to_string(),
        ]);
    }
    Ok(output::line(table)?)
}

/// Refuses a name that is not fit, or that a tenant has already.
pub async fn check_new_name(session: &Session, name: &str) -> Result<()> {
    catalog::check_name(name)?;
    let known = session.client.tenants().await?;
    if let Some(t) = known.iter().find(|t| t.name.as_deref() == Some(name)) {
        bail!(
            "there is a tenant {name:?} already ({}); choose another --name",
            t.id
        );
    }
    Ok(())
}

/// Creates a tenant.
pub async fn create(session: &Session, arguments: &TenantCreate) -> Result<()> {
    if let Some(name) = &arguments.name {
        check_new_name(session, name).await?;
    }
    let request = Request {
        name: arguments.name.clone(),
        ..Request::default()
    };
    let id = session.client.create_tenant(&request).await?;
    if session.json {
        let info = session.client.tenant(TenantShardId::unsharded(id)).await?;
        return Ok(output::json(&info)?);
    }
    let name = arguments.name.as_deref().unwrap_or("(no name)");
    Ok(output::line(format!("tenant {name} created, id {id}"))?)
}

/// Says what a tenant costs, and for what.
pub async fn size(session: &Session, arguments: &TenantSize) -> Result<()> {
    let tenant = session.tenant(&arguments.tenant).await?;
    let size = session
        .client
        .tenant_size(tenant.info.id, arguments.retention)
        .await?;
    if session.json {
        return Ok(output::json(&size)?);
    }
    let total = size.size.unwrap_or(0);
    output::line(format!(
        "tenant {}: {} ({total} bytes)",
        output::plain(&tenant.label()),
        HumanBytes(total)
    ))?;
    let mut table = Table::new([
        ("BRANCH", Side::Left),
        ("UP TO", Side::Left),
        ("LSN", Side::Left),
        ("DATA", Side::Right),
        ("KEPT AS", Side::Left),
        ("WITH ALL BEHIND IT", Side::Right),
    ]);
    let chosen = size.segment_sizes.iter().flatten();
    for (meta, chosen) in size.inputs.segments.iter().zip(chosen) {
        let known = tenant
            .timelines
            .iter()
            .find(|t| t.timeline_id == meta.timeline_id);
        let data = meta.segment.size.map(|n| HumanBytes(n).to_string());
        let kept = match chosen.method {
            Method::SnapshotHere => "data",
            Method::Wal => "WAL",
            Method::Skipped => "",
        };
        table.row([
            known.map_or_else(|| meta.timeline_id.to_string(), |t| tenant.name_of(t)),
            format!("{:?}", meta.kind),
            Lsn(meta.segment.lsn).to_string(),
            data.unwrap_or_default(),
            kept.to_owned(),
            HumanBytes(chosen.accum_size).to_string(),
        ]);
    }
    output::line("")?;
    Ok(output::line(table)?)
}

/// Deletes a tenant.
pub async fn delete(session: &Session, arguments: &TenantDelete) -> Result<()> {
    let tenant = session.tenant(&arguments.tenant).await?;
    let label = output::plain(&tenant.label());
    let n = tenant.timelines.len();
    confirm(
        arguments.yes,
        &format!("Delete tenant {label} with its {n} branches and all their data?"),
    )?;
    session.client.delete_tenant(tenant.info.id).await?;
    if session.json {
        return Ok(output::json(&json!({"deleted": tenant.info.id}))?);
    }
    Ok(output::line(format!("tenant {label} deleted"))?)
}

/// Asks at the terminal.
///
/// # Errors
/// If the answer is not yes, or there is nobody to ask.
pub fn confirm(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody is there to answer; say --yes to do it");
    }
    eprint!("{question} Type yes: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was deleted");
    }
    Ok(())
}
