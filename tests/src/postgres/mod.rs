//! Real, unmodified Postgres servers for tests and demos.
//!
//! [`Install::find`] finds the binaries of a major version on this machine or downloads pinned
//! ones; [`Cluster`] is one running server with a data directory of its own, removed on drop.
//! Servers never run as root: a root process starts them as `nobody`.

mod account;
mod cluster;
mod download;
mod install;
mod tools;

pub use account::Account;
pub use cluster::{Cluster, Options, Shutdown, Table, rows};
pub use download::Pinned;
pub use install::{Install, Origin};
pub use tools::{ensure_client_tools, find_tool};

/// Runs an async test body against a server of each supported major version, one after the other,
/// and names the version in the error.
pub async fn for_each_major<F>(test: impl Fn(types::PgMajor) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    use anyhow::Context as _;
    for major in types::PgMajor::ALL {
        test(major)
            .await
            .with_context(|| format!("on Postgres {major}"))?;
    }
    Ok(())
}
