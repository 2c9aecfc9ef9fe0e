//! `pagectl psql`.

use crate::arguments::Psql;
use crate::session::Session;
use crate::start;
use anyhow::{Context as _, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Opens psql on a branch; replaces this process.
pub async fn run(session: &Session, arguments: &Psql) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let running = start::ensure(session, &found, &arguments.options).await?;
    let programs = running.programs()?;
    let psql = start::client_directories(&programs)
        .into_iter()
        .map(|d| d.join("psql"))
        .find(|p| p.is_file());
    let record = &running.record;
    let psql = psql.with_context(|| {
        format!(
            "psql is not installed here; the server runs, connect to {}",
            record.connstr()
        )
    })?;
    let mut command = Command::new(psql);
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", record.port.to_string())
        .env("PGUSER", &record.user)
        .env("PGDATABASE", &record.dbname)
        .env_remove("PGSERVICE")
        .env_remove("PGHOSTADDR")
        .args(&arguments.arguments);
    let e = command.exec();
    bail!("cannot run psql: {e}")
}
