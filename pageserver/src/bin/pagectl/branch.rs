//! `pagectl branch`.

use crate::arguments::Branch;
use crate::at;
use crate::catalog::{self, Found, Tenant};
use crate::output;
use crate::session::Session;
use anyhow::{Result, bail};
use api_client::model::{TimelineCreate, TimelineInfo};

/// Names tried for a branch that was given none.
const MAX_NUMBER: u32 = 100_000;

/// Branches.
pub async fn run(session: &Session, arguments: &Branch) -> Result<()> {
    let catalog = session.catalog_for(&arguments.src).await?;
    let found = catalog.branch(&arguments.src)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => free_name(found.tenant, &found.tenant.name_of(found.timeline))?,
    };
    check_new_name(found.tenant, &name)?;
    let start = match arguments.at {
        None => None,
        at => Some(at::resolve(session, &found, at).await?),
    };
    let request = TimelineCreate {
        ancestor_timeline_id: Some(found.id()),
        ancestor_start_lsn: start,
        name: Some(name),
        ..TimelineCreate::default()
    };
    let made = session
        .client
        .create_timeline(found.tenant_id(), &request)
        .await?;
    report(session, found.tenant, &made)
}

/// Refuses a name that is not fit, or that a branch of the tenant has already.
pub fn check_new_name(tenant: &Tenant, name: &str) -> Result<()> {
    catalog::check_name(name)?;
    if tenant.has_branch(name) {
        bail!(
            "there is a branch {}/{name} already; choose another name",
            tenant.label()
        );
    }
    Ok(())
}

fn free_name(tenant: &Tenant, source: &str) -> Result<String> {
    let room = catalog::MAX_NAME - "-100000".len();
    let cut = (0..=room)
        .rev()
        .find(|n| source.is_char_boundary(*n))
        .unwrap_or(0);
    let stem = source.get(..cut).unwrap_or(source);
    let free = (1..MAX_NUMBER)
        .map(|n| format!("{stem}-{n}"))
        .find(|name| !tenant.has_branch(name));
    match free {
        Some(name) => Ok(name),
        None => bail!("name the new branch; {stem}-1 to {stem}-{MAX_NUMBER} are taken"),
    }
}

/// Says what was made.
pub fn report(session: &Session, tenant: &Tenant, made: &TimelineInfo) -> Result<()> {
    if session.json {
        return Ok(output::json(made)?);
    }
    let label = Found {
        tenant,
        timeline: made,
    }
    .label();
    let at = match made.ancestor_lsn {
        Some(lsn) => format!(" at LSN {lsn}"),
        None => String::new(),
    };
    output::line(format!(
        "branch {label} created{at}, id {}",
        made.timeline_id
    ))?;
    Ok(output::line(format!(
        "look at it with: pagectl psql {label}"
    ))?)
}
