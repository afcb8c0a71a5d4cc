//! Bad input on the command line: a clear error, the documented exit status, and nothing changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

fn rekindle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rekindle"))
        .args(args)
        .env_remove("REKINDLE_TOKEN")
        .env_remove("REKINDLE_TOKEN_FILE")
        .env_remove("REKINDLE_URL")
        .output()
        .unwrap()
}

/// The command fails with `status`, says `text` on stderr, and prints nothing.
fn refused(args: &[&str], status: i32, text: &str) {
    let output = rekindle(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
    assert!(stderr.contains(text), "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} printed {:?}", output.stdout);
}

fn done(args: &[&str]) -> String {
    let output = rekindle(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_bad_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = file(dir.path(), "unknown.toml", "[cache]\nmin_free = 5\n");
    refused(&["check-config", &unknown], 3, "unknown field `min_free`");
    refused(&["serve", "--config", &unknown], 3, "min_free");
    let number = file(dir.path(), "number.toml", "[cache]\nmin_free_percent = 95\n");
    refused(&["check-config", &number], 3, "cache.min_free_percent = 95 must be from 1 to 90");
    refused(&["serve", "--config", &number], 3, "must be from 1 to 90");
    let syntax = file(dir.path(), "syntax.toml", "state_dir = \n");
    refused(&["check-config", &syntax], 3, "syntax.toml");
    refused(&["check-config", "/nowhere/rekindle.toml"], 4, "/nowhere/rekindle.toml");
    let absent = file(dir.path(), "absent.toml", "[[repository]]\nname='a'\npath='/nowhere/a'\n");
    refused(&["check-config", &absent], 3, "rekindle repo add /nowhere/a");
    let wide = file(dir.path(), "wide.toml", "[console]\nlisten = '0.0.0.0:1'\ntls = 'off'\n");
    refused(&["check-config", &wide], 3, "plain_http_beyond_loopback");
}

#[test]
fn the_sample_configuration_is_good() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/rekindle.toml");
    assert!(done(&["check-config", sample]).contains("good"));
    assert_eq!(done(&["describe", "config"]), fs::read_to_string(sample).unwrap());
}

#[test]
fn describe_lists_calls_and_metrics() {
    assert!(done(&["describe", "api"]).contains("/api/v1/recoveries"));
    assert!(done(&["describe", "metrics"]).contains("rekindle_jobs{state}"));
}

#[test]
fn a_repository_is_made_once_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    let repo = repo.to_str().unwrap();
    refused(&["repo", "check", repo], 4, "repo");
    refused(&["repo", "add", repo, "--block-bytes", "1000"], 3, "power of two");
    assert!(done(&["repo", "add", repo]).contains(&format!("path = \"{repo}\"")));
    refused(&["repo", "add", repo], 3, "not empty");
    done(&["repo", "check", repo]);
    let state = dir.path().join("state");
    let state = state.to_str().unwrap();
    refused(&["repo", "check", "other", "--state-dir", state], 4, "no repository \"other\"");
    assert!(!Path::new(state).exists());
}

#[test]
fn what_cannot_be_ingested_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    let repo = repo.to_str().unwrap();
    done(&["repo", "add", repo]);
    refused(&["ingest", "/nowhere/vm.vmx", "--repository", repo], 4, "/nowhere/vm.vmx");
    let escape = "config.version = \"8\"\ndisplayName = \"x\"\nscsi0.present = \"TRUE\"\n\
                  scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"../../../etc/hostname\"\n";
    let vmx = file(dir.path(), "escape.vmx", escape);
    refused(&["ingest", &vmx, "--repository", "/nowhere/repo"], 4, "/nowhere/repo");
    let output = rekindle(&["ingest", &vmx, "--repository", repo]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let vmdk = file(dir.path(), "short.vmdk", "KDMV");
    let output = rekindle(&["ingest", &vmdk, "--repository", repo]);
    assert!(!output.status.success());
    let listed = done(&["repo", "check", repo, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(report["points"], 0, "{listed}");
}

#[test]
fn an_appliance_that_does_not_answer_is_said_so() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let dir = tempfile::tempdir().unwrap();
    let token = file(dir.path(), "token", "0123456789abcdef0123456789abcdef\n");
    for command in [&["points"][..], &["jobs"], &["exports"], &["cache"], &["target", "ls"]] {
        let mut args = command.to_vec();
        args.extend(["--url", &url, "--token-file", &token]);
        refused(&args, 5, "is it running");
    }
    refused(&["points", "--url", &url], 6, "--token-file");
    refused(&["points", "--url", &url, "--token-file", "/nowhere/token"], 6, "/nowhere/token");
    refused(&["points", "--url", "ftp://x", "--token-file", &token], 3, "http://HOST:PORT");
    let pinned = ["points", "--token-file", &token, "--fingerprint", "12:34", "--url", &url];
    refused(&pinned, 3, "64 hexadecimal digits");
    let ca = ["points", "--token-file", &token, "--ca-file", &token, "--url", &url];
    refused(&ca, 3, "no certificate");
}

#[test]
fn a_wrong_command_line_is_refused() {
    refused(&["recover", "web"], 2, "--client");
    refused(&["recover", "web", "--client", "not-an-address"], 2, "not-an-address");
    refused(&["jobs", "--watch"], 2, "ID");
    refused(&["finish", "20250101-000000-0000", "burn"], 2, "burn");
    refused(&["nonsense"], 2, "nonsense");
    refused(&["demo"], 3, "scripts/demo");
    refused(&["audit"], 2, "verify");
    refused(&["points", "--ca-file", "/x", "--fingerprint", "00"], 2, "--fingerprint");
    // The token has no option: it would be seen in the list of processes.
    refused(&["points", "--token", "x"], 2, "--token");
}
