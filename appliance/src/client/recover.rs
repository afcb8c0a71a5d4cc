use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    cli::{Format, Migration, RecoverArgs},
    config::read_secret,
    exit::Failure,
    local::passkey,
};

pub(super) mod cut_over;
mod hardware;
mod in_place;

/// The body of `POST /api/v1/recoveries` that the arguments mean.
pub(super) fn request(args: &RecoverArgs) -> Result<Value, Failure> {
    let mut body = json!({
        "mode": mode(args),
        "target": target(args),
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[key] = value;
        }
    };
    set("point", args.point.clone().map(Value::from));
    set("from_job", args.from_job.clone().map(Value::from));
    set("before", args.before.map(|at| at.to_string().into()));
    set("tag", args.tag.clone().map(Value::from));
    if let Some(file) = &args.passkey_file {
        // Checked here, so that a bad one is not sent; sent as it stands in the file.
        passkey::from_file(file)?;
        set("passkey", Some(read_secret(Some(file), None)?.into()));
    }
    set("repository", args.repository.clone().map(Value::from));
    set("name", args.name.clone().map(Value::from));
    set("name_prefix", args.name_prefix.clone().map(Value::from));
    set("name_suffix", args.name_suffix.clone().map(Value::from));
    set(
        "migrate",
        destination(args.to_directory.as_deref(), args.format, args.to_datastore.as_deref())?,
    );
    set("migration", args.migration.map(migration));
    set("expires_in_seconds", args.expires_in_seconds.map(Value::from));
    set("disks", (!args.disks.is_empty()).then(|| args.disks.clone().into()));
    set("keep_seconds", args.keep_seconds.map(Value::from));
    set("power_on", args.no_power_on.then_some(Value::from(false)));
    set("cut_over", cut_over::key(&args.cut_over));
    set("verify", cut_over::verify(&args.cut_over)?);
    for (key, value) in hardware::keys(&args.hardware)? {
        set(key, Some(value));
    }
    if let Some(which) = &args.attach_to {
        set("attach_to", Some(in_place::vm("--attach-to", which)?));
    }
    if let Some(in_place) = in_place::key(&args.in_place)? {
        set("in_place", Some(in_place));
    }
    Ok(body)
}

fn mode(args: &RecoverArgs) -> &'static str {
    match (args.mount, args.disk_only, args.full) {
        (true, _, _) => "live_mount",
        (_, true, _) => "disk_only",
        (_, _, true) => "full_restore",
        (false, false, false) => "live_recovery",
    }
}

fn target(args: &RecoverArgs) -> Value {
    match (&args.target, &args.host) {
        (None, _) if args.full => json!({ "kind": "nowhere" }),
        (None, _) => json!({ "kind": "export", "clients": args.clients }),
        (Some(name), None) => json!({ "kind": "vsphere", "name": name }),
        (Some(name), Some(host)) => json!({ "kind": "vsphere", "name": name, "host": host }),
    }
}

/// Where a migration ends. A relative directory would mean another one to the appliance.
pub(super) fn destination(
    directory: Option<&Path>,
    format: Option<Format>,
    datastore: Option<&str>,
) -> Result<Option<Value>, Failure> {
    match (directory, datastore) {
        (Some(directory), _) if !directory.is_absolute() => Err(Failure::refused(format!(
            "--to-directory {} must be an absolute path on the appliance",
            directory.display()
        ))),
        (Some(directory), _) => Ok(Some(match format {
            None => json!({ "directory": directory }),
            Some(format) => {
                json!({ "images": { "directory": directory, "format": format.as_str() } })
            }
        })),
        (None, Some(datastore)) => Ok(Some(json!({ "datastore": datastore }))),
        (None, None) => Ok(None),
    }
}

fn migration(when: Migration) -> Value {
    match when {
        Migration::Automatic => "automatic".into(),
        Migration::Manual => "manual".into(),
    }
}

pub(super) fn random_key() -> Result<String, Failure> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).context("make a random key")?;
    Ok(hex::encode(key))
}
