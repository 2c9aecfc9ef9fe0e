//! `pagectl`: the pageserver's command line for people.
//!
//! Drives the management API for everything but data, which it downloads over the page service.
//! Tables on standard output, or the API's own objects with `--json`; progress, notes and errors on
//! standard error. Exit code 0, 1 for a failure, 2 for wrong usage. Nothing here keeps state
//! but [`local`], which remembers the servers it started.
//!
//! `docs/pagectl.md` is the manual.

#![expect(clippy::disallowed_methods, reason = "a command-line program")]

mod arguments;
mod at;
mod branch;
mod catalog;
mod evict;
mod export;
mod import;
mod interrupt;
mod layers;
mod local;
mod lsn_at;
mod moment;
mod output;
mod psql;
mod rate;
mod scrub;
mod session;
mod start;
mod status;
mod stop;
mod table;
mod tenant;
mod timeline;
mod unpack;

use api_client::model::Archival;
use arguments::{Arguments, Command, TenantCommand, TimelineCommand};
use clap::Parser;
use session::Session;
use std::io::ErrorKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("pagectl: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(run(arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if reader_left(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pagectl: {}", output::chain(&e));
            if let Some(hint) = hint(&e) {
                eprintln!("{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let session = Session::new(&arguments.global);
    match arguments.command {
        Command::Status => status::run(&session).await,
        Command::Tenant(TenantCommand::List) => tenant::list(&session).await,
        Command::Tenant(TenantCommand::Create(a)) => tenant::create(&session, &a).await,
        Command::Tenant(TenantCommand::Size(a)) => tenant::size(&session, &a).await,
        Command::Tenant(TenantCommand::Delete(a)) => tenant::delete(&session, &a).await,
        Command::Timeline(TimelineCommand::List(a)) => timeline::list(&session, &a).await,
        Command::Timeline(TimelineCommand::Create(a)) => timeline::create(&session, &a).await,
        Command::Timeline(TimelineCommand::Archive(a)) => {
            timeline::set_archived(&session, &a.branch, Archival::Archived).await
        }
        Command::Timeline(TimelineCommand::Unarchive(a)) => {
            timeline::set_archived(&session, &a.branch, Archival::Unarchived).await
        }
        Command::Timeline(TimelineCommand::DetachAncestor(a)) => {
            timeline::detach_ancestor(&session, &a).await
        }
        Command::Timeline(TimelineCommand::Delete(a)) => timeline::delete(&session, &a).await,
        Command::Branch(a) => branch::run(&session, &a).await,
        Command::Import(a) => import::run(&session, &a).await,
        Command::Export(a) => export::run(&session, &a).await,
        Command::Start(a) => start::run(&session, &a).await,
        Command::Stop(a) => stop::run(&session, &a).await,
        Command::Psql(a) => psql::run(&session, &a).await,
        Command::Layers(a) => layers::run(&session, &a).await,
        Command::Scrub(a) => scrub::run(&session, &a).await,
        Command::Evict(a) => evict::run(&session, &a).await,
        Command::LsnAt(a) => lsn_at::run(&session, &a).await,
    }
}

/// True if whoever read our output, such as `head`, has enough.
fn reader_left(e: &anyhow::Error) -> bool {
    e.downcast_ref::<output::Error>()
        .is_some_and(|e| e.0.kind() == ErrorKind::BrokenPipe)
}

fn hint(e: &anyhow::Error) -> Option<&'static str> {
    match e.downcast_ref::<api_client::Error>() {
        Some(api_client::Error::Connection { .. }) => Some(
            "Start a server with `pageserver -D DIR`, or say where it is with --server or PAGESERVER_HTTP.",
        ),
        _ => None,
    }
}
