//! `cargo xtask demo`: what all this is for, on a real Postgres, with the seconds each step takes.
//!
//! A primary with data and load is imported and followed; somebody forgets a `WHERE`; a branch at the
//! moment before has the rows, proven row by row, while the load goes on. Everything that a person
//! would type is shown as typed and runs through the built programs. A failure, Ctrl-C and even the
//! death of this process leave nothing running and nothing on disk; only a demo that went well stays,
//! unless `--once` was given.

mod narrator;
mod site;

use crate::run::{cargo, root};
use anyhow::{Context as _, Result, bail, ensure};
use narrator::{Narrator, Say};
use site::{Guard, Site};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::postgres::{Account, Install, ensure_client_tools, find_tool};
use types::{Lsn, PgMajor};

/// pgbench scale: 100,000 accounts each, about 15 MB.
const SCALE: &str = "10";
/// Seconds of load, and those after which the time is noted and the accident happens.
const LOAD_SECONDS: &str = "12";
const BEFORE_NOTING: Duration = Duration::from_secs(4);
const BEFORE_ACCIDENT: Duration = Duration::from_secs(2);
/// Wait for the daemon to answer and to catch up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A small shop, in the database beside pgbench's tables.
const SHOP: &str = "\
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text UNIQUE);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers, status text NOT NULL,
  total numeric(10,2) NOT NULL, items jsonb NOT NULL, placed timestamptz NOT NULL);
CREATE INDEX ON orders (customer);
CREATE INDEX ON orders USING gin (items);
CREATE TABLE visits (at timestamptz NOT NULL DEFAULT now(), customer int NOT NULL, page text NOT NULL);
INSERT INTO customers SELECT g, 'Customer ' || g, 'c' || g || '@example.com' FROM generate_series(1, 10000) g;
INSERT INTO orders SELECT g, 1 + g % 10000, 'open', (g % 9973) / 100.0 + 1,
  jsonb_build_object('item', g % 500, 'count', 1 + g % 7), now() - g * interval '1 minute'
  FROM generate_series(1, 100000) g;
";
/// What the shop's customers do during the load, beside pgbench's own transactions.
const VISITS: &str = "\
\\set customer random(1, 10000)
INSERT INTO visits (customer, page) VALUES (:customer, '/item/' || :customer % 500);
";
/// Changes that only the WAL knows, made after the copy.
const PAYMENTS: &str = "UPDATE orders SET status = 'paid' WHERE id % 3 = 0";
const ACCIDENT: &str = "DELETE FROM orders";
/// For people.
const LOOK_AT_ORDERS: &str = "SELECT count(*) AS orders, count(*) FILTER (WHERE status = 'paid') AS paid, sum(total) AS total FROM orders";
/// For comparing: one row that differs if any order does.
const DIGEST: &str = "SELECT count(*), md5(string_agg(o::text, chr(10) ORDER BY id)) FROM orders o";
/// pgbench's transactions keep these sums equal; half a transaction would not.
const BANK: &str = "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts)
  AND sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches)
  AND sum(delta) = (SELECT sum(tbalance) FROM pgbench_tellers) FROM pgbench_history";

/// What to do.
#[derive(clap::Args)]
pub struct Arguments {
    /// Clean up at the end; exit code 0 if all went well, else 1
    #[arg(long, conflicts_with = "stop")]
    once: bool,
    /// Stop and delete what an earlier demo left running
    #[arg(long)]
    stop: bool,
    /// Clean up this directory when standard input ends without a word
    #[arg(long, hide = true, value_name = "DIR")]
    guard: Option<PathBuf>,
}

