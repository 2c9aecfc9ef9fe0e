//! A pageserver process: started, stopped, killed and restarted by tests.

use crate::port::Port;
use anyhow::{Context, Result, bail, ensure};
use api_client::Client;
use api_client::model::{ImportCreate, ImportStarted, TimelineInfo};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use types::{Lsn, TenantShardId, TimelineId};

/// How long a daemon may take to answer, to stop, and to catch up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(50);

/// A program that this workspace builds, next to the running one.
pub fn program(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let here = me.parent().context("no directory")?;
    let candidates = [here.join(name), here.join("..").join(name)];
    candidates
        .into_iter()
        .find(|p| p.is_file())
        .with_context(|| {
            let here = here.display();
            format!("no program {name} in {here}; `cargo build --workspace --bins` makes it")
        })
}

/// A pageserver on a directory of its own. Killed and removed on drop.
#[derive(Debug)]
pub struct Daemon {
    directory: TempDir,
    http: Port,
    pages: Port,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Daemon {
    /// Starts a daemon on an empty directory, with `KEY=VALUE` settings.
    pub async fn start(settings: &[&str]) -> Result<Daemon> {
        Daemon::start_with(settings, &[]).await
    }

    /// As [`Daemon::start`], with environment variables.
    pub async fn start_with(settings: &[&str], environment: &[(&str, &str)]) -> Result<Daemon> {
        let mut daemon = Daemon {
            directory: tempfile::Builder::new().prefix("pageserver-").tempdir()?,
            http: Port::reserve()?,
            pages: Port::reserve()?,
            settings: settings.iter().map(ToString::to_string).collect(),
            environment: environment
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            process: None,
        };
        daemon.launch().await?;
        Ok(daemon)
    }

    /// Replaces the `KEY=VALUE` settings, from the next launch on.
    pub fn configure(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(ToString::to_string).collect();
    }

    /// Starts the process again on the same directory and ports; returns when it answers.
    pub async fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        // A test that limits the size of files wants an error from writes, not the signal.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(program("pageserver")?)
            .arg("-D")
            .arg(self.path())
            .args(["-c", &format!("listen_http_addr=127.0.0.1:{}", self.http)])
            .args(["-c", &format!("listen_pg_addr=127.0.0.1:{}", self.pages)])
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        for s in &self.settings {
            command.args(["-c", s]);
        }
        self.process = Some(command.spawn().context("starting pageserver")?);
        self.wait_until_loaded().await
    }

    /// The page service opens when all tenants are loaded.
    async fn wait_until_loaded(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(p) = &mut self.process
                && let Some(status) = p.try_wait()?
            {
                self.process = None;
                bail!("the pageserver ended with {status}:\n{}", self.log());
            }
            if self.client().status().await.is_ok() && self.log_says_ready()? {
                return Ok(());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "the pageserver does not answer:\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    fn log_says_ready(&self) -> Result<bool> {
        let log = self.log();
        let last_start = log.rfind("pageserver: HTTP on").unwrap_or(0);
        Ok(log
            .get(last_start..)
            .unwrap_or_default()
            .contains(" ready "))
    }

    /// Working directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("pageserver.log")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Address of the page service.
    pub fn pages(&self) -> String {
        format!("127.0.0.1:{}", self.pages)
    }

    /// Base URL of the management API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// A client of the management API.
    pub fn client(&self) -> Client {
        Client::new(&self.url())
    }

    /// Sends one request over HTTP/1.1, as it stands; returns the status and the body.
    pub async fn http(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        self.http_with(method, path, "", body).await
    }

    /// As [`Daemon::http`], with more header lines, each ended by CRLF.
    pub async fn http_with(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(u16, String)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: pageserver\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = TcpStream::connect(("127.0.0.1", self.http.number())).await?;
        socket.write_all(head.as_bytes()).await?;
        // A server that refuses a long body answers before it has read all of it.
        let _ = socket.write_all(body.as_bytes()).await;
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer).await;
        ensure!(!answer.is_empty(), "no answer to {method} {path}: {read:?}");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .with_context(|| format!("not HTTP: {answer:?}"))?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok((status, body.to_owned()))
    }

