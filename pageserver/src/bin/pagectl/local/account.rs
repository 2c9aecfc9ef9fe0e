//! The operating-system account of local servers, which refuse to run as root.

use crate::unpack::Owner;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Users to run a server as when we are root, in order.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Who runs a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Account {
    /// We.
    Own,
    /// Somebody else, because we are root.
    Other(Owner),
}

impl Account {
    /// Ourselves, or `postgres` or `nobody` if we are root.
    pub fn for_servers() -> Result<Account> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::Own);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        choose(&passwd)
            .map(Account::Other)
            .context("Postgres does not run as root, and there is neither a user postgres nor a user nobody; run pagectl as an ordinary user")
    }

    /// Who is to own the server's files, if not we.
    pub fn owner(self) -> Option<Owner> {
        match self {
            Account::Own => None,
            Account::Other(owner) => Some(owner),
        }
    }

    /// Makes a command run under it, in a directory that it can enter.
    pub fn apply(self, command: &mut Command) {
        if let Account::Other(Owner { uid, gid }) = self {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/");
    }

    /// Gives it a file.
    pub fn own(self, path: &Path) -> Result<()> {
        if let Account::Other(Owner { uid, gid }) = self {
            chown(path, Some(uid), Some(gid))
                .with_context(|| format!("cannot change the owner of {}", path.display()))?;
        }
        Ok(())
    }

    /// Fails if it cannot get to a directory because one above it is closed to it.
    pub fn check_reach(self, directory: &Path) -> Result<()> {
        let Account::Other(Owner { uid, gid }) = self else {
            return Ok(());
        };
        for above in directory.ancestors().skip(1) {
            let Ok(m) = fs::metadata(above) else { continue };
            let needed = if m.uid() == uid {
                0o100
            } else if m.gid() == gid {
                0o010
            } else {
                0o001
            };
            if m.mode() & needed == 0 {
                bail!(
                    "the server will run as user {uid}, who cannot enter {}; choose another directory with --to",
                    above.display()
                );
            }
        }
        Ok(())
    }
}

fn choose(passwd: &str) -> Option<Owner> {
    USERS.iter().find_map(|user| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let named = fields.next() == Some(user);
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            named.then_some(Owner { uid, gid })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn postgres_is_preferred_to_nobody() {
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        let owner = |uid, gid| Some(Owner { uid, gid });
        assert_eq!(choose(nobody), owner(65534, 65533));
        assert_eq!(
            choose(&format!("{nobody}postgres:x:70:71::/:/x")),
            owner(70, 71)
        );
        assert_eq!(choose("postgres:x:bad:1::/:/x\n"), None);
        assert_eq!(choose(""), None);
    }

    #[test]
    fn a_closed_directory_above_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        let account = Account::Other(Owner {
            uid: 4_000_000,
            gid: 4_000_000,
        });
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(account.check_reach(&closed.join("data")).is_err());
        assert!(Account::Own.check_reach(&closed.join("data")).is_ok());
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
        assert!(account.check_reach(&closed.join("not/there")).is_ok());
    }
}
