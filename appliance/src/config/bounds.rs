mod notify;

use std::{collections::BTreeSet, ops::RangeInclusive, path::Path};

use rekindle_jobs::UpkeepConfig;
use rekindle_repo::{COMPRESSION_LEVELS, S3Location};

use super::{Config, HotCopySection, RepositoryEntry, TargetEntry, TlsUse};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const YEAR_SECONDS: u64 = 366 * 86_400;
const MONTH_SECONDS: u64 = 30 * 86_400;

/// Says everything that is wrong with a configuration, with what to do about it.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let mut found = Found::default();
    found.absolute("state_dir", &config.state_dir);
    cache(config, &mut found);
    recovery(config, &mut found);
    nfs(config, &mut found);
    console(config, &mut found);
    repositories(config, &mut found);
    targets(config, &mut found);
    notify::check(config, &mut found);
    state_backup(config, &mut found);
    if found.0.is_empty() { Ok(()) } else { Err(found.0.join("\n  ")) }
}

fn cache(config: &Config, found: &mut Found) {
    let cache = &config.cache;
    if let Some(dir) = &cache.root_dir {
        found.absolute("cache.root_dir", dir);
    }
    found.within("cache.ram_bytes", cache.ram_bytes, 16 * MIB..=TIB);
    if let Some(max) = cache.max_bytes {
        found.within("cache.max_bytes", max, 64 * MIB..=1024 * TIB);
    }
    found.within("cache.min_free_percent", cache.min_free_percent.into(), 1..=90);
    if let Some(file) = &cache.key_file {
        found.absolute("cache.key_file", file);
        if file.starts_with(config.cache_dir()) {
            found.add("cache.key_file is in the cache's own directory: keep it elsewhere");
        }
        if cache.key_credential.is_some() {
            found.add("cache.key_file and cache.key_credential exclude each other");
        }
    }
}

fn state_backup(config: &Config, found: &mut Found) {
    let backup = &config.state_backup;
    if let Some(dir) = &backup.dir {
        found.absolute("state_backup.dir", dir);
    }
    found.within("state_backup.every_hours", backup.every_hours, 1..=720);
    found.within("state_backup.keep", backup.keep as u64, 1..=1000);
}

fn recovery(config: &Config, found: &mut Found) {
    let recovery = &config.recovery;
    found.within("recovery.reserve_min_bytes", recovery.reserve_min_bytes, 0..=1024 * TIB);
    found.within("recovery.reserve_percent_of_vm", recovery.reserve_percent_of_vm.into(), 0..=100);
    found.within("recovery.max_active", recovery.max_active as u64, 1..=1000);
    found.within("recovery.max_queued", recovery.max_queued as u64, 0..=10_000);
    found.within(
        "recovery.mount_expires_seconds",
        recovery.mount_expires_seconds,
        60..=YEAR_SECONDS,
    );
    if let Some(dir) = &recovery.gate_scripts_dir {
        found.absolute("recovery.gate_scripts_dir", dir);
    }
    found.within("recovery.keep_seconds", recovery.keep_seconds, 0..=MONTH_SECONDS);
    found.within("recovery.measured_hours", recovery.measured_hours, 1..=8760);
    found.within("recovery.boot_profile_seconds", recovery.boot_profile_seconds, 0..=3600);
    let mover = &config.mover;
    found.within("mover.parallel", mover.parallel as u64, 1..=64);
    if mover.max_bytes_per_second != 0 {
        found.within("mover.max_bytes_per_second", mover.max_bytes_per_second, MIB..=TIB);
    }
    let total = mover.total_max_bytes_per_second;
    if total != 0 {
        found.within("mover.total_max_bytes_per_second", total, MIB..=TIB);
    }
    for hours in &mover.hours {
        let limits = [
            ("mover.hours.total_max_bytes_per_second", hours.total_max_bytes_per_second),
            ("mover.hours.max_bytes_per_second", hours.max_bytes_per_second),
        ];
        for (name, limit) in limits {
            if let Some(limit) = limit.filter(|limit| *limit != 0) {
                found.within(name, limit, MIB..=TIB);
            }
        }
    }
    found.within("number of mover.hours", mover.hours.len() as u64, 0..=24);
    found.within("mover.guest_read_p95_ms", mover.guest_read_p95_ms, 1..=60_000);
    found.within("mover.settle_below_bytes", mover.settle_below_bytes, MIB..=TIB);
    found.within("mover.max_passes", mover.max_passes as u64, 1..=1000);
    found.within("mover.max_moves_per_host", mover.max_moves_per_host as u64, 1..=64);
    found.within("mover.max_moves_per_datastore", mover.max_moves_per_datastore as u64, 1..=64);
}

