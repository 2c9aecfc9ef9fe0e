//! One Postgres server with a data directory of its own.

use crate::port::Port;
use crate::postgres::{Account, Install, find_tool};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Superuser of every cluster.
pub const SUPERUSER: &str = "postgres";
/// Wait for a server to accept connections or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a cluster is made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines for `postgresql.conf`, behind the defaults.
    pub conf: Vec<(String, String)>,
    /// More arguments for `initdb`, such as `--wal-segsize=1`.
    pub initdb: Vec<String>,
    /// Lines for `pg_hba.conf`, before the one that trusts everybody from this machine.
    pub hba: Vec<String>,
}

impl Options {
    /// Adds a setting.
    pub fn set(mut self, name: &str, value: &str) -> Options {
        self.conf.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument for `initdb`.
    pub fn initdb(mut self, argument: &str) -> Options {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Adds a line to `pg_hba.conf`.
    pub fn hba(mut self, line: &str) -> Options {
        self.hba.push(line.to_owned());
        self
    }
}

/// How a server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits for sessions to end.
    Smart,
    /// Ends sessions, writes a checkpoint, and waits for walsenders to deliver it.
    Fast,
    /// Stops at once; the next start recovers from WAL.
    Immediate,
}

/// The answer to a query: text values, NULL as `None`.
pub type Table = Vec<Vec<Option<String>>>;

/// A server. Stopped and removed on drop, also if this process is killed.
#[derive(Debug)]
pub struct Cluster {
    install: Install,
    account: Account,
    directory: TempDir,
    port: Arc<Port>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    server: Child,
    watchdog: Child,
}

impl Cluster {
    /// Makes a data directory with `initdb`. Does not start the server.
    pub fn init(install: &Install, options: &Options) -> Result<Cluster> {
        let cluster = Cluster::empty(install)?;
        let mut initdb = install.command("initdb", cluster.account);
        initdb.args([
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]);
        initdb
            .arg(format!("--username={SUPERUSER}"))
            .args(&options.initdb)
            .arg("-D")
            .arg(cluster.data());
        run(&mut initdb)?;

        let hba = fs::read_to_string(cluster.data().join("pg_hba.conf"))?;
        cluster.write("pg_hba.conf", &format!("{}\n{hba}", options.hba.join("\n")))?;
        let defaults = [
            ("shared_buffers", "32MB"),
            ("max_connections", "50"),
            ("log_min_messages", "warning"),
        ];
        cluster.configure(&defaults)?;
        let conf: Vec<(&str, &str)> = options
            .conf
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        cluster.configure(&conf)?;
        Ok(cluster)
    }

    /// A cluster whose data directory the caller fills, owned by the server's account with mode
    /// 0700, before [`Cluster::adopt`].
    pub fn empty(install: &Install) -> Result<Cluster> {
        let account = Account::unprivileged()?;
        let directory = tempfile::Builder::new()
            .prefix("pageserver-pg-")
            .tempdir()?;
        account.own(directory.path())?;
        Ok(Cluster {
            install: install.clone(),
            account,
            directory,
            port: Arc::new(Port::reserve()?),
            running: None,
        })
    }

