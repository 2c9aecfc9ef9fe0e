//! `pagectl start`.

use crate::arguments::{ServerOptions, Start};
use crate::at;
use crate::catalog::Found;
use crate::export::{self, Download};
use crate::local::{self, Account, Home, Programs, Record, Running};
use crate::moment::Moment;
use crate::output;
use crate::session::Session;
use crate::unpack;
use anyhow::{Context as _, Result, bail};
use pg_format::pgdata::SIGNAL_FILES;
use replication::conninfo::Conninfo;
use std::path::{Path, PathBuf};
use types::PgMajor;

/// Starts a local Postgres on a branch and says how to use it.
pub async fn run(session: &Session, arguments: &Start) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let running = ensure(session, &found, &arguments.options).await?;
    if session.json {
        return Ok(output::json(&running.describe())?);
    }
    let Running { record, version } = &running;
    let label = output::plain(&record.branch);
    output::line(format!(
        "{label} at LSN {} is open: Postgres {version} on port {}",
        record.lsn, record.port
    ))?;
    output::line(format!("  connect  {}", record.connstr()))?;
    output::line(format!("  or       pagectl psql {label}"))?;
    output::line(format!("  stop     pagectl stop {label}"))?;
    Ok(output::line(format!(
        "  data     {} (a copy: changes stay there)",
        record.directory.display()
    ))?)
}

/// A running server for a branch: the one that runs, the one that was stopped, or a new one.
pub async fn ensure(
    session: &Session,
    found: &Found<'_>,
    options: &ServerOptions,
) -> Result<Running> {
    let major = PgMajor::try_from(found.timeline.pg_version)?;
    let account = Account::for_servers()?;
    let home = Home::open()?;
    let _alone = home.lock(found.id())?;
    if let Some(record) = home.record(found.id())? {
        let programs = Programs::of(&record, options.pg_bin.as_deref())?;
        let runs = local::is_running(&record, &programs, account)?;
        if !options.fresh {
            let record = reusable(&record, found, options, runs)?;
            return if runs {
                Running::of(record, &programs)
            } else {
                let running = local::start(record, &programs, account, options.port)?;
                home.save(&running.record)?;
                Ok(running)
            };
        }
        if runs {
            local::stop(&record, &programs, account)?;
        }
        home.forget(&record)?;
    }
    let programs = Programs::find(major, options.pg_bin.as_deref())?;
    let directory = match &options.to {
        Some(to) => std::path::absolute(to)?,
        None => home.data_directory(found)?,
    };
    account.check_reach(&directory)?;
    unpack::check_target(&directory)?;
    let lsn = at::readable(session, found, options.at).await?;
    let (user, dbname) = login(found);
    let mut record = Record {
        tenant: found.tenant_id(),
        timeline: found.id(),
        branch: found.label(),
        lsn,
        directory: directory.clone(),
        bin: programs.bin().to_owned(),
        port: 0,
        user,
        dbname,
        complete: false,
    };
    // Known from the first byte on, so that it can be removed whatever happens.
    home.save(&record)?;
    if let Err(e) = download(session, found, &record, account).await {
        home.unrecord(&record)?;
        return Err(e);
    }
    record.complete = true;
    home.save(&record)?;
    let running = local::start(record, &programs, account, options.port).with_context(|| {
        format!(
            "the data stays in {} for a look; `pagectl stop --remove {}` deletes it",
            directory.display(),
            found.label()
        )
    })?;
    home.save(&running.record)?;
    Ok(running)
}

async fn download(
    session: &Session,
    found: &Found<'_>,
    record: &Record,
    account: Account,
) -> Result<()> {
    let job = Download {
        to: record.directory.clone(),
        lsn: record.lsn,
        owner: account.owner(),
        sync: false,
    };
    job.run(session, found).await?;
    if SIGNAL_FILES
        .iter()
        .any(|f| record.directory.join(f).exists())
    {
        export::remove(&record.directory)?;
        bail!(
            "{} was written by a Neon compute; an ordinary Postgres cannot start on it",
            found.label()
        );
    }
    Ok(())
}

/// A local copy, if it is what was asked for.
fn reusable(
    record: &Record,
    found: &Found<'_>,
    options: &ServerOptions,
    runs: bool,
) -> Result<Record> {
    let label = found.label();
    let state = if runs { "runs" } else { "exists" };
    let other = match (options.at, &options.to, options.port) {
        (Some(Moment::Lsn(lsn)), _, _) if lsn == record.lsn => None,
        (Some(_), _, _) => Some(format!("at LSN {}", record.lsn)),
        (_, Some(to), _) if std::path::absolute(to)? != record.directory => {
            Some(format!("in {}", record.directory.display()))
        }
        (_, _, Some(port)) if runs && port != record.port => {
            Some(format!("on port {}", record.port))
        }
        _ => None,
    };
    if let Some(how) = other {
        bail!(
            "a local copy of {label} {state} already {how}; use it without that option, throw it away with --fresh, or branch first and start the branch"
        );
    }
    if !runs {
        eprintln!(
            "starting the local copy of {label} made at LSN {}, as it was left; --fresh makes a new one",
            record.lsn
        );
    }
    let mut record = record.clone();
    record.branch = label;
    Ok(record)
}

/// Role and database that are known to exist: those that the history was imported with.
fn login(found: &Found<'_>) -> (String, String) {
    match found.source().map(str::parse::<Conninfo>) {
        Some(Ok(c)) => (c.user, c.dbname),
        _ => ("postgres".to_owned(), "postgres".to_owned()),
    }
}

/// The record of a branch's server, if it has one, and its programs.
pub fn known(home: &Home, found: &Found<'_>) -> Result<(Record, Programs)> {
    let record = home.record(found.id())?.with_context(|| {
        format!(
            "{} has no local server; start one with: pagectl start {}",
            found.label(),
            found.label()
        )
    })?;
    let programs = Programs::of(&record, None::<&Path>)?;
    Ok((record, programs))
}

/// Directories in which a client program may be, the best first.
pub fn client_directories(programs: &Programs) -> Vec<PathBuf> {
    let mut all = vec![programs.bin().to_owned()];
    all.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let debian = PgMajor::ALL
        .iter()
        .rev()
        .map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin")));
    all.extend(debian);
    all
}