/// Runs the demo, or ends one.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(directory) = &arguments.guard {
        return Guard::stand(directory);
    }
    if arguments.stop {
        let site = Site::left()?;
        let seconds = Instant::now();
        site.remove()?;
        println!(
            "demo stopped and {} deleted in {:.1} s",
            site.directory().display(),
            seconds.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    let site = if arguments.once {
        Site::temporary()?
    } else {
        Site::permanent()?
    };
    let guard = match Guard::post(&site) {
        Ok(guard) => guard,
        Err(e) => {
            site.remove()?;
            return Err(e);
        }
    };
    let mut narrator = Narrator::new();
    let outcome = Demo::run(&site, &mut narrator);
    let outcome = match outcome {
        Ok(mut demo) if arguments.once => narrator.step("Clean up", |say| {
            demo.end(say)?;
            site.remove()
        }),
        Ok(demo) => {
            guard.dismiss()?;
            narrator.summary();
            demo.farewell();
            return Ok(());
        }
        Err(e) => {
            for log in [site.daemon_log(), site.primary_log()] {
                narrator::show_end(&log);
            }
            Err(e)
        }
    };
    // Also after a failure; the guard does nothing if nothing is left.
    let removed = site.remove();
    guard.dismiss()?;
    outcome.with_context(|| format!("the demo failed at step {}", narrator.title()))?;
    removed?;
    narrator.summary();
    println!("Everything worked, and nothing of it is left.");
    Ok(())
}

/// What the steps have in common.
struct Demo<'a> {
    site: &'a Site,
    /// Directory of the built programs.
    programs: PathBuf,
    install: Install,
    account: Account,
    port: u16,
    daemon: Child,
    variables: Vec<(&'static str, OsString)>,
}

impl<'a> Demo<'a> {
    /// The whole story, up to where everything runs and everything was checked.
    fn run(site: &'a Site, narrator: &mut Narrator) -> Result<Demo<'a>> {
        let programs = narrator.step("Build pageserver and pagectl", build)?;
        let install = narrator.step("Find or fetch Postgres 17 and its client programs", find)?;
        let account = Account::unprivileged()?;
        let port = narrator.step("Start a primary", |say| {
            primary(site, &install, account, say)
        })?;
        let daemon = narrator.step("Start pageserver", |say| daemon(site, &programs, say))?;
        let mut demo = Demo {
            site,
            programs,
            install,
            account,
            port,
            variables: daemon.1,
            daemon: daemon.0,
        };
        demo.write_environment()?;
        narrator.step("Fill the primary: pgbench and a shop", |say| demo.fill(say))?;
        narrator.step("Import the primary, and follow it from then on", |say| {
            let url = demo.url();
            demo.pagectl(say, &["import", &url, "--name", "shop"])
        })?;
        let (load, digest) = narrator
            .step("Load: customers pay, four clients keep on writing", |say| {
                demo.load(say)
            })?;
        let noted = narrator.step("Note the time", |say| demo.note(say))?;
        std::thread::sleep(BEFORE_ACCIDENT);
        narrator.step("The accident: DELETE without WHERE", |say| {
            demo.primary_psql(say, ACCIDENT)?;
            demo.primary_psql(say, LOOK_AT_ORDERS)
        })?;
        narrator.step(
            "The load goes on to its end; pageserver catches up",
            |say| demo.catch_up(load, say),
        )?;
        narrator.step("Branch the database as it was at the noted time", |say| {
            demo.pagectl(say, &["branch", "shop/main", "before", "--at", &noted])
        })?;
        narrator.step("Open a Postgres on the branch", |say| {
            demo.pagectl(say, &["start", "shop/before"])
        })?;
        narrator.step("Back on the branch, gone on the primary", |say| {
            demo.look(&digest, say)
        })?;
        Ok(demo)
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/shop", self.port)
    }

    /// A file for the user's shell that makes the commands shown work there.
    fn write_environment(&self) -> Result<()> {
        let mut lines = vec![format!(
            "export PATH={}:$PATH",
            narrator::quoted(&self.programs.to_string_lossy())
        )];
        for (name, value) in &self.variables {
            let value = narrator::quoted(&value.to_string_lossy());
            lines.push(format!("export {name}={value}"));
        }
        std::fs::write(self.site.environment(), lines.join("\n") + "\n")?;
        Ok(())
    }

    fn fill(&self, say: &Say) -> Result<()> {
        let (pgbench, url) = (find_tool("pgbench")?, self.url());
        let maintenance = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        psql(&maintenance, &["-c", "CREATE DATABASE shop"]).quietly(say)?;
        let init = ["-i", "-q", "-s", SCALE, &url];
        say.command("pgbench", &init);
        client(&pgbench, &init).quietly(say)?;
        let script = self.site.directory().join("shop.sql");
        std::fs::write(&script, SHOP)?;
        let script = script.to_string_lossy();
        say.command("psql", &[&url, "-f", &script]);
        psql(&url, &["-f", &script]).quietly(say)?;
        let size = self.ask(
            "SELECT pg_size_pretty(pg_database_size('shop')) || ' in ' || count(*) || ' tables' FROM pg_stat_user_tables",
        )?;
        say.line(&size);
        Ok(())
    }

    /// Starts the load; returns it and a digest of the orders, which it does not change.
    fn load(&self, say: &Say) -> Result<(Child, String)> {
        let (pgbench, url) = (find_tool("pgbench")?, self.url());
        self.primary_psql(say, PAYMENTS)?;
        let script = self.site.directory().join("visits.sql");
        std::fs::write(&script, VISITS)?;
        let script = format!("{}@1", script.display());
        let arguments = [
            "-n",
            "-c",
            "4",
            "-j",
            "2",
            "-T",
            LOAD_SECONDS,
            "-b",
            "tpcb-like@3",
            "-f",
            &script,
            &url,
        ];
        say.command("pgbench", &[&arguments[..], &["&"]].concat());
        let load = client(&pgbench, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("running pgbench")?;
        std::thread::sleep(BEFORE_NOTING);
        Ok((load, self.ask(DIGEST)?))
    }

    fn note(&self, say: &Say) -> Result<String> {
        self.primary_psql(say, LOOK_AT_ORDERS)?;
        let noted = self.ask("SELECT clock_timestamp()")?;
        say.line(&format!("it is {noted}"));
        Ok(noted)
    }

    fn catch_up(&mut self, load: Child, say: &Say) -> Result<()> {
        let output = load.wait_with_output()?;
        ensure!(
            output.status.success(),
            "pgbench ended with {}",
            output.status
        );
        let report = String::from_utf8_lossy(&output.stdout);
        let told = [
            "number of transactions actually",
            "tps = ",
            "latency average",
        ];
        let mut told_lines = Vec::new();
        for line in report.lines() {
            // Each script has the same figures of its own, behind those of all.
            if let Some(t) = told.iter().find(|t| line.starts_with(**t))
                && !told_lines.contains(t)
            {
                told_lines.push(t);
                say.line(line);
            }
        }
        let started = Instant::now();
        let end: Lsn = self.ask("SELECT pg_current_wal_flush_lsn()")?.parse()?;
        loop {
            ensure!(
                self.daemon.try_wait()?.is_none(),
                "pageserver ended by itself"
            );
            let at = self.last_record()?;
            if at >= end {
                say.line(&format!(
                    "pageserver has all WAL up to {end}, {:.2} s after the last transaction",
                    started.elapsed().as_secs_f64()
                ));
                return Ok(());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "pageserver stays at {at}, behind {end}"
            );
            std::thread::sleep(LOOK);
        }
    }

    /// How far the pageserver has followed the primary.
    fn last_record(&self) -> Result<Lsn> {
        let text = self
            .branch_command(&["--json", "timeline", "list", "shop"])
            .text()?;
        let timelines: serde_json::Value = serde_json::from_str(&text)?;
        let lsn = timelines
            .pointer("/0/last_record_lsn")
            .and_then(serde_json::Value::as_str);
        Ok(lsn.context("`pagectl timeline list` has no LSN")?.parse()?)
    }

    fn look(&self, digest: &str, say: &Say) -> Result<()> {
        let on_branch = |sql: &str| {
            let mut command = self.branch_command(&["psql", "shop/before", "--", "-XAtqc", sql]);
            Ok::<_, anyhow::Error>(command.text()?.trim().to_owned())
        };
        self.pagectl(say, &["psql", "shop/before", "--", "-c", LOOK_AT_ORDERS])?;
        self.primary_psql(say, LOOK_AT_ORDERS)?;
        let (found, left) = (on_branch(DIGEST)?, self.ask(DIGEST)?);
        ensure!(
            found == digest,
            "the orders on the branch are not those of the noted time: {found} instead of {digest}"
        );
        ensure!(left == "0|", "orders are left on the primary: {left}");
        let rows = digest.split('|').next().unwrap_or_default();
        say.line(&format!(
            "All {rows} orders are back on the branch, each as it was (digests agree)."
        ));
        let bank = on_branch(BANK)?;
        let Some((transfers, "t")) = bank.split_once('|') else {
            bail!("the branch has half a transaction: {bank}");
        };
        let now = self.ask("SELECT count(*) FROM pgbench_history")?;
        ensure!(
            transfers.parse::<u64>()? < now.parse::<u64>()?,
            "the branch has {transfers} transfers, the primary {now}"
        );
        say.line(&format!(
            "The branch has the {transfers} bank transfers of before, none by half; the primary went on to {now}."
        ));
        Ok(())
    }

    /// Stops everything as its owner would, in reverse order.
    fn end(&mut self, say: &Say) -> Result<()> {
        self.pagectl(say, &["stop", "shop/before", "--remove"])?;
        say.line(&format!("kill -TERM {}   (pageserver)", self.daemon.id()));
        site::end(self.daemon.id(), rustix::process::Signal::TERM)?;
        let status = self.daemon.wait()?;
        ensure!(status.success(), "pageserver ended with {status}");
        pg_ctl(
            &self.install,
            self.account,
            &self.site.primary(),
            &["-m", "fast", "stop"],
        )
        .quietly(say)
    }

    fn farewell(&self) {
        let (environment, url) = (self.site.environment(), self.url());
        println!("Everything is still running. To go on by hand:\n");
        for line in [
            &format!(". {}", environment.display()),
            "pagectl status",
            "pagectl psql shop/before",
            &format!("psql {url}"),
            "",
            "# bring the orders home:",
            &format!(
                "pagectl psql shop/before -- -c 'COPY orders TO STDOUT' | psql {url} -c 'COPY orders FROM STDIN'"
            ),
            "",
            "# branch again, now or at any moment since the import:",
            "pagectl branch shop/main test",
            "pagectl branch shop/main then --at '30s ago'",
            "pagectl lsn-at shop/main '1m ago'",
            "pagectl layers shop/main",
            "pagectl export shop/main --to /tmp/shop-export",
            "",
            "# end it:",
            "cargo xtask demo --stop",
        ] {
            println!("  {line}");
        }
        println!(
            "\nLogs: {}, {}",
            self.site.daemon_log().display(),
            self.site.primary_log().display()
        );
    }

    /// Runs psql on the primary and shows both command and answer.
    fn primary_psql(&self, say: &Say, sql: &str) -> Result<()> {
        let url = self.url();
        say.command("psql", &[&url, "-c", sql]);
        say.answer(&psql(&url, &["-c", sql]).output()?)
    }

    /// The one row a query has on the primary.
    fn ask(&self, sql: &str) -> Result<String> {
        Ok(psql(&self.url(), &["-Atqc", sql]).text()?.trim().to_owned())
    }

    fn branch_command(&self, arguments: &[&str]) -> Command {
        let mut command = client(&self.programs.join("pagectl"), arguments);
        command.envs(self.variables.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Runs pagectl and shows both command and answer.
    fn pagectl(&self, say: &Say, arguments: &[&str]) -> Result<()> {
        say.command("pagectl", arguments);
        say.answer(
            &self
                .branch_command(arguments)
                .output()
                .context("running pagectl")?,
        )
    }
}

/// Builds the programs; returns their directory.
fn build(say: &Say) -> Result<PathBuf> {
    let arguments = [
        "build",
        "--release",
        "--locked",
        "-p",
        "pageserver",
        "--bins",
    ];
    say.command("cargo", &arguments);
    let status = cargo(&arguments)?.status().context("running cargo")?;
    ensure!(status.success(), "the build failed");
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"])?.text()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata
        .get("target_directory")
        .and_then(serde_json::Value::as_str)
        .context("cargo metadata names no target directory")?;
    let programs = root()?.join(target).join("release");
    for program in ["pageserver", "pagectl"] {
        ensure!(
            programs.join(program).is_file(),
            "cargo built no {program} in {}",
            programs.display()
        );
    }
    Ok(programs)
}

fn find(say: &Say) -> Result<Install> {
    let install = Install::find(PgMajor::V17)?;
    if find_tool("psql").and(find_tool("pgbench")).is_err() {
        ensure_client_tools()?;
    }
    say.line(&format!(
        "Postgres {} in {}, {}",
        install.version()?,
        install.bin.display(),
        find_tool("pgbench")?.display()
    ));
    Ok(install)
}

/// Makes and starts a server that outlives this process; returns its port.
fn primary(site: &Site, install: &Install, account: Account, say: &Say) -> Result<u16> {
    let data = site.primary();
    let place = data.parent().context("no directory")?;
    std::fs::create_dir(place)?;
    account.own(place)?;
    let port = site::free_port(5432)?;
    let flags = [
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "-D",
    ];
    let path = data.to_string_lossy();
    say.command("initdb", &[&flags[..], &[&path]].concat());
    install
        .command("initdb", account)
        .args(flags)
        .arg(&data)
        .quietly(say)?;
    let settings =
        format!("-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=''");
    let log = site.primary_log();
    let start = ["-l", &log.to_string_lossy(), "-w", "-o", &settings, "start"];
    say.command("pg_ctl", &[&["-D", &path], &start[..]].concat());
    pg_ctl(install, account, &data, &start).quietly(say)?;
    say.line(&format!("listens on 127.0.0.1:{port}"));
    Ok(port)
}

fn pg_ctl(install: &Install, account: Account, data: &Path, arguments: &[&str]) -> Command {
    let mut command = install.command("pg_ctl", account);
    command.arg("-D").arg(data).args(arguments);
    command
}

/// Starts the daemon, and returns it with the variables that lead pagectl to it when it answers.
fn daemon(
    site: &Site,
    programs: &Path,
    say: &Say,
) -> Result<(Child, Vec<(&'static str, OsString)>)> {
    use std::os::unix::process::CommandExt as _;
    let (http, pages) = (site::free_port(9898)?, site::free_port(64000)?);
    let directory = site.directory().join("pageserver");
    let arguments = [
        "-D".to_owned(),
        directory.to_string_lossy().into_owned(),
        "-c".to_owned(),
        format!("listen_http_addr=127.0.0.1:{http}"),
        "-c".to_owned(),
        format!("listen_pg_addr=127.0.0.1:{pages}"),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    say.command("pageserver", &[&arguments[..], &["&"]].concat());
    let mut daemon = Command::new(programs.join("pageserver"))
        .args(&arguments)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(site.daemon_log())?)
        .spawn()
        .context("starting pageserver")?;
    site.remember_daemon(daemon.id())?;
    let started = Instant::now();
    // The page service opens last.
    for port in [http, pages] {
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = daemon.try_wait()? {
                bail!("pageserver ended with {status}");
            }
            ensure!(started.elapsed() < PATIENCE, "pageserver does not answer");
            std::thread::sleep(LOOK);
        }
    }
    let mut variables = vec![
        ("PAGESERVER_HTTP", format!("http://127.0.0.1:{http}").into()),
        ("PAGESERVER_PG", format!("127.0.0.1:{pages}").into()),
        ("PAGECTL_HOME", site.pagectl_home().into()),
    ];
    if let Some(servers) = std::env::var_os("PAGESERVER_PG_DIR") {
        variables.push(("PAGESERVER_PG_DIR", servers));
    }
    Ok((daemon, variables))
}

/// A client program, with nothing of the user's libpq settings. The time zone decides how orders look
/// as text, and a branch does not inherit the primary's.
fn client(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("PGTZ", "UTC");
    command
}

fn psql(url: &str, arguments: &[&str]) -> Command {
    // A missing psql shows when it is run.
    let program = find_tool("psql").unwrap_or_else(|_| "psql".into());
    let mut command = client(&program, &["-X", "-v", "ON_ERROR_STOP=1"]);
    command.args(arguments).arg(url);
    command
}

/// Running a command for its output.
trait Run {
    /// Standard output; standard error is in the error.
    fn text(&mut self) -> Result<String>;
    /// Runs it; what it prints is shown only if it fails.
    fn quietly(&mut self, say: &Say) -> Result<()>;
}

impl Run for Command {
    fn text(&mut self) -> Result<String> {
        let program = self.get_program().to_string_lossy().into_owned();
        let output = self.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("running {program}"))?;
        ensure!(
            output.status.success(),
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn quietly(&mut self, say: &Say) -> Result<()> {
        let program = self.get_program().to_string_lossy().into_owned();
        let output = self.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("running {program}"))?;
        if output.status.success() {
            return Ok(());
        }
        say.answer(&output)
    }
}
