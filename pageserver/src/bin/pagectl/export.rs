//! `pagectl export`, and the download that a local server starts from.

use crate::arguments::Export;
use crate::at;
use crate::catalog::Found;
use crate::interrupt::{self, Interrupted};
use crate::output;
use crate::session::Session;
use crate::unpack::{Owner, Summary, Unpacker};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use page_protocol::client::{Connection, Form, Options};
use page_protocol::command::FullBackup;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use types::Lsn;

/// Pieces of the archive between the network and the disk.
const QUEUE: usize = 64;
/// Wait for the connection to the page service.
const CONNECT: Duration = Duration::from_secs(10);

/// Downloads a branch.
pub async fn run(session: &Session, arguments: &Export) -> Result<()> {
    let catalog = session.catalog_for(&arguments.branch).await?;
    let found = catalog.branch(&arguments.branch)?;
    let lsn = at::readable(session, &found, arguments.at).await?;
    let to = std::path::absolute(&arguments.to)?;
    let job = Download {
        to: to.clone(),
        lsn,
        owner: None,
        sync: !arguments.no_sync,
    };
    let summary = job.run(session, &found).await?;
    if session.json {
        return Ok(output::json(&json!({
            "tenant_id": found.tenant_id(), "timeline_id": found.id(), "lsn": lsn,
            "directory": to, "files": summary.files, "bytes": summary.bytes,
        }))?);
    }
    Ok(output::line(format!(
        "{} at LSN {lsn} exported to {}: {} files, {}; start it with Postgres {}",
        found.label(),
        to.display(),
        summary.files,
        HumanBytes(summary.bytes),
        found.timeline.pg_version
    ))?)
}

/// A full backup to take.
#[derive(Clone, Debug)]
pub struct Download {
    /// Directory to fill: empty or not there.
    pub to: PathBuf,
    /// As of this position.
    pub lsn: Lsn,
    /// Who is to own the files, if not this process's user.
    pub owner: Option<Owner>,
    /// Wait until everything is on disk.
    pub sync: bool,
}

/// What the network hands to the disk.
enum Piece {
    Data(Bytes),
    /// The server said that this was all.
    End,
}

impl Download {
    /// Streams the backup into the directory, which is removed again on any failure and on Ctrl-C.
    pub async fn run(&self, session: &Session, found: &Found<'_>) -> Result<Summary> {
        let size = found.timeline.current_logical_size;
        let bar = bar(size, &format!("downloading {}", found.label()));
        let unpacker = Unpacker::new(&self.to, self.owner)?;
        let (pieces, queue) = mpsc::channel(QUEUE);
        let (sync, shown) = (self.sync, bar.clone());
        let disk = tokio::task::spawn_blocking(move || unpack(unpacker, queue, sync, &shown));
        let fed = tokio::select! {
            fed = self.feed(session, found, &pieces, &bar) => fed,
            () = interrupt::wait() => Err(Interrupted.into()),
        };
        drop(pieces);
        let unpacked = disk.await.context("unpacking")?;
        bar.finish_and_clear();
        match (fed, unpacked) {
            (Ok(()), Ok(summary)) => Ok(summary),
            // If the disk failed first, the network noticed only that nobody listens.
            (Err(e), Err(u)) if e.is::<Hangup>() => Err(u),
            (Err(e), _) => Err(e.context(format!(
                "{} was not exported and {} is as it was before",
                found.label(),
                self.to.display()
            ))),
            (Ok(()), Err(e)) => Err(e),
        }
    }

    async fn feed(
        &self,
        session: &Session,
        found: &Found<'_>,
        pieces: &mpsc::Sender<Piece>,
        bar: &ProgressBar,
    ) -> Result<()> {
        let mut connection = connect(&session.pages).await?;
        let command = FullBackup {
            tenant: found.tenant_id().tenant,
            timeline: found.id(),
            lsn: Some(self.lsn),
            prev_lsn: None,
        };
        let mut stream = connection.full_backup(&command, Form::Simple).await?;
        while let Some(chunk) = stream.chunk().await? {
            bar.inc(chunk.len() as u64);
            if bar.length().is_some_and(|l| l < bar.position()) {
                bar.set_length(bar.position());
            }
            pieces.send(Piece::Data(chunk)).await.map_err(|_| Hangup)?;
        }
        pieces.send(Piece::End).await.map_err(|_| Hangup)?;
        Ok(())
    }
}

/// The unpacker stopped.
#[derive(Debug, thiserror::Error)]
#[error("unpacking failed")]
struct Hangup;

fn unpack(
    mut unpacker: Unpacker,
    mut queue: mpsc::Receiver<Piece>,
    sync: bool,
    bar: &ProgressBar,
) -> Result<Summary> {
    loop {
        match queue.blocking_recv() {
            Some(Piece::Data(bytes)) => unpacker.feed(&bytes)?,
            Some(Piece::End) => {
                if sync {
                    bar.set_message("writing to disk");
                }
                return Ok(unpacker.finish(sync)?);
            }
            None => bail!("the download was cut short"),
        }
    }
}

async fn connect(address: &str) -> Result<Connection<TcpStream>> {
    let options = Options {
        parameters: vec![
            ("user".to_owned(), "pagectl".to_owned()),
            ("application_name".to_owned(), "pagectl".to_owned()),
        ],
        token: None,
    };
    let lost =
        || format!("no page service at {address}; say where it is with --pages or PAGESERVER_PG");
    tokio::time::timeout(CONNECT, Connection::connect(address, &options))
        .await
        .with_context(lost)?
        .with_context(lost)
}

fn bar(size: u64, text: &str) -> ProgressBar {
    let (bar, template) = if size > 0 {
        let template = "{msg} [{bar:30}] {bytes}/~{total_bytes} {bytes_per_sec} ETA {eta}";
        (ProgressBar::new(size), template)
    } else {
        let template = "{spinner} {msg} {bytes} {bytes_per_sec}";
        (ProgressBar::no_length(), template)
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(output::plain(text));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Removes a downloaded directory.
pub fn remove(directory: &Path) -> Result<()> {
    std::fs::remove_dir_all(directory)
        .with_context(|| format!("cannot remove {}", directory.display()))
}
