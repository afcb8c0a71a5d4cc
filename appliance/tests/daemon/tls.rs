//! The console's port with TLS: whom its clients trust, and what a replaced certificate does.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use reqwest::{Client, StatusCode, redirect::Policy};

use super::process::{Daemon, Site, wait_for};

fn site() -> Site {
    let site = Site::new();
    site.console("tls = \"on\"");
    site
}

fn certificate(site: &Site) -> PathBuf {
    site.state().join("tls/certificate.pem")
}

/// A client before it is built. Another test of this process may have installed the same provider.
fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
}

/// The fingerprint that the daemon logged last.
fn fingerprint(daemon: &Daemon) -> String {
    daemon.logged("fingerprint").last().unwrap().clone()
}

#[tokio::test]
async fn the_client_trusts_one_certificate_and_no_other() {
    let site = site();
    let daemon = site.start();
    assert!(daemon.url.starts_with("https://"), "{}", daemon.url);
    let pin = fingerprint(&daemon);
    daemon.cli(&["jobs", "--fingerprint", &pin]);
    let ca = certificate(&site);
    daemon.cli(&["jobs", "--ca-file", ca.to_str().unwrap()]);
    let (status, said) = daemon.cli_fails(&["jobs"]);
    assert!(status == 6 && said.contains("--fingerprint"), "{status} {said}");
    let wrong = pin.replace(&pin[..2], if &pin[..2] == "00" { "11" } else { "00" });
    let (status, said) = daemon.cli_fails(&["jobs", "--fingerprint", &wrong]);
    assert!(status == 6 && said.contains("not trusted"), "{status} {said}");
    daemon.stop(&[]);
}

#[tokio::test]
async fn plain_http_is_sent_to_https_and_its_secrets_are_refused() {
    let site = site();
    let daemon = site.start();
    let plain = daemon.url.replacen("https", "http", 1);
    let http = client().redirect(Policy::none()).build().unwrap();
    let sent = http.get(format!("{plain}x")).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(sent.headers()["location"].to_str().unwrap(), format!("{}x", daemon.url));
    let secret = http.get(&plain).bearer_auth(daemon.token()).send().await.unwrap();
    assert_eq!(secret.status(), StatusCode::BAD_REQUEST);
    let post = http.post(format!("{plain}api/v1/session")).send().await.unwrap();
    assert_eq!(post.status(), StatusCode::BAD_REQUEST);
    daemon.stop(&[]);
}

#[tokio::test]
async fn a_session_cookie_is_for_encrypted_connections_only() {
    let site = site();
    let daemon = site.start();
    let pem = fs::read(certificate(&site)).unwrap();
    let builder = client();
    let roots = reqwest::Certificate::from_pem_bundle(&pem).unwrap();
    let http = builder.tls_certs_only(roots).build().unwrap();
    let answer = http
        .post(format!("{}api/v1/session", daemon.url))
        .header("origin", daemon.url.trim_end_matches('/'))
        .header("x-rekindle-console", "1")
        .json(&serde_json::json!({ "token": daemon.token() }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert!(answer.headers()["set-cookie"].to_str().unwrap().contains("; Secure"));
    daemon.stop(&[]);
}

#[test]
fn a_replaced_certificate_is_taken_without_a_restart() {
    let (site, other) = (site(), site());
    let theirs = other.start();
    let new = fingerprint(&theirs);
    theirs.stop(&[]);
    let daemon = site.start();
    let old = fingerprint(&daemon);
    assert!(old != new);
    let identity = site.state().join("tls/identity.pem");
    fs::copy(other.state().join("tls/identity.pem"), &identity).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_for("the new certificate", || fingerprint(&daemon) == new);
    daemon.cli(&["jobs", "--fingerprint", &new]);
    daemon.cli_fails(&["jobs", "--fingerprint", &old]);
    // Without a signal, the files are looked at; what is no good is not taken.
    fs::write(&identity, "nothing").unwrap();
    wait_for("the bad one is told", || !daemon.logged("error").is_empty());
    daemon.cli(&["jobs", "--fingerprint", &new]);
    daemon.stop(&["the new certificate is no good"]);
}
