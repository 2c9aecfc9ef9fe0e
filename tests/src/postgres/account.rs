//! The operating-system account that servers run under.

use anyhow::{Context as _, Result};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// An unprivileged account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Whoever runs this process, who is not root.
    Own,
    /// Another user, for a process that runs as root.
    Other {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Account {
    /// `nobody` for root, else the account of this process.
    pub fn unprivileged() -> Result<Account> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::Own);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let fields = passwd
            .lines()
            .map(|l| l.split(':').collect::<Vec<_>>())
            .find(|f| f.first() == Some(&"nobody"))
            .context(
                "there is no user 'nobody' to run Postgres as; run as a user other than root",
            )?;
        let number = |i: usize| {
            fields
                .get(i)
                .and_then(|f| f.parse().ok())
                .context("malformed line in /etc/passwd")
        };
        Ok(Account::Other {
            uid: number(2)?,
            gid: number(3)?,
        })
    }

    /// Makes a command run under this account.
    pub fn apply(self, command: &mut Command) {
        if let Account::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file or directory, not its contents, to this account.
    pub fn own(self, path: &Path) -> Result<()> {
        if let Account::Other { uid, gid } = self {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .with_context(|| format!("giving {} to uid {uid}", path.display()))?;
        }
        Ok(())
    }
}
