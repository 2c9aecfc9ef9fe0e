//! Planted bugs: each patch of `tests/sim/planted` breaks a promise of the engine, in a copy of the
//! tree, and the simulation built there must notice.

use crate::run::{cargo, root, step};
use anyhow::{Context as _, Result, ensure};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the simulation is asked to do, one after the other, until it fails.
const HUNT: [&[&str]; 3] = [
    &["--seed", "0", "--seeds", "40"],
    &["--every-crash"],
    &["--every-fault"],
];

/// Plants bugs in turn: those whose patch begins with one of `numbers`, which are empty for all.
pub fn run(numbers: &[String]) -> Result<()> {
    let root = root()?;
    let patches = patches(&root, numbers)?;
    let place = root.join("target/planted");
    let tree = place.join("tree");
    copy(&root, &tree)?;
    let mut missed = Vec::new();
    for patch in &patches {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy();
        apply(&place, &tree, patch, &[])?;
        let found = build(&place, &tree).and_then(|sim| hunt(&sim));
        apply(&place, &tree, patch, &["--reverse"])?;
        match found? {
            Some(how) => println!("{name}: {how}"),
            None => {
                println!("{name}: NOT FOUND");
                missed.push(name);
            }
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}

fn patches(root: &Path, numbers: &[String]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join("tests/sim/planted"))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("patch")) {
            all.push(path);
        }
    }
    all.sort();
    let mut chosen = Vec::new();
    for number in numbers.iter().filter(|n| !n.is_empty()) {
        let starts = |p: &&PathBuf| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(number)
        };
        let patch = all.iter().find(starts);
        chosen.push(patch.with_context(|| format!("no planted bug {number}"))?);
    }
    let chosen: Vec<PathBuf> = chosen.into_iter().cloned().collect();
    let patches = if chosen.is_empty() { all } else { chosen };
    ensure!(!patches.is_empty(), "there is nothing to plant");
    Ok(patches)
}

/// Copies what git knows or would take, with times, so that nothing is compiled without need.
fn copy(from: &Path, to: &Path) -> Result<()> {
    match fs::remove_dir_all(to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(from)
        .output()
        .context("git")?;
    ensure!(
        listed.status.success(),
        "{} is no git work tree",
        from.display()
    );
    let names = String::from_utf8(listed.stdout)?;
    for name in names.split('\0').filter(|n| !n.is_empty()) {
        let (source, target) = (from.join(name), to.join(name));
        if !source.is_file() {
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&source, &target).with_context(|| name.to_owned())?;
        let modified = source.metadata()?.modified()?;
        File::options()
            .append(true)
            .open(&target)?
            .set_modified(modified)?;
    }
    Ok(())
}

fn apply(place: &Path, tree: &Path, patch: &Path, options: &[&str]) -> Result<()> {
    let mut git = Command::new("git");
    // The copy lies in a work tree that it is no part of.
    git.env("GIT_CEILING_DIRECTORIES", place).current_dir(tree);
    step(git.arg("apply").args(options).arg(patch))
}

fn build(place: &Path, tree: &Path) -> Result<PathBuf> {
    let target = place.join("build");
    let mut build = cargo(&["test", "--workspace", "--locked", "--no-run"])?;
    build.args(["--test", "every_crash_point"]);
    build.env("CARGO_TARGET_DIR", &target).current_dir(tree);
    step(&mut build)?;
    Ok(target.join("debug/sim"))
}

/// What noticed the bug.
fn hunt(sim: &Path) -> Result<Option<String>> {
    for options in HUNT {
        let ran = Command::new(sim)
            .args(options)
            .env("RUST_BACKTRACE", "0")
            .output()?;
        if ran.status.success() {
            continue;
        }
        // A history that fails without any cut or fault is reported at the end.
        let (out, err) = (
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr),
        );
        let mut lines = out.lines().chain(err.lines());
        let why = lines.find(|l| l.contains(" failed: ") || l.starts_with("Error: "));
        let why = why.with_context(|| format!("{}: {}", sim.display(), ran.status))?;
        return Ok(Some(format!("{}: {why}", options.join(" "))));
    }
    Ok(None)
}
