//! The daemon's command line teaches and refuses.

#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    reason = "starts the program on a directory of its own"
)]

use std::process::{Command, Output};

fn pageserver(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pageserver"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_says_how_to_start() {
    let output = pageserver(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    for word in ["pagectl import", "-D", "-c", "127.0.0.1:9898"] {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

#[test]
fn an_unknown_setting_is_refused_and_the_nearest_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let output = pageserver(&["-D", dir, "-c", "listen_htp_addr=127.0.0.1:0"]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("listen_http_addr"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_network_is_kept_out_without_authentication() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let output = pageserver(&["-D", dir, "-c", "listen_pg_addr=0.0.0.0:0"]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("allow_unauthenticated_network"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_empty_directory_gets_a_default_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().to_str().unwrap();
    // Refused for another reason, after the files were written.
    pageserver(&["-D", name, "-c", "listen_pg_addr=0.0.0.0:0"]);
    let config = std::fs::read_to_string(dir.path().join("pageserver.toml")).unwrap();
    assert!(config.contains("[remote_storage]"), "{config}");
    assert!(dir.path().join("identity.toml").exists());
}
