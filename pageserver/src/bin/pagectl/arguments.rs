//! The command line and its help texts.

use crate::moment::Moment;
use crate::rate::Rate;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Works with a pageserver: import a running Postgres, branch it at any moment of its history,
/// and open a Postgres on the branch.
///
/// A first tour:
///
///   pageserver -D data &                                   run a server
///   pagectl import postgres://admin@db1/shop --name shop   follow a Postgres
///   pagectl branch shop/main before --at '10m ago'         branch it as it was
///   pagectl psql shop/before                               look at the branch
///   pagectl stop shop/before                               stop the local Postgres
///
/// A BRANCH is written TENANT/BRANCH, or BRANCH alone if no other tenant has one of that name;
/// ids of 32 hex digits do as well. An unnamed timeline without ancestor is called main.
#[derive(Parser, Debug)]
#[command(
    name = "pagectl",
    version,
    verbatim_doc_comment,
    disable_help_subcommand = true
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// Management API of the pageserver.
    #[arg(
        long,
        global = true,
        env = "PAGESERVER_HTTP",
        value_name = "URL",
        default_value = "http://127.0.0.1:9898"
    )]
    pub server: String,
    /// Page service of the pageserver, for downloads.
    #[arg(
        long,
        global = true,
        env = "PAGESERVER_PG",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:64000"
    )]
    pub pages: String,
    /// Print JSON objects of the API instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show the server and all branches on it.
    Status,
    /// List, create, measure or delete tenants: groups of branches that share history.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// List, create, archive, detach or delete timelines: branches.
    #[command(subcommand)]
    Timeline(TimelineCommand),
    Branch(Branch),
    Import(Import),
    Export(Export),
    Start(Start),
    Stop(Stop),
    Psql(Psql),
    Layers(Layers),
    Scrub(Scrub),
    Evict(Evict),
    LsnAt(LsnAt),
}

#[derive(Subcommand, Debug)]
pub enum TenantCommand {
    /// List tenants.
    List,
    Create(TenantCreate),
    Size(TenantSize),
    Delete(TenantDelete),
}

/// Create an empty tenant. `pagectl import` makes one by itself.
///
///   pagectl tenant create --name shop
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TenantCreate {
    /// Name to call it by.
    #[arg(long)]
    pub name: Option<String>,
}

/// Say what a tenant costs: its synthetic size, one number for data, history and branches.
///
///   pagectl tenant size shop
///   pagectl tenant size shop --retention 1073741824
///
/// The first time it reads the sizes of all relations at every branch point.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TenantSize {
    /// Name or id.
    pub tenant: String,
    /// Count at most this many bytes of WAL of each branch as history
    #[arg(long, value_name = "BYTES")]
    pub retention: Option<u64>,
}

/// Delete a tenant with all its branches and all their data.
///
///   pagectl tenant delete shop
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TenantDelete {
    /// Name or id.
    pub tenant: String,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Subcommand, Debug)]
pub enum TimelineCommand {
    List(TimelineList),
    Create(TimelineCreate),
    Archive(TimelineArchive),
    Unarchive(TimelineUnarchive),
    DetachAncestor(DetachAncestor),
    Delete(TimelineDelete),
}

/// List branches.
///
///   pagectl timeline list          of all tenants
///   pagectl timeline list shop     of one
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TimelineList {
    /// Name or id of a tenant; all tenants if left out.
    pub tenant: Option<String>,
}

/// Create a timeline. `pagectl branch` does the same with less typing.
///
///   pagectl timeline create shop --ancestor main --at 0/16B9188 --name test
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TimelineCreate {
    /// Name or id of the tenant.
    pub tenant: String,
    /// Name to call it by.
    #[arg(long)]
    pub name: Option<String>,
    /// Branch of the same tenant to start from.
    #[arg(long, value_name = "BRANCH")]
    pub ancestor: Option<String>,
    /// LSN or time to branch at; the newest if left out.
    #[arg(long, value_name = "LSN|TIMESTAMP", requires = "ancestor")]
    pub at: Option<Moment>,
}

