//! Who is trusted: nothing is said to a server whose certificate was not checked.

use std::fs;

use rekindle_vsphere::{Endpoint, Thumbprint, Trust, Vsphere, VsphereError, look_at_certificate};

use super::process::Server;

/// The stand-in over TLS, and its authority's certificate; without openssl there is none to be made.
fn secured() -> Option<(Server, Vec<u8>)> {
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: no openssl");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standin(&["--tls", "--cert-dir", folder.path().to_str().unwrap()]);
    let pem = fs::read(folder.path().join("ca.pem")).unwrap();
    Some((server, pem))
}

fn trusting(server: &Server, trust: Trust) -> Endpoint {
    Endpoint { trust, ..server.endpoint() }
}

#[tokio::test]
async fn a_pinned_certificate_is_trusted_by_either_hash() {
    let Some((server, _)) = secured() else { return };
    let seen = look_at_certificate(&server.endpoint()).await.unwrap();
    assert_eq!(seen.sha1.to_string(), server.thumbprint);
    for print in [seen.sha1, seen.sha256] {
        let vsphere = Vsphere::connect(trusting(&server, Trust::Thumbprint(print))).await.unwrap();
        assert_eq!(vsphere.hosts().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn other_certificates_are_not_trusted_and_nothing_is_sent() {
    let Some((server, _)) = secured() else { return };
    let (_, stranger) = secured().unwrap();
    let seen = look_at_certificate(&server.endpoint()).await.unwrap();
    for trust in [
        Trust::Thumbprint(Thumbprint::Sha1([7; 20])),
        Trust::Thumbprint(Thumbprint::Sha256([7; 32])),
        Trust::System,
        Trust::Ca(stranger),
    ] {
        let what = format!("{trust:?}").chars().take(20).collect::<String>();
        match Vsphere::connect(trusting(&server, trust)).await {
            Err(VsphereError::Untrusted { seen: Some(told), .. }) => {
                assert_eq!(*told, seen, "{what}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(server.calls("RetrieveServiceContent") + server.calls("Login"), 0);
}

#[tokio::test]
async fn a_named_authority_is_trusted_for_the_right_name_only() {
    let Some((server, pem)) = secured() else { return };
    Vsphere::connect(trusting(&server, Trust::Ca(pem.clone()))).await.unwrap();
    let mut elsewhere = trusting(&server, Trust::Ca(pem));
    elsewhere.url = elsewhere.url.replace("127.0.0.1", "127.0.0.2");
    // The stand-in does not listen there: what matters is that 127.0.0.1's name is not taken for it.
    assert!(Vsphere::connect(elsewhere).await.is_err());
    let bad = Vsphere::connect(trusting(&server, Trust::Ca(b"not a certificate".to_vec()))).await;
    assert!(matches!(bad, Err(VsphereError::BadEndpoint { .. })), "{bad:?}");
}