    /// Gives the filled data directory to the server's account and sets the port and socket.
    pub fn adopt(&self) -> Result<()> {
        self.own_tree(&self.data())?;
        fs::set_permissions(
            self.data(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )?;
        self.configure(&[])
    }

    fn own_tree(&self, path: &Path) -> Result<()> {
        self.account.own(path)?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own_tree(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// A hot standby of this running server, not started. Copies the data directory between the start
    /// and the stop of a backup, which unlike `pg_basebackup` works with every server version.
    pub async fn standby(&self) -> Result<Cluster> {
        let standby = Cluster::empty(&self.install)?;
        let client = self.client("postgres").await?;
        let old = self.install.major == types::PgMajor::V14;
        let (start, stop) = if old {
            (
                "pg_start_backup('standby', true, false)",
                "pg_stop_backup(false, false)",
            )
        } else {
            ("pg_backup_start('standby', true)", "pg_backup_stop(false)")
        };
        client.simple_query(&format!("SELECT {start}")).await?;
        copy_data(&self.data(), &standby.data())?;
        let label: String = client
            .query_one(&format!("SELECT labelfile FROM {stop}"), &[])
            .await?
            .get(0);
        standby.write("backup_label", &label)?;
        standby.write("standby.signal", "")?;
        let primary = format!("host=127.0.0.1 port={} user={SUPERUSER}", self.port);
        standby.configure(&[("primary_conninfo", &primary)])?;
        standby.adopt()?;
        Ok(standby)
    }

    /// The programs it runs.
    pub fn install(&self) -> &Install {
        &self.install
    }

    /// The account it runs under.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory beside the data directory, owned by the server's account.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::create_dir(&path)?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Moves to the port of another server, from the next start on.
    pub fn take_port(&mut self, of: &Cluster) -> Result<()> {
        self.port = Arc::clone(&of.port);
        self.configure(&[])
    }

    /// Directory of its Unix socket.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection string over TCP.
    pub fn connstr(&self) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/postgres", self.port)
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// Writes a file of the data directory.
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.data().join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        self.account.own(&path)
    }

    /// Appends settings to `postgresql.conf`; they hold from the next start or reload.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.data().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        let port = self.port.to_string();
        let socket = self.directory.path().to_string_lossy();
        let place = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket),
        ];
        for (name, value) in place.iter().chain(settings) {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        self.account.own(&path)
    }

