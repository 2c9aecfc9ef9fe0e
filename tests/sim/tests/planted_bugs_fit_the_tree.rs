//! The bugs that `cargo xtask sim --planted` plants still fit the sources: a change that moves what
//! they change has to move them, too.

#![allow(missing_docs, clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::process::Command;

#[test]
fn planted_bugs_fit_the_tree() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().and_then(Path::parent).unwrap();
    let mut patches = 0;
    for entry in here.join("planted").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "patch") {
            continue;
        }
        let mut git = Command::new("git");
        git.current_dir(root).args(["apply", "--check"]).arg(&path);
        let checked = git.output().unwrap();
        let why = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {why}", path.display());
        patches += 1;
    }
    assert!(patches >= 10, "{patches} patches in {}", here.display());
}
