//! What `/metrics` has, against what `describe metrics` says, and against what a guest did.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use super::{
    disk_data::{DISK_BYTES, written},
    nfs::Mount,
    process::{Daemon, Site},
    recovery::recover,
};

/// Metrics of what a mover does, which may have ended when it is asked for.
const OF_MOVERS: &str = "rekindle_mover_";
/// Metrics of repositories on S3, which tests/e2e/s3 looks at; of any there is one more.
const OF_STORES: &str = "rekindle_repository_";
const OF_BACKUPS: &str = "rekindle_state_backup_made_at_seconds";
const OF_REPOSITORIES: &str = "rekindle_repository_ready";
/// A metric of migrations that have ended.
const OF_MIGRATED: &str = "rekindle_job_pause_milliseconds";

/// A metric of guests' writes that go on.
const OF_WRITERS: &str = "rekindle_overlay_seconds_until_full";

/// The samples of a scrape by name, with the labels as they stand behind it.
async fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let request = reqwest::Client::new().get(format!("{}metrics", daemon.url));
    let text = request.bearer_auth(daemon.token()).send().await.unwrap().text().await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// The names that `describe metrics` lists.
fn described() -> BTreeSet<String> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_rekindle")).args(["describe", "metrics"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.lines().map(|line| line.split([' ', '{']).next().unwrap().to_owned()).collect()
}

/// A sample's metric: without labels, and without what a histogram's samples have behind them.
fn metric(sample: &str) -> &str {
    let name = sample.split('{').next().unwrap();
    let parts = ["_bucket", "_sum", "_count"];
    parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

fn value(samples: &BTreeMap<String, f64>, name: &str, label: &str) -> f64 {
    let wanted = |sample: &&String| sample.starts_with(name) && sample.contains(label);
    let found: Vec<_> = samples.keys().filter(wanted).collect();
    assert_eq!(found.len(), 1, "{name} {label}: {found:?}");
    samples[found[0]]
}

#[tokio::test]
async fn metrics_are_those_described_and_count_what_a_guest_did() {
    let site = Site::new();
    site.ingest("web");
    // A channel that is told nothing here.
    let backups = format!("[state_backup]\ndir = {:?}\n", site.path("safe"));
    let channel = "[syslog]\naddress = \"unix:/nowhere\"\nevents = [\"batch_done\"]\n";
    let config = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), format!("{config}\n{channel}\n{backups}")).unwrap();
    let daemon = site.start();
    let recovered = recover(&daemon, &[]);
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    let file = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    for round in 0..3 {
        assert!(mount.write(&file, 0, &written(round, 0, 4096)).await);
    }
    for _ in 0..5 {
        mount.read(&file, DISK_BYTES / 2, 4096).await;
    }

    // The first is made beside all that.
    let samples = loop {
        let samples = scrape(&daemon).await;
        if samples.keys().any(|sample| metric(sample) == OF_BACKUPS) {
            break samples;
        }
        tokio::task::yield_now().await;
    };
    let job = format!("job=\"{}\"", recovered.id);
    assert_eq!(value(&samples, "rekindle_vm_read_seconds_count", &job), 5.0);
    assert_eq!(value(&samples, "rekindle_vm_write_seconds_count", &job), 3.0);
    assert!(value(&samples, "rekindle_vm_write_seconds_sum", &job) > 0.0);
    assert_eq!(value(&samples, "rekindle_export_writes_total", "export="), 3.0);
    assert_eq!(value(&samples, "rekindle_export_clients", "export="), 1.0);
    assert_eq!(value(&samples, "rekindle_jobs", "serving"), 1.0);
    assert!(value(&samples, "rekindle_journal_batches_total", "") >= 1.0);
    assert_eq!(value(&samples, OF_REPOSITORIES, "repository="), 1.0);

    let shown: BTreeSet<_> = samples.keys().map(|sample| metric(sample).to_owned()).collect();
    let described = described();
    let undescribed: Vec<_> = shown.difference(&described).collect();
    assert!(undescribed.is_empty(), "not described: {undescribed:?}");
    let of_stores = |name: &str| name.starts_with(OF_STORES) && name != OF_REPOSITORIES;
    let passing = |name: &&String| {
        !name.starts_with(OF_MOVERS)
            && ![OF_MIGRATED, OF_WRITERS].contains(&name.as_str())
            && !of_stores(name)
    };
    let missing: Vec<_> = described.difference(&shown).filter(passing).collect();
    assert!(missing.is_empty(), "described and not there: {missing:?}");

    daemon.cli(&["finish", &recovered.id, "discard", "--watch"]);
    let samples = scrape(&daemon).await;
    let left: Vec<_> = samples.keys().filter(|sample| sample.contains(&job)).collect();
    assert!(left.is_empty(), "an ended job has no labels: {left:?}");
    daemon.stop(&[]);
}