    /// Starts the server and waits until it accepts connections.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the server without waiting.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the server runs already");
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log_path())?;
        let mut command = self.install.command("postgres", self.account);
        command
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let server = command
            .process_group(0)
            .spawn()
            .context("starting postgres")?;
        let watchdog = self.watch(&server)?;
        self.running = Some(Running { server, watchdog });
        Ok(())
    }

    /// A process that outlives us just long enough to stop the server if we are killed: it notices
    /// because its standard input closes. Both have process groups of their own, so that a signal to
    /// ours does not end the watchdog first.
    fn watch(&self, server: &Child) -> Result<Child> {
        Command::new("sh")
            .args([
                "-c",
                "cat >/dev/null; kill -QUIT \"$1\"; sleep 2; rm -rf -- \"$2\"",
                "sh",
            ])
            .arg(server.id().to_string())
            .arg(self.directory.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the watchdog")
    }

    /// Waits until the server accepts connections.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.server()?.try_wait()? {
                self.forget();
                bail!("postgres ended with {status}; its log:\n{}", self.log());
            }
            // The first line of postmaster.pid is whose it is (a killed server leaves its own
            // behind), the eighth tells the state.
            let pid = self.server()?.id().to_string();
            let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = file.lines().map(str::trim);
            if lines.next() == Some(&pid)
                && lines
                    .nth(6)
                    .is_some_and(|l| matches!(l, "ready" | "standby"))
            {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "postgres is not ready after {PATIENCE:?}; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn server(&mut self) -> Result<&mut Child> {
        self.running
            .as_mut()
            .map(|r| &mut r.server)
            .context("the server does not run")
    }

    /// Asks the server to stop and waits for it.
    pub fn stop(&mut self, how: Shutdown) -> Result<()> {
        self.signal(how)?;
        self.wait_stopped()
    }

    /// Asks the server to stop without waiting.
    pub fn signal(&mut self, how: Shutdown) -> Result<()> {
        let signal = match how {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        let pid = Pid::from_child(self.server()?);
        kill_process(pid, signal).context("signalling postgres")
    }

    /// True once the server has ended after [`Cluster::signal`].
    pub fn has_stopped(&mut self) -> Result<bool> {
        if self.running.is_none() {
            return Ok(true);
        }
        let ended = self.server()?.try_wait()?.is_some();
        if ended {
            self.forget();
        }
        Ok(ended)
    }

    /// Waits for the end of a server that was told to stop.
    pub fn wait_stopped(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_stopped()? {
            ensure!(
                Instant::now() < deadline,
                "postgres still runs after {PATIENCE:?}; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills the server and all its processes with SIGKILL, as the loss of its machine would.
    pub fn kill9(&mut self) -> Result<()> {
        let server = self.server()?;
        let pid = Pid::from_child(server);
        let children = children_of(pid);
        kill_process(pid, Signal::KILL).context("killing postgres")?;
        for child in &children {
            // It may have ended by itself already.
            let _ = kill_process(*child, Signal::KILL);
        }
        server.wait()?;
        self.forget();
        let deadline = Instant::now() + PATIENCE;
        while children
            .iter()
            .any(|c| test_kill_process(*c).is_ok() && !is_zombie(*c))
        {
            ensure!(
                Instant::now() < deadline,
                "processes of postgres survive SIGKILL"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops fast and starts again.
    pub fn restart(&mut self) -> Result<()> {
        self.stop(Shutdown::Fast)?;
        self.start()
    }

    fn forget(&mut self) {
        if let Some(Running { mut watchdog, .. }) = self.running.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }

    /// A client on the given database as superuser.
    pub async fn client(&self, dbname: &str) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port.number())
            .user(SUPERUSER)
            .dbname(dbname);
        let (client, connection) = config
            .connect(NoTls)
            .await
            .context("connecting to postgres")?;
        tokio::spawn(async move {
            // Its end shows in the client.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Runs SQL statements on database `postgres` and returns the rows of all of them as text.
    pub async fn psql(&self, sql: &str) -> Result<Table> {
        self.psql_on("postgres", sql).await
    }

    /// As [`Cluster::psql`] on another database.
    pub async fn psql_on(&self, dbname: &str, sql: &str) -> Result<Table> {
        rows(&self.client(dbname).await?, sql).await
    }

    /// The only value a query returns.
    pub async fn value(&self, sql: &str) -> Result<String> {
        let table = self.psql(sql).await?;
        let value = table
            .into_iter()
            .next()
            .and_then(|r| r.into_iter().next())
            .flatten();
        value.with_context(|| format!("{sql:?} returned no value"))
    }

    /// A client program pointed at this server and database `postgres`, under the server's account.
    pub fn tool(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(find_tool(program)?);
        self.account.apply(&mut command);
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER);
        command.env("PGDATABASE", "postgres").current_dir("/");
        Ok(command)
    }

    /// Runs `pgbench` with these arguments, and fails if it does.
    pub fn pgbench(&self, arguments: &[&str]) -> Result<Output> {
        run(self.tool("pgbench")?.args(arguments))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running.is_some() && self.kill9().is_err() {
            self.forget();
        }
    }
}

/// Runs SQL statements on an open connection and returns the rows of all of them as text.
pub async fn rows(client: &Client, sql: &str) -> Result<Table> {
    let messages = client
        .simple_query(sql)
        .await
        .with_context(|| format!("running {sql:?}"))?;
    let mut table = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            table.push(
                (0..row.len())
                    .map(|i| row.get(i).map(str::to_owned))
                    .collect(),
            );
        }
    }
    Ok(table)
}

/// Runs a command to its end; what it printed is in the error if it fails.
fn run(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Copies a data directory that is in use, without WAL, slots and the marks of the running server.
fn copy_data(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let (source, target) = (entry.path(), to.join(&name));
        match fs::symlink_metadata(&source) {
            Ok(m) if m.is_dir() && matches!(name.to_str(), Some("pg_wal" | "pg_replslot")) => {
                fs::create_dir(&target)?;
            }
            Ok(m) if m.is_dir() => copy_data(&source, &target)?,
            Ok(_) if matches!(name.to_str(), Some("postmaster.pid" | "postmaster.opts")) => {}
            // The server may remove a file at any time.
            Ok(_) => match fs::copy(&source, &target) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            },
            Err(_) => {}
        }
    }
    Ok(())
}

/// Fields of `/proc/<pid>/stat` behind the program's name, which may contain spaces: state, parent.
fn stat(pid: &str) -> Option<(String, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str().map(str::to_owned));
    pids.filter(|p| stat(p).is_some_and(|(_, ppid)| ppid == parent.as_raw_nonzero().get()))
        .filter_map(|p| Pid::from_raw(p.parse().ok()?))
        .collect()
}

fn is_zombie(pid: Pid) -> bool {
    stat(&pid.as_raw_nonzero().to_string()).is_none_or(|(state, _)| state == "Z")
}