/// Put a branch out of use: it is kept, but no longer counts in the tenant's size. Branches made from
/// it must be archived first.
///
///   pagectl timeline archive shop/test
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TimelineArchive {
    /// The branch.
    pub branch: String,
}

/// Take an archived branch back into use.
///
///   pagectl timeline unarchive shop/test
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TimelineUnarchive {
    /// The branch.
    pub branch: String,
}

/// Make a branch independent of the branch it was made from, with a copy of its history.
///
///   pagectl timeline detach-ancestor shop/test
///
/// Branches that were made from the same one earlier move along and become branches of this one. After
/// a failure the same command goes on where it ended.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct DetachAncestor {
    /// The branch.
    pub branch: String,
    /// Detach from several levels, all of which left each other at one point; nothing moves along.
    #[arg(long)]
    pub several: bool,
}

/// Delete a branch and its data. Branches made from it must be deleted first.
///
///   pagectl timeline delete shop/test
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct TimelineDelete {
    /// The branch.
    pub branch: String,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// Branch a database of any size in an instant, as it is or as it was.
///
///   pagectl branch shop/main                                     now, named main-1
///   pagectl branch shop/main test                                now
///   pagectl branch shop/main test --at '10m ago'
///   pagectl branch shop/main test --at '2026-11-20 12:34:56.789+01'
///   pagectl branch shop/main test --at 2026-11-20T11:34:56Z
///   pagectl branch shop/main test --at 0/16B9188
///
/// Times without an offset are UTC. The branch holds the transactions that had committed by then.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Branch {
    /// The branch to start from.
    pub src: String,
    /// Name of the new branch; SRC-1, SRC-2, … if left out.
    pub name: Option<String>,
    /// LSN or time to branch at; the newest if left out.
    #[arg(long, value_name = "LSN|TIMESTAMP")]
    pub at: Option<Moment>,
}

/// Import a running Postgres 14 to 18 and follow it from then on.
///
///   pagectl import postgres://admin:secret@db1/shop --name shop
///   PGPASSWORD=secret pagectl import postgres://admin@db1/shop --max-rate 20M
///
/// The role must be a superuser or have REPLICATION. Ctrl-C cancels, and waits until nothing is
/// left of it here and there. The pageserver connects, so name the host as it sees it.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Import {
    /// Where it is: postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?sslmode=…], or key=value pairs.
    /// A missing password is taken from PGPASSWORD.
    pub connstr: String,
    /// Name of the new tenant; the imported branch is main in it.
    #[arg(long, conflicts_with = "tenant")]
    pub name: Option<String>,
    /// Import into this tenant instead of a new one.
    #[arg(long)]
    pub tenant: Option<String>,
    /// Transfer at most this many bytes a second, such as 20M; plain numbers are KiB.
    #[arg(long, value_name = "RATE")]
    pub max_rate: Option<Rate>,
}

/// Download a branch as a data directory that an ordinary Postgres starts on.
///
///   pagectl export shop/main --to /srv/restore
///   pagectl export shop/main --to /srv/restore --at '2026-11-20 12:34:56'
///   pg_ctl -D /srv/restore start
///
/// DIR must be empty or not exist yet. After a failure nothing is left in it.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Export {
    /// The branch.
    pub branch: String,
    /// Directory to fill.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// LSN or time of the data; the newest if left out.
    #[arg(long, value_name = "LSN|TIMESTAMP")]
    pub at: Option<Moment>,
    /// Do not wait until everything is safely on disk.
    #[arg(long)]
    pub no_sync: bool,
}

/// What a local server is started with.
#[derive(Args, Debug, Clone)]
pub struct ServerOptions {
    /// LSN or time of the data; the newest if left out.
    #[arg(long, value_name = "LSN|TIMESTAMP")]
    pub at: Option<Moment>,
    /// Data directory; by default ~/.local/share/pagectl/TENANT/BRANCH, for root under /var/lib.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// TCP port on 127.0.0.1; the first free one from 5433 on if left out.
    #[arg(long)]
    pub port: Option<u16>,
    /// Directory of the server programs, if they are not found by themselves.
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Throw an earlier local copy of the branch away first.
    #[arg(long)]
    pub fresh: bool,
}

