//! `pagectl import`.

use crate::arguments::Import;
use crate::interrupt::{self, Interrupted};
use crate::output;
use crate::session::Session;
use crate::tenant::check_new_name;
use anyhow::{Context as _, Result, bail};
use api_client::model::{ImportCreate, ImportStarted, ImportStatus};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use replication::conninfo::Conninfo;
use std::io::IsTerminal;
use std::pin::pin;
use std::time::Duration;
use types::TenantShardId;

/// Between two looks at the progress.
const POLL: Duration = Duration::from_millis(200);
/// Looks in a row that may fail before we give up watching.
const MAX_LOST: u32 = 25;

/// Imports, shows how far it is, and waits for the end.
pub async fn run(session: &Session, arguments: &Import) -> Result<()> {
    let request = request(session, arguments).await?;
    let started = session.client.import(&request).await?;
    let mut view = View::new();
    let outcome = watch(session, &started, &mut view).await;
    view.bar.finish_and_clear();
    outcome?;
    let id = TenantShardId::unsharded(started.tenant_id);
    let timeline = session.client.timeline(id, started.timeline_id).await?;
    if session.json {
        return Ok(output::json(&timeline)?);
    }
    let catalog = session.catalog_for(&format!("{id}/")).await?;
    let found = catalog.branch(&format!("{id}/{}", started.timeline_id))?;
    let label = found.label();
    output::line(format!(
        "{label} imported: Postgres {}, readable from LSN {}, following {}",
        timeline.pg_version,
        timeline.min_readable_lsn,
        timeline
            .wal_source_connstr
            .as_deref()
            .unwrap_or("its source"),
    ))?;
    output::line(format!("  tenant    {}", started.tenant_id))?;
    output::line(format!("  timeline  {}", started.timeline_id))?;
    Ok(output::line(format!(
        "branch it with: pagectl branch {label} NAME [--at '10m ago']"
    ))?)
}

async fn request(session: &Session, arguments: &Import) -> Result<ImportCreate> {
    let mut conninfo: Conninfo = arguments.connstr.parse()?;
    let mut connstr = arguments.connstr.clone();
    if conninfo.password.is_none() {
        conninfo.password = std::env::var("PGPASSWORD").ok().filter(|p| !p.is_empty());
        if conninfo.password.is_some() {
            connstr = conninfo.to_url_with_password();
        }
    }
    if let Some(name) = &arguments.name {
        check_new_name(session, name).await?;
    }
    let tenant_id = match &arguments.tenant {
        None => None,
        Some(text) => Some(session.tenants().await?.tenant(text)?.info.id.tenant),
    };
    Ok(ImportCreate {
        connstr,
        tenant_id,
        timeline_id: None,
        name: arguments.name.clone(),
        max_rate: arguments.max_rate.map(|r| r.0),
    })
}

/// Waits until the import is over; Ctrl-C cancels it, a second one stops waiting.
async fn watch(session: &Session, started: &ImportStarted, view: &mut View) -> Result<()> {
    let mut cancelled = false;
    let mut lost = 0;
    let mut interrupt = pin!(interrupt::wait());
    loop {
        match session.client.import_status(started).await {
            Ok(status) => {
                lost = 0;
                view.show(&status);
                match status.phase.as_str() {
                    "done" if cancelled => bail!(
                        "the import was complete before it could be cancelled; it is timeline {}",
                        started.timeline_id
                    ),
                    "done" => return Ok(()),
                    "failed" if cancelled => {
                        bail!("the import was cancelled; nothing is left of it")
                    }
                    "failed" => {
                        bail!("{}", status.error.as_deref().unwrap_or("the import failed"))
                    }
                    _ => {}
                }
            }
            Err(e) if e.status().is_none() && lost < MAX_LOST => lost += 1,
            Err(e) => return Err(e).context("the import may go on; look with `pagectl status`"),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = &mut interrupt => {
                if cancelled {
                    return Err(Interrupted).context("the server goes on cleaning up by itself");
                }
                cancelled = true;
                interrupt.set(interrupt::wait());
                view.say("cancelling, please wait");
                session.client.cancel_import(started).await.context("cannot cancel the import")?;
            }
        }
    }
}

/// What the user sees.
struct View {
    bar: ProgressBar,
    phase: String,
    warnings: usize,
    terminal: bool,
}

impl View {
    fn new() -> View {
        let bar = ProgressBar::no_length();
        bar.enable_steady_tick(Duration::from_millis(120));
        View {
            bar,
            phase: String::new(),
            warnings: 0,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn say(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    fn show(&mut self, status: &ImportStatus) {
        for warning in status.warnings.iter().skip(self.warnings) {
            self.say(&format!("warning: {}", output::plain(warning)));
        }
        self.warnings = status.warnings.len();
        if self.phase != status.phase {
            self.phase.clone_from(&status.phase);
            let text = describe(&status.phase);
            self.bar.set_style(style(&status.phase));
            self.bar.set_message(text.clone());
            if status.phase == "backup" {
                self.bar.reset();
            }
            // How it ended is said by whoever watches.
            if !self.terminal && !matches!(status.phase.as_str(), "done" | "failed") {
                eprintln!("{text}");
            }
        }
        if status.phase == "backup" {
            // The server's estimate may be too low.
            let total = status.bytes_total.max(status.bytes_done);
            if total > 0 {
                self.bar.set_length(total);
            }
            self.bar.set_position(status.bytes_done);
        } else if status.phase == "done" && !self.terminal {
            eprintln!("{} copied", HumanBytes(status.bytes_done));
        }
    }
}

fn describe(phase: &str) -> String {
    match phase {
        "checking" => "checking the server",
        "backup" => "copying files",
        "wal" => "fetching WAL",
        "upload" => "uploading to the bucket",
        "undoing" => "cleaning up",
        other => other,
    }
    .to_owned()
}

fn style(phase: &str) -> ProgressStyle {
    let template = if phase == "backup" {
        "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}"
    } else {
        "{spinner} {msg} {elapsed}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_are_well_formed() {
        for template in [
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
            "{spinner} {msg} {elapsed}",
        ] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
