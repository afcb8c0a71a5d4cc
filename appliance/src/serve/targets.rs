use std::{collections::BTreeMap, fs};

use anyhow::Context;
use rekindle_console::TargetView;
use rekindle_jobs::{Target, VsphereTarget};
use rekindle_vsphere::{Endpoint, Secret, Trust};

use crate::{
    config::{Config, TargetEntry, TargetKind, read_secret},
    exit::{Failure, Kind},
};

/// The configured targets, with their secrets read. None is connected to yet.
pub(super) fn open(config: &Config) -> Result<BTreeMap<String, Target>, Failure> {
    let open = |entry: &TargetEntry| {
        let target = match entry.kind {
            TargetKind::Vsphere => vsphere(config, entry).map(Target::Vsphere),
        };
        let target = target
            .with_context(|| format!("set up target \"{}\"", entry.name))
            .map_err(|e| Failure::new(Kind::Refused, e))?;
        Ok((entry.name.clone(), target))
    };
    config.target.iter().map(open).collect()
}

fn vsphere(config: &Config, entry: &TargetEntry) -> anyhow::Result<VsphereTarget> {
    let endpoint = endpoint(entry)?;
    let advertised = || config.nfs.advertise.map(|ip| ip.to_string());
    let server = entry.server.clone().or_else(advertised).context("nfs.advertise is not set")?;
    Ok(VsphereTarget {
        endpoint,
        host: entry.host.clone(),
        server,
        datastore: entry.datastore.clone(),
        clients: entry.clients.clone(),
    })
}

/// Where a target is, with its secret read.
pub(crate) fn endpoint(entry: &TargetEntry) -> anyhow::Result<Endpoint> {
    let password =
        read_secret(entry.password_file.as_deref(), entry.password_credential.as_deref())?;
    let mut endpoint = Endpoint::new(&entry.url, &entry.user, Secret::new(password));
    endpoint.trust = trust(entry)?;
    Ok(endpoint)
}

fn trust(entry: &TargetEntry) -> anyhow::Result<Trust> {
    match (&entry.thumbprint, &entry.ca_file) {
        (Some(thumbprint), _) => Ok(Trust::Thumbprint(thumbprint.parse()?)),
        (None, Some(file)) => {
            let pem = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            Ok(Trust::Ca(pem))
        }
        (None, None) => Ok(Trust::System),
    }
}

/// The targets as the console shows them.
pub(super) fn views(entries: &[TargetEntry]) -> Vec<TargetView> {
    let view = |entry: &TargetEntry| TargetView {
        name: entry.name.clone(),
        kind: match entry.kind {
            TargetKind::Vsphere => "vsphere".to_owned(),
        },
        url: entry.url.clone(),
        host: entry.host.clone(),
    };
    entries.iter().map(view).collect()
}