/// Start a local Postgres on a copy of a branch.
///
///   pagectl start shop/test
///   pagectl start shop/main --at '10m ago' --to /tmp/then --port 5555
///   pagectl stop shop/test
///
/// What you change there stays there: the branch on the pageserver is not touched. A copy that was
/// stopped is started again as it was left; --fresh downloads it anew. The programs of the branch's
/// major version are looked for in --pg-bin, PAGESERVER_PG_DIR/<major>/bin, PATH,
/// /usr/lib/postgresql/<major>/bin and the cache of downloaded servers. As root, the server runs
/// as postgres or nobody. Logical replication workers and archiving are off in the copy.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Start {
    /// The branch.
    pub branch: String,
    #[command(flatten)]
    pub options: ServerOptions,
}

/// Stop the local Postgres of a branch.
///
///   pagectl stop shop/test
///   pagectl stop shop/test --remove
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Stop {
    /// The branch.
    pub branch: String,
    /// Also delete its local data directory.
    #[arg(long)]
    pub remove: bool,
}

/// Open psql on a branch, starting a local Postgres if none runs.
///
///   pagectl psql shop/test
///   pagectl psql shop/test -- -d orders -c 'select count(*) from item'
///
/// The server goes on running afterwards; `pagectl stop` ends it.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Psql {
    /// The branch.
    pub branch: String,
    #[command(flatten)]
    pub options: ServerOptions,
    /// Arguments for psql.
    #[arg(last = true, value_name = "PSQL ARGUMENTS")]
    pub arguments: Vec<String>,
}

/// List the layers a branch consists of, without those of its ancestors.
#[derive(Args, Debug)]
pub struct Layers {
    /// The branch.
    pub branch: String,
}

/// Read all layers of a branch, on disk and in the bucket, and repair one copy from the other.
///
/// Every byte is compared with the digests that were taken when the layers were written. Exit code 1
/// if some layer has no good copy. Layers of ancestors are scrubbed with their own branches.
#[derive(Args, Debug)]
pub struct Scrub {
    /// The branch.
    pub branch: String,
    /// Leave the bucket alone
    #[arg(long, conflicts_with = "bucket_only")]
    pub local_only: bool,
    /// Leave local files alone
    #[arg(long)]
    pub bucket_only: bool,
    /// Most MiB to read in a second; 100 by default
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
}

/// Remove the layers of a branch from local disk; they stay in the bucket.
///
/// Reads fetch again what they need. Layers that are not in the bucket yet stay, and those of ancestors.
#[derive(Args, Debug)]
pub struct Evict {
    /// The branch.
    pub branch: String,
}

/// Say which LSN a branch had at a time.
///
///   pagectl lsn-at shop/main '10m ago'
///   pagectl lsn-at shop/main 2026-11-20T12:34:56Z
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct LsnAt {
    /// The branch.
    pub branch: String,
    /// The time.
    #[arg(value_name = "TIMESTAMP")]
    pub time: Moment,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_wrong_time_is_wrong_usage() {
        let e = Arguments::try_parse_from(["pagectl", "branch", "a", "--at", "yesteryear"]);
        assert_eq!(e.unwrap_err().exit_code(), 2);
    }

    #[test]
    fn arguments_behind_two_dashes_are_for_psql() {
        let a = Arguments::try_parse_from(["pagectl", "psql", "b", "--port", "1", "--", "-c", "x"]);
        let Command::Psql(psql) = a.unwrap().command else {
            panic!("not psql")
        };
        assert_eq!(psql.options.port, Some(1));
        assert_eq!(psql.arguments, ["-c", "x"]);
    }

    #[test]
    fn help_teaches_with_examples() {
        let mut command = Arguments::command();
        for name in [
            "branch", "import", "export", "start", "stop", "psql", "lsn-at",
        ] {
            let sub = command.find_subcommand_mut(name).unwrap();
            let help = sub.render_long_help().to_string();
            assert!(
                help.contains(&format!("\n  pagectl {name} ")) || name == "import",
                "{help}"
            );
        }
    }
}
