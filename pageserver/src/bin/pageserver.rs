//! The daemon's command line.

#![expect(clippy::disallowed_methods, reason = "the program itself")]

use anyhow::Context;
use clap::Parser;
use pageserver::config::{Config, LogFormat};
use pageserver::daemon;
use std::io::IsTerminal;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Storage for Postgres: keeps every page readable at every moment of its history.
///
/// On an empty directory it writes a default configuration and runs: data in DIR/bucket, HTTP on
/// 127.0.0.1:9898, page service on 127.0.0.1:64000. Then, to follow a running Postgres:
///
///   pagectl import postgres://user@host/db
#[derive(Parser)]
#[command(version, about, verbatim_doc_comment)]
struct Args {
    /// Working directory; created if missing.
    #[arg(
        short = 'D',
        long = "workdir",
        value_name = "DIR",
        default_value = ".neon"
    )]
    workdir: PathBuf,
    /// Overrides a key of pageserver.toml for this run, such as -c listen_http_addr=127.0.0.1:9000.
    #[arg(short = 'c', value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.workdir)
        .with_context(|| format!("cannot create {}", args.workdir.display()))?;
    let dir = args
        .workdir
        .canonicalize()
        .with_context(|| format!("cannot use {}", args.workdir.display()))?;
    let config = Config::load(&dir, &args.overrides)?;
    log(config.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        daemon::run(&dir, config, stop, |http, pages| {
            eprintln!(
                "pageserver: HTTP on {http}, page service on {pages}, data in {}",
                dir.display()
            );
        })
        .await
    })
}

fn log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Plain => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::quit()),
    );
    if let (Ok(mut term), Ok(mut int), Ok(mut quit)) = signals {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = quit.recv() => {}
        }
        stop.cancel();
    }
}
