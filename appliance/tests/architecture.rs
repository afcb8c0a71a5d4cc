//! The arrows between the crates, and which manifest names which engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Who may use whom. Arrows point down only; what is not listed is refused.
const ARROWS: [(&str, &[&str]); 12] = [
    ("rekindle-block", &[]),
    ("rekindle-state", &[]),
    ("rekindle-image", &[]),
    ("rekindle-cache", &["block", "state"]),
    ("rekindle-repo", &["block", "image"]),
    ("rekindle-disk", &["block", "state", "cache", "repo"]),
    ("rekindle-nfs", &["disk"]),
    ("rekindle-vsphere", &[]),
    ("rekindle-jobs", &["block", "state", "image", "cache", "repo", "disk", "nfs", "vsphere"]),
    ("rekindle-notify", &["state", "repo", "jobs"]),
    ("rekindle-console", &["state", "cache", "repo", "disk", "nfs", "jobs", "notify"]),
    (
        "rekindle",
        &[
            "block", "state", "image", "cache", "repo", "disk", "nfs", "vsphere", "jobs", "notify",
            "console",
        ],
    ),
];

/// Each engine is named in these manifests and no other.
const ENGINES: [(&str, &[&str]); 12] = [
    ("rocksdb", &["rekindle-state"]),
    ("moka", &["rekindle-cache"]),
    ("nfsserve", &["rekindle-nfs"]),
    ("aws-sdk-s3", &["rekindle-repo"]),
    ("axum", &["rekindle-console"]),
    ("hyper", &["rekindle-console"]),
    ("rcgen", &["rekindle-console"]),
    ("prometheus-client", &["rekindle-console"]),
    // OVF descriptors, and SOAP.
    ("quick-xml", &["rekindle-image", "rekindle-vsphere"]),
    ("clap", &["rekindle"]),
    // What is read and written is described where it is declared: JSON Schema, which knows no protocol.
    (
        "schemars",
        &[
            "rekindle-repo",
            "rekindle-cache",
            "rekindle-nfs",
            "rekindle-jobs",
            "rekindle-notify",
            "rekindle-console",
        ],
    ),
    // Webhooks and the command line are HTTP clients too.
    ("reqwest", &["rekindle-vsphere", "rekindle-notify", "rekindle"]),
];

type Manifests = BTreeMap<String, BTreeSet<String>>;

/// The normal and build dependencies that each manifest of the workspace names.
fn manifests() -> Manifests {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(|package| (text(&package["name"]), dependencies(package))).collect()
}

fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().unwrap();
    all.iter().filter(|one| one["kind"] != "dev").map(|one| text(&one["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn arrows_point_down_only() {
    let manifests = manifests();
    let known: BTreeSet<_> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(manifests.keys().cloned().collect::<BTreeSet<_>>(), known);
    for (name, allowed) in ARROWS {
        let allowed: BTreeSet<_> = allowed.iter().map(|one| format!("rekindle-{one}")).collect();
        let used = manifests[name].iter().filter(|one| one.starts_with("rekindle"));
        let wrong: Vec<_> = used.filter(|one| !allowed.contains(*one)).collect();
        assert!(wrong.is_empty(), "{name} must not use {wrong:?}");
    }
}

#[test]
fn the_arrows_have_no_circle() {
    let mut above = BTreeSet::new();
    for (name, allowed) in ARROWS {
        for one in allowed {
            assert!(above.contains(&format!("rekindle-{one}")), "{name} points up to {one}");
        }
        above.insert(name.to_owned());
    }
}

#[test]
fn one_engine_one_manifest() {
    let manifests = manifests();
    for (engine, allowed) in ENGINES {
        let users: Vec<_> =
            manifests.iter().filter(|(_, used)| used.contains(engine)).map(|(n, _)| n).collect();
        let wrong: Vec<_> = users.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{engine} is named by {wrong:?}, only {allowed:?} may");
        assert!(!users.is_empty(), "{engine} is named by nobody: take it off the list");
    }
}
