//! The directory of a demo, what runs in it, and its end.
//!
//! Everything is below one directory that belongs to the user; under root, other accounts may pass
//! through it, since Postgres runs as one of them. What runs is found through the files that the
//! programs leave there, so a later process can end it. A process is signalled only if its command
//! line names the directory: process ids are used again.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Wait for a process to end by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Time for programs that got the same Ctrl-C to end.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Ports looked at behind the preferred one.
const PORTS: u16 = 500;
/// Name of a directory that was made here.
const PREFIX: &str = "pageserver-demo-";

/// A demo's directory.
pub struct Site(PathBuf);

impl Site {
    /// A new directory with a name of its own.
    pub fn temporary() -> Result<Site> {
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(base()?)?;
        let site = Site(directory.keep());
        fs::set_permissions(&site.0, Permissions::from_mode(0o711))?;
        Ok(site)
    }

    /// The directory that `--stop` finds again.
    pub fn permanent() -> Result<Site> {
        let site = Site::known()?;
        match DirBuilder::new().mode(0o711).create(&site.0) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => bail!(
                "{} has an earlier demo; `cargo xtask demo --stop` ends and deletes it",
                site.0.display()
            ),
            result => result.with_context(|| format!("creating {}", site.0.display()))?,
        }
        Ok(site)
    }

    /// The directory that an earlier demo left.
    pub fn left() -> Result<Site> {
        let site = Site::known()?;
        ensure!(
            fs::symlink_metadata(&site.0).is_ok(),
            "no demo is running; there is no {}",
            site.0.display()
        );
        Ok(site)
    }

    fn known() -> Result<Site> {
        Ok(Site(
            base()?.join(format!("{PREFIX}{}", geteuid().as_raw())),
        ))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Data directory of the primary.
    pub fn primary(&self) -> PathBuf {
        self.0.join("primary/data")
    }

    /// Log of the primary.
    pub fn primary_log(&self) -> PathBuf {
        self.0.join("primary/postgres.log")
    }

    /// Log of the daemon.
    pub fn daemon_log(&self) -> PathBuf {
        self.0.join("pageserver.log")
    }

    /// Where pagectl keeps local servers.
    pub fn pagectl_home(&self) -> PathBuf {
        self.0.join("pagectl")
    }

    /// Variables for the user's shell.
    pub fn environment(&self) -> PathBuf {
        self.0.join("env")
    }

    fn daemon_pid(&self) -> PathBuf {
        self.0.join("pageserver.pid")
    }

    /// Notes the daemon's process id for [`Site::remove`].
    pub fn remember_daemon(&self, pid: u32) -> Result<()> {
        fs::write(self.daemon_pid(), pid.to_string()).context("writing the daemon's process id")
    }

    /// Ends everything that runs here and deletes the directory. Nothing to do is fine.
    pub fn remove(&self) -> Result<()> {
        let directory = &self.0;
        let metadata = match fs::symlink_metadata(directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => result.with_context(|| format!("looking at {}", directory.display()))?,
        };
        let ours = directory
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(PREFIX));
        ensure!(
            ours && metadata.is_dir() && metadata.uid() == geteuid().as_raw(),
            "{} is not a demo of this user; not touching it",
            directory.display()
        );
        let mut ends = Vec::new();
        for data in self.branch_servers() {
            ends.push(self.end_noted(&data.join("postmaster.pid"), &data, Signal::INT));
        }
        // Before the primary, which would wait for it.
        ends.push(self.end_noted(&self.daemon_pid(), directory, Signal::TERM));
        let data = self.primary();
        ends.push(self.end_noted(&data.join("postmaster.pid"), &data, Signal::INT));
        let started = Instant::now();
        // Programs that were interrupted may still be writing.
        while let Err(e) = fs::remove_dir_all(directory) {
            if e.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if started.elapsed() > AFTERMATH {
                return Err(e).with_context(|| format!("deleting {}", directory.display()));
            }
            std::thread::sleep(LOOK);
        }
        ends.into_iter().collect()
    }

    /// Data directories of the servers that pagectl started, also those elsewhere.
    fn branch_servers(&self) -> Vec<PathBuf> {
        let Ok(records) = fs::read_dir(self.pagectl_home().join("servers")) else {
            return Vec::new();
        };
        let files = records
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"));
        files
            .filter_map(|file| {
                let record: serde_json::Value =
                    serde_json::from_slice(&fs::read(file).ok()?).ok()?;
                Some(record.get("directory")?.as_str()?.into())
            })
            .collect()
    }

    /// Ends the process whose id is the first line of a file, if its command line has `mark`.
    fn end_noted(&self, file: &Path, mark: &Path, signal: Signal) -> Result<()> {
        let text = fs::read_to_string(file).unwrap_or_default();
        match text.lines().next().map(|l| l.trim().parse::<u32>()) {
            Some(Ok(pid)) if command_line(pid).contains(&*mark.to_string_lossy()) => {
                end(pid, signal)
            }
            _ => Ok(()),
        }
    }
}