fn nfs(config: &Config, found: &mut Found) {
    let nfs = &config.nfs;
    found.within("nfs.held_read_seconds", nfs.held_read_seconds, 1..=3600);
    if nfs.advertise.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
        found.add("nfs.advertise must be the address that clients mount from");
    }
}

fn console(config: &Config, found: &mut Found) {
    let console = &config.console;
    let leaves = !console.listen.ip().is_loopback();
    if leaves && !console.speaks_tls() && !console.plain_http_beyond_loopback {
        found.add(format!(
            "console.tls = \"off\" with console.listen = \"{}\" would send the admin token in the clear over \
             the network: leave tls at \"auto\", keep it on 127.0.0.1 behind a TLS proxy or an SSH tunnel, or \
             set console.plain_http_beyond_loopback = true if the network is trusted",
            console.listen
        ));
    }
    if console.key_file.is_some() && console.certificate_file.is_none() {
        found.add("console.key_file needs console.certificate_file");
    }
    if console.certificate_file.is_some() && console.tls == TlsUse::Off {
        found.add("console.certificate_file and console.tls = \"off\" exclude each other");
    }
    for (key, file) in
        [("certificate_file", &console.certificate_file), ("key_file", &console.key_file)]
    {
        if let Some(file) = file {
            found.absolute(&format!("console.{key}"), file);
        }
    }
    if let Some(file) = &console.token_file {
        found.absolute("console.token_file", file);
    }
    if console.token_file.is_some() && console.token_credential.is_some() {
        found.add("console.token_file and console.token_credential exclude each other");
    }
}

fn repositories(config: &Config, found: &mut Found) {
    let names = config.repository.iter().map(|entry| entry.name.as_str());
    found.names("repository", names);
    for entry in &config.repository {
        repository(entry, found);
    }
}

fn repository(entry: &RepositoryEntry, found: &mut Found) {
    let name = format!("repository \"{}\"", entry.name);
    if entry.path.is_some() == entry.bucket.is_some() {
        found.add(format!("{name} needs one of path (a directory) and bucket (on S3)"));
    }
    let files = [
        ("path", &entry.path),
        ("ca_file", &entry.ca_file),
        ("credentials_file", &entry.credentials_file),
        ("passkey_file", &entry.passkey_file),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            found.absolute(&format!("{name}: {key}"), file);
        }
    }
    if entry.credentials_file.is_some() && entry.credentials_credential.is_some() {
        found
            .add(format!("{name}: credentials_file and credentials_credential exclude each other"));
    }
    let s3_only = [
        ("prefix", entry.prefix.is_some()),
        ("endpoint", entry.endpoint.is_some()),
        ("region", entry.region.is_some()),
        ("path_style", entry.path_style.is_some()),
        ("ca_file", entry.ca_file.is_some()),
        ("credentials_file", entry.credentials_file.is_some()),
        ("credentials_credential", entry.credentials_credential.is_some()),
        ("profile", entry.profile.is_some()),
    ];
    for (key, _) in s3_only.into_iter().filter(|(_, given)| *given && entry.bucket.is_none()) {
        found.add(format!("{name}: {key} is for repositories on S3, which have a bucket"));
    }
    if let Some(bucket) = &entry.bucket
        && let Err(error) = S3Location::new(bucket, entry.prefix.as_deref().unwrap_or_default())
    {
        found.add(format!("{name}: {error}"));
    }
    if let Some(url) = &entry.endpoint
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        found.add(format!("{name}: endpoint {url:?} is no http:// or https:// URL"));
    }
    let passkeys = entry.passkey_file.is_some()
        || entry.passkey_credential.is_some()
        || entry.recover_needs_passkey.is_some();
    if entry.has_images() && passkeys {
        found.add(format!("{name}: a repository of images is not sealed and has no passkeys"));
    }
    if entry.has_images() && entry.upkeep() != UpkeepConfig::default() {
        found.add(format!("{name}: a repository of images is not pruned and has nothing to keep"));
    }
    if let Some(hot) = &entry.hot_copy {
        hot_copy(hot, entry, found);
    }
    let sealed = entry.passkey_file.is_some() || entry.passkey_credential.is_some();
    if entry.passkey_file.is_some() && entry.passkey_credential.is_some() {
        found.add(format!("{name}: passkey_file and passkey_credential exclude each other"));
    }
    if entry.recover_needs_passkey == Some(true) && !sealed {
        found
            .add(format!("{name}: recover_needs_passkey needs passkey_file or passkey_credential"));
    }
    if let Some(level) = entry.compression_level
        && !COMPRESSION_LEVELS.contains(&level)
    {
        found.add(format!("{name}: compression_level = {level} must be from 1 to 19"));
    }
    upkeep(&name, entry, found);
}

