//! Peers that are not vSphere, or mean harm: each gets an error of ours, soon and within bounds.

use std::time::{Duration, Instant};

use rekindle_vsphere::{Endpoint, Limits, Secret, Vsphere, VsphereError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Answers one connection with `head` and then `body` as often as it is taken.
async fn peer(head: &'static str, body: &'static [u8], times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(head.as_bytes()).await;
        for _ in 0..times {
            if stream.write_all(body).await.is_err() {
                break;
            }
        }
        if head.ends_with("hang\r\n\r\n") {
            std::future::pending::<()>().await;
        }
    });
    format!("http://{address}")
}

async fn error(head: &'static str, body: &'static [u8], times: usize) -> VsphereError {
    let mut endpoint = Endpoint::new(peer(head, body, times).await, "u", Secret::new("p"));
    endpoint.limits = Limits { call: Duration::from_secs(3), ..Limits::default() };
    let began = Instant::now();
    let error = Vsphere::connect(endpoint).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20), "{error:?}");
    error
}

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_is_not_soap_makes_no_sense() {
    let page: &[u8] = b"<html><head><title>hello</title></head><body></body></html>";
    let dtd: &[u8] = b"<!DOCTYPE x [<!ENTITY a \"aaaa\">]><Envelope><Body>&a;</Body></Envelope>";
    let cut: &[u8] = b"<Envelope><Body><RetrieveServiceContentResponse><returnval>";
    let hollow: &[u8] = b"<Envelope><Body><RetrieveServiceContentResponse/></Body></Envelope>";
    for body in [page, dtd, cut, hollow, b"", b"\0\xff\xfe", b"rubbish"] {
        let error = error(OK, body, 1).await;
        assert!(matches!(error, VsphereError::Garbled { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn endless_answers_are_cut_off() {
    let text = error(OK, &[b' '; 65536], usize::MAX).await;
    assert!(text.to_string().contains("over 8388608 bytes"), "{text}");
    let deep = error(OK, b"<a><a><a><a><a><a><a><a>", 100_000).await;
    assert!(deep.to_string().contains("nested"), "{deep}");
}

#[tokio::test]
async fn http_errors_and_redirects_are_not_followed() {
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    assert!(matches!(error(moved, b"", 1).await, VsphereError::Garbled { .. }));
    let away = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    assert!(matches!(error(away, b"", 1).await, VsphereError::Unreachable { .. }));
    let broken = "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\n";
    assert!(matches!(error(broken, b"oops", 1).await, VsphereError::Unreachable { .. }));
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n";
    assert!(matches!(error(short, b"<Envelope>", 1).await, VsphereError::Unreachable { .. }));
    assert!(matches!(error("SSH-2.0-OpenSSH\r\n", b"", 1).await, VsphereError::Unreachable { .. }));
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let head = "HTTP/1.1 200 OK\r\nX: hang\r\n\r\n";
    assert!(matches!(error(head, b"", 0).await, VsphereError::TimedOut { .. }));
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = Endpoint::new(format!("https://{closed}"), "u", Secret::new("p"));
    let error = Vsphere::connect(endpoint).await.unwrap_err();
    assert!(matches!(error, VsphereError::Unreachable { .. }), "{error:?}");
}
