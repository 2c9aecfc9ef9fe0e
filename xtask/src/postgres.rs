//! `cargo xtask postgres`.

use anyhow::Result;
use tests::postgres::{Install, ensure_client_tools};
use types::PgMajor;

/// Which server.
#[derive(clap::Args)]
pub struct Arguments {
    /// Major version, 14 to 18
    major: u32,
    /// Also list the extensions that can be created on it
    #[arg(long)]
    extensions: bool,
}

/// Prints the directory of `initdb` and `postgres`; what else there is to say goes to stderr.
pub fn run(arguments: &Arguments) -> Result<()> {
    let install = Install::find(PgMajor::try_from(arguments.major)?)?;
    if let Err(e) = ensure_client_tools() {
        eprintln!("note: {e}");
    }
    eprintln!("Postgres {} ({:?})", install.version()?, install.origin);
    println!("{}", install.bin.display());
    if arguments.extensions {
        println!("{}", install.extensions()?.join(" "));
    }
    Ok(())
}