fn upkeep(name: &str, entry: &RepositoryEntry, found: &mut Found) {
    let counts = [
        ("keep_last", entry.keep_last),
        ("keep_daily", entry.keep_daily),
        ("keep_weekly", entry.keep_weekly),
        ("keep_monthly", entry.keep_monthly),
        ("keep_yearly", entry.keep_yearly),
    ];
    for (key, count) in counts {
        found.within(&format!("{name}: {key}"), count.unwrap_or(0).into(), 0..=100_000);
    }
    if let Some(hours) = entry.prune_grace_hours {
        found.within(&format!("{name}: prune_grace_hours"), hours.into(), 1..=YEAR_SECONDS / 3600);
    }
    if let Err(error) = entry.upkeep().retention.validate() {
        found.add(format!("{name}: {error}"));
    }
}

fn hot_copy(hot: &HotCopySection, entry: &RepositoryEntry, found: &mut Found) {
    let name = format!("repository \"{}\": hot_copy", entry.name);
    found.absolute(&format!("{name}.dir"), &hot.dir);
    if entry.bucket.is_none() || entry.has_images() {
        found.add(format!("{name} is for repositories of points on S3, which have a bucket"));
    }
    if hot.from.is_some() != hot.to.is_some() {
        found.add(format!("{name}.from and {name}.to go together"));
    }
    found.within(&format!("{name}.max_bytes"), hot.max_bytes, 64 * MIB..=1024 * TIB);
    if hot.max_bytes_per_second != 0 {
        let rate = hot.max_bytes_per_second;
        found.within(&format!("{name}.max_bytes_per_second"), rate, MIB..=TIB);
    }
}

fn targets(config: &Config, found: &mut Found) {
    found.names("target", config.target.iter().map(|entry| entry.name.as_str()));
    for entry in &config.target {
        if entry.server.is_none() && config.nfs.advertise.is_none() {
            found.add(format!(
                "target \"{}\": hosts must know where to mount from: set nfs.advertise to this appliance's \
                 address, or the target's own `server`",
                entry.name
            ));
        }
        target(entry, found);
    }
}

fn target(entry: &TargetEntry, found: &mut Found) {
    let name = format!("target \"{}\"", entry.name);
    if entry.password_file.is_some() == entry.password_credential.is_some() {
        found.add(format!("{name} needs one of password_file and password_credential"));
    }
    if entry.thumbprint.is_some() && entry.ca_file.is_some() {
        found.add(format!("{name}: thumbprint and ca_file exclude each other"));
    }
    if entry.user.is_empty() {
        found.add(format!("{name}: user is empty"));
    }
    for (key, file) in [("password_file", &entry.password_file), ("ca_file", &entry.ca_file)] {
        if let Some(file) = file {
            found.absolute(&format!("{name}: {key}"), file);
        }
    }
}

