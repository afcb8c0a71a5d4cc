//! The form of the daemon's log.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;

use super::process::{Site, command};

/// The first line of the log of a daemon that is started so.
fn first_line(more: &[&str], environment: &[(&str, &str)]) -> String {
    let site = Site::new();
    let mut daemon = command()
        .args(["serve", "--config", site.config().to_str().unwrap()])
        .args(more)
        .envs(environment.iter().copied())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stderr.take().unwrap()).read_line(&mut line).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    line
}

#[test]
fn the_log_has_the_form_that_was_asked_for() {
    let is_json =
        |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object());
    assert!(is_json(&first_line(&[], &[])), "JSON where it is no terminal");
    for line in [
        first_line(&["--log-format", "text"], &[]),
        first_line(&[], &[("REKINDLE_LOG_FORMAT", "text")]),
    ] {
        assert!(!is_json(&line) && line.contains(" INFO "), "{line}");
        assert!(!line.contains('\u{1b}'), "no colours where it is no terminal: {line:?}");
    }
    assert!(is_json(&first_line(&["--log-format", "json"], &[("REKINDLE_LOG_FORMAT", "text")])));
}