/// Asks a process to end and waits for that; kills it if it does not.
pub fn end(pid: u32, signal: Signal) -> Result<()> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let id = id.with_context(|| format!("{pid} is no process id"))?;
    let name = command_line(pid);
    let started = Instant::now();
    // It may end between any two lines.
    let _ = kill_process(id, signal);
    while !command_line(pid).is_empty() {
        if started.elapsed() > PATIENCE {
            let _ = kill_process(id, Signal::KILL);
            bail!("process {pid} ({name}) did not end in {PATIENCE:?} and was killed");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Words of a process; empty if it has ended, whether its parent took note or not.
fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

/// The first free TCP port on 127.0.0.1 from `first` on.
pub fn free_port(first: u16) -> Result<u16> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..=first.saturating_add(PORTS))
        .find(free)
        .with_context(|| format!("no free TCP port from {first} on"))
}

/// Where demos are: the directory for temporary files, or one that root's servers can enter.
fn base() -> Result<PathBuf> {
    let open = |directory: &PathBuf| {
        !geteuid().is_root()
            || directory
                .ancestors()
                .all(|d| fs::metadata(d).is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
    };
    [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()]
        .into_iter()
        .filter_map(|d| d.canonicalize().ok())
        .find(open)
        .context("no directory for temporary files that an unprivileged Postgres could enter")
}

/// A process that cleans up if this one ends without [`Guard::dismiss`], by Ctrl-C or kill -9.
pub struct Guard(Child);

impl Guard {
    /// Starts it. It has a process group of its own, which Ctrl-C does not reach.
    pub fn post(site: &Site) -> Result<Guard> {
        let guard = Command::new(std::env::current_exe()?)
            .args(["demo", "--guard"])
            .arg(&site.0)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the guard")?;
        Ok(Guard(guard))
    }

    /// Tells it that all is well, and waits until it has gone.
    pub fn dismiss(mut self) -> Result<()> {
        if let Some(mut word) = self.0.stdin.take() {
            word.write_all(b"well\n").context("dismissing the guard")?;
        }
        self.0.wait().context("waiting for the guard")?;
        Ok(())
    }

    /// What the process does.
    pub fn stand(directory: &Path) -> Result<()> {
        let mut word = Vec::new();
        std::io::stdin().read_to_end(&mut word)?;
        if !word.is_empty() {
            return Ok(());
        }
        std::thread::sleep(AFTERMATH);
        Site(directory.to_owned()).remove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(free_port(port).unwrap() > port);
    }

    #[test]
    fn directories_of_others_are_not_deleted() {
        let site = tempfile::tempdir().unwrap();
        let error = Site(site.path().to_owned()).remove().unwrap_err();
        assert!(error.to_string().contains("not touching"), "{error}");
        assert!(site.path().exists());
        Site(site.path().join("pageserver-demo-none"))
            .remove()
            .unwrap();
    }

    #[test]
    fn removal_ends_what_runs_in_the_directory_and_nothing_else() {
        let site = Site::temporary().unwrap();
        let sleeper = |mark: &Path| {
            let child = Command::new("sh")
                .args(["-c", "while :; do sleep 0.1; done", "sh"])
                .arg(mark)
                .spawn()
                .unwrap();
            // The kernel lets us go on before the new program has its command line.
            while !command_line(child.id()).contains(&*mark.to_string_lossy()) {
                std::thread::sleep(LOOK);
            }
            child
        };
        let mut inside = sleeper(&site.0);
        let mut outside = sleeper(Path::new("/elsewhere"));
        site.remember_daemon(inside.id()).unwrap();
        fs::create_dir_all(site.primary()).unwrap();
        let id = format!("{}\n", outside.id());
        fs::write(site.primary().join("postmaster.pid"), id).unwrap();
        site.remove().unwrap();
        assert!(!site.0.exists());
        assert!(!inside.wait().unwrap().success());
        assert!(outside.try_wait().unwrap().is_none());
        outside.kill().unwrap();
        outside.wait().unwrap();
    }
}
