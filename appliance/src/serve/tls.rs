use std::{net::IpAddr, sync::Arc, time::Duration};

use rekindle_console::{Fingerprint, Tls, TlsError, TlsFiles, make_self_signed};
use tokio::{signal::unix::Signal, task::spawn_blocking, time::interval};

use crate::{
    config::Config,
    exit::{Failure, Kind},
    local,
};

/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The console's certificate: the configured one, or our own, made at the first start. `None` where the
/// console speaks plain HTTP.
pub(super) fn open(config: &Config) -> Result<Option<Arc<Tls>>, Failure> {
    if !config.console.speaks_tls() {
        return Ok(None);
    }
    let opened = files(config).and_then(Tls::open);
    let tls = opened.map_err(|e| Failure::said(Kind::Refused, format!("console: {e}")))?;
    tracing::info!(fingerprint = %tls.fingerprint(), "the console's certificate");
    Ok(Some(Arc::new(tls)))
}

fn files(config: &Config) -> Result<TlsFiles, TlsError> {
    let console = &config.console;
    match (&console.certificate_file, &console.key_file) {
        (Some(certificate), key) => {
            let key = key.as_ref().unwrap_or(certificate).clone();
            Ok(TlsFiles { certificate: certificate.clone(), key })
        }
        (None, _) => make_self_signed(&config.state_dir.join("tls"), &names(config)),
    }
}

/// What the appliance may be called: its host name, where it listens, and where hosts find it.
fn names(config: &Config) -> Vec<String> {
    let host = local::host_name();
    let addresses = [Some(config.console.listen.ip()), config.nfs.advertise];
    let addresses = addresses.into_iter().flatten().filter(|ip: &IpAddr| !ip.is_unspecified());
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host.filter(|name| name.is_ascii()));
    names.extend(addresses.map(|ip| ip.to_string()));
    names.sort();
    names.dedup();
    names
}

/// Takes a replaced certificate: when its files change, and at SIGHUP.
pub(super) async fn watch(tls: Option<Arc<Tls>>, mut hangup: Signal) {
    let mut look = interval(LOOK);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = look.tick() => false,
        };
        let Some(tls) = tls.clone() else { continue };
        let read = move || if asked { tls.reload() } else { tls.refresh() };
        if let Ok(read) = spawn_blocking(read).await {
            told(read);
        }
    }
}

fn told(read: Result<Option<Fingerprint>, TlsError>) {
    match read {
        Ok(None) => {}
        Ok(Some(now)) => tracing::info!(fingerprint = %now, "the console has a new certificate"),
        Err(error) => {
            tracing::warn!(%error, "the new certificate is no good, the old one is used on");
        }
    }
}
