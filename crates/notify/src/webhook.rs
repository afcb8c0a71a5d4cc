//! A POST of the event as JSON, signed as Standard Webhooks has it (<https://www.standardwebhooks.com>, version 1.0.0).
//!
//! ```text
//! webhook-id: the event's id
//! webhook-timestamp: seconds since 1970 of this attempt
//! webhook-signature: v1,BASE64(HMAC-SHA-256(secret, id "." timestamp "." body))
//! ```
//! A secret that begins with `whsec_` is the base64 behind it, any other is its bytes.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::{Client, Response, Url, header, redirect};
use ring::hmac;

use crate::channel::ANSWER_MAX;
use crate::event::one_line;
use crate::{Event, NotifyError};

/// The shortest secret, in bytes.
pub const SECRET_MIN_BYTES: usize = 24;
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// One that is told by HTTP.
pub struct Webhook {
    http: Client,
    url: Url,
    key: hmac::Key,
}

impl Webhook {
    /// Posts to `url`, signed with `secret`. With `ca`, the certificates in this PEM text are trusted and no others.
    pub fn new(url: &str, secret: &str, ca: Option<&[u8]>) -> Result<Self, NotifyError> {
        let url = address(url)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key(secret)?);
        // reqwest takes the process's provider; it may be set already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().tls_backend_rustls();
        if let Some(pem) = ca {
            let bad = |e| NotifyError::refused(format!("the CA file: {e}"));
            let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(bad)?;
            if roots.is_empty() {
                return Err(NotifyError::refused("the CA file has no certificate in it"));
            }
            builder = builder.tls_certs_only(roots);
        }
        let http = builder
            .connect_timeout(CONNECT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("rekindle/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| NotifyError::refused(format!("set up the HTTP client: {e}")))?;
        Ok(Self { http, url, key })
    }

    /// Refuses what is no address to post to.
    pub fn check_url(url: &str) -> Result<(), NotifyError> {
        address(url).map(drop)
    }

    /// Scheme, host and port.
    pub(crate) fn to(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    pub(crate) async fn send(&self, event: &Event) -> Result<String, NotifyError> {
        let body = serde_json::to_vec(event).map_err(|e| NotifyError::undelivered(&e))?;
        let now = Timestamp::now().as_second();
        let request = self
            .http
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &event.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", self.signature(&event.id, now, &body))
            .body(body);
        // An address may have a path that is secret.
        let sent = request.send().await.map_err(|e| NotifyError::undelivered(&e.without_url()))?;
        let status = sent.status();
        let said = format!("{status} {}", beginning(sent).await);
        match status.is_success() {
            true => Ok(said.trim_end().to_owned()),
            false => Err(NotifyError::Undelivered(said.trim_end().to_owned())),
        }
    }

    fn signature(&self, id: &str, at: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(format!("{id}.{at}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

fn address(url: &str) -> Result<Url, NotifyError> {
    let bad = |why: &str| NotifyError::refused(format!("the url {why}"));
    let url: Url = url.parse().map_err(|e| bad(&format!("is none: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("must begin with https:// or http://, and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("must not have a user or password in it"));
    }
    Ok(url)
}

fn key(secret: &str) -> Result<Vec<u8>, NotifyError> {
    let key = match secret.strip_prefix("whsec_") {
        Some(text) => STANDARD
            .decode(text)
            .map_err(|_| NotifyError::refused("the secret is not base64 behind whsec_"))?,
        None => secret.as_bytes().to_vec(),
    };
    if key.len() < SECRET_MIN_BYTES {
        let why = format!("the secret has fewer than {SECRET_MIN_BYTES} bytes");
        return Err(NotifyError::refused(why));
    }
    Ok(key)
}

/// How an answer begins. What follows is not read.
async fn beginning(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                let room = ANSWER_MAX - bytes.len();
                bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Ok(None) | Err(_) => break,
        }
    }
    one_line(&String::from_utf8_lossy(&bytes), ANSWER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn a_signature_is_what_others_compute() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let webhook = Webhook::new("https://example.org/in", secret, None).unwrap();
        let found = webhook.signature(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(found, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_bad_address_or_secret_is_refused() {
        let secret = "0123456789abcdef01234567";
        assert!(Webhook::new("http://127.0.0.1:1/x", secret, None).is_ok());
        for (url, secret) in [
            ("ftp://example.org", secret),
            ("https://user:word@example.org", secret),
            ("nowhere", secret),
            ("https://example.org", "short"),
            ("https://example.org", "whsec_%%%"),
        ] {
            let error = Webhook::new(url, secret, None).err().unwrap().to_string();
            assert!(!error.contains("word@"), "{error}");
        }
        assert!(Webhook::new("https://example.org", secret, Some(b"no certificate")).is_err());
    }

    #[test]
    fn only_the_origin_is_shown() {
        let secret = "0123456789abcdef01234567";
        let webhook = Webhook::new("https://example.org/hidden?token=x", secret, None).unwrap();
        assert_eq!(webhook.to(), "https://example.org");
    }
}
