//! A sealed repository: its content is on no disk in the clear, and a recovery needs its passkey.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use super::{
    process::{Daemon, Site, run},
    recovery::recover,
};

const PASSKEY: &str = "a passkey that is a needle";
const WRONG: &str = "wrong passkeys are needles too";

pub(super) fn secret(site: &Site, name: &str, text: &str) -> String {
    let path = site.path(name);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "{text}").unwrap();
    path.display().to_string()
}

/// A site whose repository is sealed, with a point in it; the file of its passkey.
fn sealed() -> (Site, String) {
    let site = Site::new();
    let (dir, key) = (site.path("sealed").display().to_string(), secret(&site, "key", PASSKEY));
    run(&["repo", "add", &dir, "--encrypt", "--passkey-file", &key]).unwrap();
    let mut config = fs::OpenOptions::new().append(true).open(site.config()).unwrap();
    writeln!(
        config,
        "[[repository]]\nname = \"vault\"\npath = \"{dir}\"\npasskey_file = \"{key}\""
    )
    .unwrap();
    site.ingest("web");
    (site, key)
}

fn refused(daemon: &Daemon, args: &[&str]) -> String {
    let before = daemon.cli(&["jobs"]);
    let mut command = vec!["recover", "web", "--client", "127.0.0.1"];
    command.extend(args);
    let (status, said) = daemon.cli_fails(&command);
    // Denied, or "not now" where wrong ones came too fast.
    assert!([6, 5].contains(&status), "{status}: {said}");
    assert_eq!(daemon.cli(&["jobs"]), before);
    said
}

#[test]
fn a_recovery_from_a_sealed_repository_needs_its_passkey() {
    let (site, key) = sealed();
    let wrong = secret(&site, "wrong", WRONG);
    let daemon = site.start();
    assert_eq!(daemon.cli(&["points"])["points"][0]["vm"]["name"], "web");
    assert!(refused(&daemon, &[]).contains("needs one of its passkeys"));
    let said = refused(&daemon, &["--passkey-file", &wrong]);
    assert!(said.contains("is none of repository \"vault\"") && !said.contains(WRONG), "{said}");
    // Each wrong one doubles the wait, until one comes too soon.
    while !refused(&daemon, &["--passkey-file", &wrong]).contains("wait and try again") {}
    let recovered = loop {
        let mut command = vec!["recover", "web", "--client", "127.0.0.1", "--mount", "--wait"];
        command.extend(["--passkey-file", &key]);
        match daemon.try_cli(&command) {
            (status, stdout, _) if status.success() => break stdout,
            (_, _, said) => assert!(said.contains("wait and try again"), "{said}"),
        }
        std::thread::yield_now();
    };
    let job: serde_json::Value = serde_json::from_str(&recovered).unwrap();
    // A job under way needs nobody to type anything after a restart.
    daemon.stop(&["a wrong passkey for a recovery"]);
    let daemon = site.start();
    let id = job["id"].as_str().unwrap();
    assert_eq!(daemon.cli(&["jobs", id])["state"], "serving");
    daemon.cli(&["finish", id, "discard", "--watch"]);
    daemon.stop(&[]);
    for passkey in [PASSKEY, WRONG] {
        for path in site.entries("").iter().map(Path::new).filter(|path| path.is_file()) {
            let bytes = fs::read(path).unwrap();
            let found = bytes.windows(passkey.len()).any(|part| part == passkey.as_bytes());
            assert!(!found, "{passkey:?} is in {}", path.display());
        }
    }
}

#[test]
fn a_recovery_needs_no_passkey_where_the_configuration_says_so() {
    let (site, _) = sealed();
    let mut config = fs::OpenOptions::new().append(true).open(site.config()).unwrap();
    writeln!(config, "recover_needs_passkey = false").unwrap();
    let daemon = site.start();
    let recovered = recover(&daemon, &["--mount"]);
    daemon.cli(&["finish", &recovered.id, "discard", "--watch"]);
    daemon.stop(&[]);
}

#[test]
fn passkeys_are_listed_added_and_removed() {
    let (site, key) = sealed();
    let (dir, new) = (site.path("sealed").display().to_string(), secret(&site, "new", WRONG));
    let passkeys = |what: &[&str], file: &str| {
        run(&[&["repo", "passkey"], what, &["--passkey-file", file]].concat())
    };
    assert!(passkeys(&["ls", &dir], &key).unwrap().ends_with("first\n"));
    let (status, said) = passkeys(&["remove", &dir, "first"], &key).unwrap_err();
    assert!(status == 3 && said.contains("last passkey"), "{said}");
    let (status, said) = passkeys(&["ls", &dir], &new).unwrap_err();
    assert!(status == 3 && said.contains("opens nothing"), "{said}");
    let add = ["add", &dir, "--label", "second", "--new-passkey-file", &new];
    assert!(passkeys(&add, &key).unwrap().contains("second"));
    assert!(passkeys(&["remove", &dir, "first"], &key).unwrap().contains("first"));
    let (status, said) = passkeys(&["ls", &dir], &key).unwrap_err();
    assert!(status == 3 && said.contains("opens nothing"), "{said}");
    assert_eq!(passkeys(&["ls", &dir], &new).unwrap().lines().count(), 1);
    // The appliance has the old one: it does not start, and says why.
    let config = site.config().display().to_string();
    let (status, said) = run(&["repo", "check", "vault", "--config", &config]).unwrap_err();
    assert!(status == 3 && said.contains("opens nothing"), "{said}");
    run(&["repo", "check", "vault", "--config", &config, "--passkey-file", &new]).unwrap();
}
