//! The audit log, as who looks into it later finds it.

use std::fs;

use serde_json::Value;

use super::process::{Daemon, Site};

const NOBODY: &str = "20250101-000000-0000";

/// The records of an action: outcome and reason, in order.
fn records(daemon: &Daemon, action: &str) -> Vec<(String, Value)> {
    let page = daemon.cli(&["audit", "ls"]);
    let all = page["records"].as_array().unwrap().iter();
    let wanted = all.filter(|one| one["action"] == action);
    wanted.map(|one| (one["outcome"].as_str().unwrap().to_owned(), one["reason"].clone())).collect()
}

#[test]
fn what_was_done_and_why_is_on_record_over_a_kill() {
    let site = Site::new();
    site.console("restore_requires_reason = true");
    let daemon = site.start();
    let (status, said) = daemon.cli_fails(&["cancel", NOBODY]);
    assert!(status == 4 && said.contains("job_not_found"), "{said}");
    let point = site.ingest("web")["point"].as_str().unwrap().to_owned();
    let recover = ["recover", &point, "--client", "127.0.0.1", "--wait"];
    let (status, said) = daemon.cli_fails(&recover);
    assert!(status == 3 && said.contains("reason_required"), "{said}");
    assert!(records(&daemon, "recovery.start").is_empty(), "nothing was begun");
    let because = [&recover[..], &["--reason", "ticket 17"]].concat();
    let id = daemon.cli(&because)["id"].as_str().unwrap().to_owned();
    let discard = ["finish", &id, "discard", "--reason", "done with it", "--watch"];
    daemon.cli(&discard);
    let started = [("begun".into(), "ticket 17".into()), ("done".into(), "ticket 17".into())];
    assert_eq!(records(&daemon, "recovery.start"), started);
    let tip = daemon.cli(&["audit", "verify"])["tip"].as_str().unwrap().to_owned();
    daemon.kill();
    let daemon = site.start();
    assert_eq!(records(&daemon, "recovery.start"), started);
    let ended = [("begun".into(), "done with it".into()), ("done".into(), "done with it".into())];
    assert_eq!(records(&daemon, "recovery.discard"), ended);
    let verified = daemon.cli(&["audit", "verify", "--tip", &tip]);
    assert!(verified["whole"] == true && verified["records"].as_u64().unwrap() >= 4, "{verified}");
    let (status, said) = daemon.cli_fails(&["audit", "verify", "--tip", &"0".repeat(64)]);
    assert!(status == 1 && said.contains("not the one given"), "{said}");
    daemon.stop(&[]);
}

#[test]
fn an_export_proves_itself_and_one_that_was_changed_does_not() {
    let site = Site::new();
    let daemon = site.start();
    for _ in 0..3 {
        daemon.cli(&["user", "token", "add", "script"]);
    }
    let text = daemon.text(&["audit", "export"]);
    assert_eq!(text.lines().count(), 6);
    assert!(!text.contains("rkd_"), "{text}");
    let file = site.path("export");
    let path = file.to_str().unwrap().to_owned();
    let verify = || ["audit", "verify", "--file", &path].map(str::to_owned);
    fs::write(&file, &text).unwrap();
    let whole = daemon.cli(&verify().each_ref().map(String::as_str));
    assert_eq!(whole["records"], 6);
    let removed: String = text
        .lines()
        .enumerate()
        .filter(|(n, _)| *n != 2)
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    for (changed, found) in
        [(text.replacen("127.0.0.1", "127.0.0.2", 1), "was changed"), (removed, "is missing")]
    {
        fs::write(&file, changed).unwrap();
        let (status, said) = daemon.cli_fails(&verify().each_ref().map(String::as_str));
        assert!(status == 1 && said.contains(found), "{said}");
    }
    daemon.stop(&[]);
}
