//! The program of `wal_redo_program` as a process with pipes.
//!
//! `{major}` in its path stands for the Postgres version of the records. It is started as `PROGRAM
//! --wal-redo` in `/`, with no environment but `PATH`, `LD_LIBRARY_PATH` and `PAGESERVER_PG_MAJOR`,
//! and with this daemon's standard error. It should end when its standard input does; it is killed
//! when it is no longer wanted. Neither memory nor files are kept from it: a wrapper can do that.

use crate::engine::redo_program::{Launcher, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use types::{PAGE_SIZE, PgMajor};

/// Variables of the daemon's environment that the program sees.
const KEPT: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// Starts the configured program.
#[derive(Debug)]
pub struct Programs {
    path: String,
}

impl Programs {
    /// A program at this absolute path, in which `{major}` stands for the version.
    pub fn new(path: &str) -> Programs {
        Programs {
            path: path.to_owned(),
        }
    }
}

impl Launcher for Programs {
    fn launch(&self, version: PgMajor) -> io::Result<Box<dyn Process>> {
        let path = self.path.replace("{major}", &version.to_string());
        let kept = KEPT.iter().filter_map(|k| Some((k, std::env::var_os(k)?)));
        let mut child = Command::new(&path)
            .arg("--wal-redo")
            .env_clear()
            .envs(kept)
            .env("PAGESERVER_PG_MAJOR", version.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal for the daemon is none for the program.
            .process_group(0)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("cannot start {path}: {e}")))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut running = Running { child, pipes: None };
        if let (Some(stdin), Some(stdout)) = (stdin, stdout) {
            rustix::io::ioctl_fionbio(&stdin, true)?;
            rustix::io::ioctl_fionbio(&stdout, true)?;
            running.pipes = Some((stdin, stdout));
        }
        Ok(Box::new(running))
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    pipes: Option<(ChildStdin, ChildStdout)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process for Running {
    fn exchange(
        &mut self,
        request: &[u8],
        page: &mut [u8; PAGE_SIZE],
        limit: Duration,
    ) -> io::Result<()> {
        let Some((stdin, stdout)) = &mut self.pipes else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let begun = now();
        if ready(stdout.read(page))?.is_some() {
            let alone = "it ended, or spoke without being asked";
            return Err(io::Error::new(ErrorKind::BrokenPipe, alone));
        }
        let (mut unsent, mut missing) = (request, page.as_mut_slice());
        while !missing.is_empty() {
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("no answer within {limit:?}"),
                ));
            }
            wait(stdin, stdout, !unsent.is_empty(), left)?;
            if !unsent.is_empty()
                && let Some(n) = ready(stdin.write(unsent))?
            {
                unsent = unsent.get(n..).unwrap_or_default();
            }
            if let Some(n) = ready(stdout.read(missing))? {
                if n == 0 {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "it ended"));
                }
                missing = missing
                    .split_at_mut_checked(n)
                    .map_or(&mut [], |(_, rest)| rest);
            }
        }
        if unsent.is_empty() {
            Ok(())
        } else {
            let early = "it answered before it was asked";
            Err(io::Error::new(ErrorKind::InvalidData, early))
        }
    }
}

/// Waits until there is something to read, or room to write if that is wanted.
fn wait(stdin: &ChildStdin, stdout: &ChildStdout, write: bool, limit: Duration) -> io::Result<()> {
    let mut fds = vec![PollFd::new(stdout, PollFlags::IN)];
    if write {
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::OUT));
    }
    let limit = Timespec::try_from(limit).ok();
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// How much was moved; `None` if nothing can be at the moment.
fn ready(moved: io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "outside the engine: waits for a process, not for the engine's clock"
)]
fn now() -> Instant {
    Instant::now()
}
