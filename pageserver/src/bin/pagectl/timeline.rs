//! `pagectl timeline …`.

use crate::arguments::{DetachAncestor, TimelineCreate, TimelineDelete, TimelineList};
use crate::at;
use crate::branch;
use crate::catalog::{Catalog, Found};
use crate::output;
use crate::session::Session;
use crate::table::{Side, Table};
use crate::tenant::confirm;
use anyhow::Result;
use api_client::model::{Archival, TimelineCreate as Request, TimelineInfo, TimelineState};
use indicatif::HumanBytes;
use serde_json::json;

fn state(timeline: &TimelineInfo) -> String {
    match &timeline.state {
        TimelineState::Active if timeline.is_archived == Some(true) => "archived".to_owned(),
        TimelineState::Loading => "loading".to_owned(),
        TimelineState::Active => "active".to_owned(),
        TimelineState::Stopping => "stopping".to_owned(),
        TimelineState::Broken { reason, .. } => format!("broken: {reason}"),
    }
}

/// A table of branches.
pub fn table(branches: &[Found<'_>]) -> Table<9> {
    let mut table = Table::new([
        ("BRANCH", Side::Left),
        ("STATE", Side::Left),
        ("PG", Side::Right),
        ("FROM", Side::Left),
        ("LAST LSN", Side::Left),
        ("IN BUCKET", Side::Left),
        ("SIZE", Side::Right),
        ("WAL SOURCE", Side::Left),
        ("ID", Side::Left),
    ]);
    for f in branches {
        let t = f.timeline;
        let ancestor = t.ancestor_timeline_id.map(|id| {
            let known = f.tenant.timelines.iter().find(|t| t.timeline_id == id);
            let name = known.map_or_else(|| id.to_string(), |t| f.tenant.name_of(t));
            let at = t.ancestor_lsn.map(|l| format!("@{l}")).unwrap_or_default();
            format!("{name}{at}")
        });
        let size = match t.current_logical_size {
            0 => String::new(),
            n => HumanBytes(n).to_string(),
        };
        let source = match &t.wal_source_connstr {
            Some(from) if t.walreceiver_status.is_empty() => from.clone(),
            Some(_) => t.walreceiver_status.clone(),
            None => String::new(),
        };
        table.row([
            f.label(),
            state(t),
            t.pg_version.to_string(),
            ancestor.unwrap_or_default(),
            t.last_record_lsn.to_string(),
            t.remote_consistent_lsn.to_string(),
            size,
            source,
            t.timeline_id.to_string(),
        ]);
    }
    table
}

/// Lists branches.
pub async fn list(session: &Session, arguments: &TimelineList) -> Result<()> {
    let catalog = match &arguments.tenant {
        None => session.catalog().await?,
        Some(tenant) => Catalog {
            tenants: vec![session.tenant(tenant).await?],
        },
    };
    let branches: Vec<_> = catalog.all().collect();
    if session.json {
        let infos: Vec<_> = branches.iter().map(|f| f.timeline).collect();
        return Ok(output::json(&infos)?);
    }
    Ok(output::line(table(&branches))?)
}

/// Creates a timeline.
pub async fn create(session: &Session, arguments: &TimelineCreate) -> Result<()> {
    let catalog = Catalog {
        tenants: vec![session.tenant(&arguments.tenant).await?],
    };
    let tenant = catalog.tenant(&arguments.tenant)?;
    if let Some(name) = &arguments.name {
        branch::check_new_name(tenant, name)?;
    }
    let mut request = Request {
        name: arguments.name.clone(),
        ..Request::default()
    };
    if let Some(ancestor) = &arguments.ancestor {
        let found = catalog.branch(ancestor)?;
        request.ancestor_timeline_id = Some(found.id());
        if arguments.at.is_some() {
            request.ancestor_start_lsn = Some(at::resolve(session, &found, arguments.at).await?);
        }
    }
    let made = session
        .client
        .create_timeline(tenant.info.id, &request)
        .await?;
    branch::report(session, tenant, &made)
}

/// Archives a timeline, or takes it back into use.
pub async fn set_archived(session: &Session, branch: &str, to: Archival) -> Result<()> {
    let catalog = session.catalog_for(branch).await?;
    let found = catalog.branch(branch)?;
    let (tenant, id) = (found.tenant_id(), found.id());
    session.client.set_archived(tenant, id, to).await?;
    if session.json {
        let info = session.client.timeline(tenant, id).await?;
        return Ok(output::json(&info)?);
    }
    let what = match to {
        Archival::Archived => "archived",
        Archival::Unarchived => "in use again",
    };
    let label = output::plain(&found.label());
    Ok(output::line(format!("branch {label} is {what}"))?)
}

/// Makes a branch independent of its ancestor.
pub async fn detach_ancestor(session: &Session, arguments: &DetachAncestor) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let (tenant, id) = (found.tenant_id(), found.id());
    let done = session
        .client
        .detach_ancestor(tenant, id, arguments.several)
        .await?;
    if session.json {
        return Ok(output::json(&done)?);
    }
    let label = output::plain(&found.label());
    output::line(format!("branch {label} is independent"))?;
    for moved in done.reparented_timelines {
        let timelines = &found.tenant.timelines;
        let known = timelines.iter().find(|t| t.timeline_id == moved);
        let name = known.map_or_else(|| moved.to_string(), |t| found.tenant.name_of(t));
        output::line(format!("{} is now a branch of it", output::plain(&name)))?;
    }
    Ok(())
}

/// Deletes a timeline.
pub async fn delete(session: &Session, arguments: &TimelineDelete) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let label = output::plain(&found.label());
    confirm(
        arguments.yes,
        &format!("Delete branch {label} and its data?"),
    )?;
    session
        .client
        .delete_timeline(found.tenant_id(), found.id())
        .await?;
    if session.json {
        return Ok(output::json(
            &json!({"deleted": found.id(), "tenant_id": found.tenant_id()}),
        )?);
    }
    Ok(output::line(format!("branch {label} deleted"))?)
}