    /// Value of a counter or gauge, summed over its labels; 0 if it is not there.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.client().metrics().await?;
        let mut sum = 0.0;
        for line in text.lines() {
            let (series, value) = line.rsplit_once(' ').unwrap_or_default();
            if series.split('{').next() == Some(name) {
                sum += value.parse::<f64>().context("a metric that is no number")?;
            }
        }
        Ok(sum)
    }

    /// Waits until the log contains `text`.
    pub async fn wait_log(&self, text: &str) -> Result<()> {
        let started = Instant::now();
        while !self.log().contains(text) {
            ensure!(
                started.elapsed() < PATIENCE,
                "the log does not say {text:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Lets no file grow beyond `bytes`; `None` lifts the limit again.
    pub fn limit_file_size(&self, bytes: Option<u64>) -> Result<()> {
        use rustix::process::{Resource, Rlimit, prlimit};
        let process = self.process.as_ref().context("the daemon does not run")?;
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(
            Some(rustix::process::Pid::from_child(process)),
            Resource::Fsize,
            limit,
        )?;
        Ok(())
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// True while the process has not ended by itself.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            None => Ok(false),
            Some(p) => Ok(p.try_wait()?.is_none()),
        }
    }

    /// kill -9.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut p) = self.process.take() {
            p.kill()?;
            p.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; fails unless it then exits with 0.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut p) = self.process.take() else {
            return Ok(());
        };
        let pid = rustix::process::Pid::from_child(&p);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let started = Instant::now();
        loop {
            if let Some(status) = p.try_wait()? {
                ensure!(
                    status.success(),
                    "the pageserver ended with {status}:\n{}",
                    self.log()
                );
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                p.kill()?;
                bail!("the pageserver did not stop:\n{}", self.log());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Deletes everything local but configuration and bucket. The daemon must not run.
    pub fn lose_local_data(&self) -> Result<()> {
        ensure!(self.process.is_none(), "stop the daemon first");
        std::fs::remove_dir_all(self.path().join("tenants"))?;
        Ok(())
    }

    /// Imports a running server and waits until it is followed.
    pub async fn import(&self, connstr: &str) -> Result<ImportStarted> {
        self.import_as(&ImportCreate {
            connstr: connstr.to_owned(),
            tenant_id: None,
            timeline_id: None,
            name: None,
            max_rate: None,
        })
        .await
    }

    /// As [`Daemon::import`], in full.
    pub async fn import_as(&self, request: &ImportCreate) -> Result<ImportStarted> {
        let client = self.client();
        let import = client.import(request).await?;
        let started = Instant::now();
        loop {
            let status = client.import_status(&import).await?;
            match status.phase.as_str() {
                "done" => return Ok(import),
                "failed" => bail!("{}", status.error.unwrap_or_default()),
                _ => {}
            }
            ensure!(
                started.elapsed() < 5 * PATIENCE,
                "the import hangs: {status:?}\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Details of a timeline.
    pub async fn timeline(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
    ) -> Result<TimelineInfo> {
        Ok(self.client().timeline(tenant, timeline).await?)
    }

    /// Waits until a timeline has ingested everything up to `lsn`.
    pub async fn wait_lsn(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        lsn: Lsn,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let info = self.timeline(tenant, timeline).await?;
            if info.last_record_lsn >= lsn {
                return Ok(());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "timeline stays at {} behind {lsn}: {}\n{}",
                info.last_record_lsn,
                info.walreceiver_status,
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Copies the log to `to`, for a look after the directory is gone.
    pub fn save_log(&self, to: &Path) -> Result<()> {
        std::io::copy(&mut File::open(self.log_path())?, &mut File::create(to)?)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing to be done about a failure here.
        let _ = self.kill9();
    }
}