/// What was found wrong so far.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    fn within(&mut self, key: &str, value: u64, bounds: RangeInclusive<u64>) {
        if !bounds.contains(&value) {
            let (least, most) = bounds.into_inner();
            self.add(format!("{key} = {value} must be from {least} to {most}"));
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(format!("{key} = \"{}\" must be an absolute path", path.display()));
        }
    }

    fn names<'a>(&mut self, what: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = BTreeSet::new();
        for name in names {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                self.add(format!(
                    "{what} name \"{name}\" must be 1 to 64 letters, digits, dots, dashes or underscores"
                ));
            }
            if !seen.insert(name) {
                self.add(format!("{what} name \"{name}\" is used twice"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn problem(text: &str) -> String {
        match parse(text) {
            Ok(config) => check(&config).expect_err(text),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_defaults_are_within_their_bounds() {
        check(&Config::default()).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("stat_dir = '/x'", "unknown field `stat_dir`"),
            ("[cache]\nram = 5", "unknown field `ram`"),
            ("[cache]\nram_bytes = 5", "cache.ram_bytes = 5 must be from 16777216"),
            ("[cache]\nmin_free_percent = 95", "cache.min_free_percent = 95"),
            ("[cache]\nmin_free_percent = 'lots'", "invalid type"),
            ("[cache]\nroot_dir = 'here'", "must be an absolute path"),
            ("[state_backup]\ndir = 'here'", "must be an absolute path"),
            ("[state_backup]\nkeep = 0", "state_backup.keep = 0"),
            ("[state_backup]\nevery_hours = 0", "state_backup.every_hours = 0"),
            ("[cache]\nkey_file = 'here'", "must be an absolute path"),
            ("[cache]\nkey_file = '/x'\nkey_credential = 'y'", "exclude each other"),
            ("[cache]\nroot_dir = '/x'\nkey_file = '/x/y'", "keep it elsewhere"),
            ("[nfs]\nport = 70000", "70000"),
            ("[nfs]\nportmap = 'maybe'", "unknown variant `maybe`"),
            ("[console]\nlisten = '0.0.0.0:8480'\ntls = 'off'", "plain_http_beyond_loopback"),
            ("[console]\ntls = 'maybe'", "unknown variant `maybe`"),
            ("[console]\nkey_file = '/k'", "needs console.certificate_file"),
            ("[console]\ntls = 'off'\ncertificate_file = '/c'", "exclude each other"),
            ("[console]\ncertificate_file = 'c'", "must be an absolute path"),
            ("[[repository]]\nname = 'a b'\npath = '/x'", "letters"),
            ("[[repository]]\nname = 'a'", "needs one of path"),
            (
                "[[repository]]\nname='a'\npath='/x'\n[[repository]]\nname='a'\npath='/y'",
                "used twice",
            ),
            ("[[target]]\nname='a'\nkind='vsphere'\nurl='u'\nuser='v'", "password_file"),
            (
                "[[target]]\nname='a'\nkind='vsphere'\nurl='u'\nuser='v'\npassword='secret'",
                "unknown field `password`",
            ),
            ("[[repository]]\nname='a'\npath='/x'\npasskey='secret'", "unknown field `passkey`"),
            (
                "[[repository]]\nname='a'\npath='/x'\npasskey_file='/x'\npasskey_credential='y'",
                "exclude each other",
            ),
            (
                "[[repository]]\nname='a'\npath='/x'\nrecover_needs_passkey=true",
                "needs passkey_file",
            ),
            ("[[repository]]\nname='a'\npath='/x'\nkind='disks'", "unknown variant `disks`"),
            (
                "[[repository]]\nname='a'\npath='/x'\nkind='images'\npasskey_file='/x'",
                "images is not sealed",
            ),
            (
                "[[repository]]\nname='a'\npath='/x'\nkind='images'\nkeep_last=3",
                "images is not pruned",
            ),
            (
                "[[repository]]\nname='a'\npath='/x'\nprune_grace_hours=0",
                "prune_grace_hours = 0 must be from 1",
            ),
            (
                "[[repository]]\nname='a'\npath='/x'\ncompression_level=20",
                "compression_level = 20 must be from 1",
            ),
            ("[[repository]]\nname='a'\npath='/x'\nkeep_daily=-1", "invalid value"),
            ("[[repository]]\nname='a'\npath='/x'\nkeep_tags=['gold']", "tags alone"),
            ("[recovery]\nmax_active = 0", "recovery.max_active = 0 must be from 1"),
        ];
        for (text, expected) in cases {
            let found = problem(text);
            assert!(found.contains(expected), "{text}\n{found}");
        }
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_it_is_said_not_to_be() {
        let cases = [
            ("", false),
            ("tls = 'on'", true),
            ("listen = '0.0.0.0:1'", true),
            ("listen = '0.0.0.0:1'\nplain_http_beyond_loopback = true", false),
            ("listen = '0.0.0.0:1'\nplain_http_beyond_loopback = true\ntls = 'on'", true),
            ("certificate_file = '/c'", true),
        ];
        for (text, encrypted) in cases {
            let config = parse(&format!("[console]\n{text}")).unwrap();
            check(&config).unwrap();
            assert_eq!(config.console.speaks_tls(), encrypted, "{text}");
        }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let found = problem("state_dir = 'x'\n[cache]\nram_bytes = 1\n[mover]\nparallel = 0");
        assert_eq!(found.lines().count(), 3, "{found}");
    }
}
