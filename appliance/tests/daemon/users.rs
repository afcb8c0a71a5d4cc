//! Users, their tokens and second factors, and what their roles and scopes keep from them.

use std::{fs, time::SystemTime};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use ring::hmac;
use serde_json::{Value, json};

use super::process::{Daemon, Site};

const PASSWORD: &str = "correct horse battery";
const NOBODY: &str = "20250101-000000-0000";

/// Makes a user by the command line.
fn add(site: &Site, daemon: &Daemon, name: &str, more: &[&str]) {
    let file = site.path("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let file = file.to_str().unwrap();
    let mut args = vec!["user", "add", name, "--password-file", file];
    args.extend(more);
    let made = daemon.cli(&args);
    assert_eq!(made["name"], name);
    assert!(!made.to_string().contains("hash"), "{made}");
}

/// An API token for `user`, made by the admin.
fn token(daemon: &Daemon, user: &str, more: &[&str]) -> String {
    let mut args = vec!["user", "token", "add", "test", "--user", user];
    args.extend(more);
    daemon.cli(&args)["token"].as_str().unwrap().to_owned()
}

struct Caller<'a> {
    daemon: &'a Daemon,
    http: Client,
}

impl<'a> Caller<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        // Another test of this process may have installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { daemon, http: Client::new() }
    }

    fn page(&self, method: Method, path: &str) -> RequestBuilder {
        let origin = self.daemon.url.trim_end_matches('/').to_owned();
        let url = format!("{}api/v1/{path}", self.daemon.url);
        self.http.request(method, url).header("origin", origin).header("x-rekindle-console", "1")
    }

    async fn log_in(&self, user: &str, password: &str, totp: Option<&str>) -> Response {
        let mut body = json!({ "user": user, "password": password });
        if let Some(code) = totp {
            body["totp"] = code.into();
        }
        self.page(Method::POST, "session").json(&body).send().await.unwrap()
    }

    /// The status of a call with a token.
    async fn status(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> StatusCode {
        let url = format!("{}{path}", self.daemon.url);
        let mut request = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap().status()
    }
}

fn cookie(answer: &Response) -> String {
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let set = answer.headers()["set-cookie"].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_role_may_do_what_it_says_and_no_more() {
    let site = Site::new();
    let daemon = site.start();
    add(&site, &daemon, "val", &["--role", "viewer"]);
    add(&site, &daemon, "ola", &["--role", "operator"]);
    let (viewer, operator) = (token(&daemon, "val", &[]), token(&daemon, "ola", &[]));
    let low = token(&daemon, "ola", &["--role", "viewer"]);
    let caller = Caller::new(&daemon);
    let cancel = format!("api/v1/jobs/{NOBODY}/cancel");
    let cases = [
        (&viewer, Method::GET, "api/v1/jobs", StatusCode::OK),
        (&viewer, Method::GET, "metrics", StatusCode::OK),
        (&viewer, Method::POST, &cancel, StatusCode::FORBIDDEN),
        (&viewer, Method::POST, "api/v1/recoveries", StatusCode::FORBIDDEN),
        (&viewer, Method::GET, "api/v1/users", StatusCode::FORBIDDEN),
        (&viewer, Method::GET, "api/v1/users/val", StatusCode::OK),
        (&viewer, Method::GET, "api/v1/users/ola", StatusCode::FORBIDDEN),
        (&operator, Method::POST, &cancel, StatusCode::NOT_FOUND),
        (&operator, Method::DELETE, "api/v1/users/val", StatusCode::FORBIDDEN),
        (&operator, Method::POST, "api/v1/users/ola/totp", StatusCode::FORBIDDEN),
        (&low, Method::POST, &cancel, StatusCode::FORBIDDEN),
    ];
    for (token, method, path, expected) in cases {
        assert_eq!(
            caller.status(token, method.clone(), path, None).await,
            expected,
            "{method} {path}"
        );
    }
    // A token makes no other, and ends with its user and when it is removed.
    let more = json!({ "name": "more", "expires_in_seconds": 60 });
    let status = caller.status(&operator, Method::POST, "api/v1/tokens", Some(more)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    daemon.cli(&["user", "grant", "ola", "--role", "viewer"]);
    assert_eq!(caller.status(&operator, Method::POST, &cancel, None).await, StatusCode::FORBIDDEN);
    let id = daemon.cli(&["user", "token", "ls"])["tokens"][0]["id"].as_str().unwrap().to_owned();
    daemon.cli(&["user", "token", "rm", &id]);
    daemon.cli(&["user", "rm", "val"]);
    daemon.cli(&["user", "rm", "ola"]);
    for token in [&viewer, &operator, &low] {
        let status = caller.status(token, Method::GET, "api/v1/jobs", None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    daemon.stop(&[]);
}

#[tokio::test]
async fn what_is_outside_a_scope_is_not_there() {
    let site = Site::new();
    let point = site.ingest("web")["point"].as_str().unwrap().to_owned();
    let daemon = site.start();
    let job = daemon.cli(&["recover", &point, "--client", "127.0.0.1", "--wait"]);
    let id = job["id"].as_str().unwrap().to_owned();
    add(&site, &daemon, "ola", &["--role", "operator", "--only-repository", "other"]);
    add(
        &site,
        &daemon,
        "lee",
        &["--role", "operator", "--only-repository", "local", "--only-target", "export"],
    );
    let (outside, inside) = (token(&daemon, "ola", &[]), token(&daemon, "lee", &[]));
    let caller = Caller::new(&daemon);
    let list = async |token: &str, path: &str, key: &str| {
        let url = format!("{}api/v1/{path}", daemon.url);
        let answer = caller.http.get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json::<Value>().await.unwrap()[key].as_array().unwrap().len()
    };
    for key in ["repositories", "points", "jobs", "exports"] {
        assert_eq!(list(&outside, key, key).await, 0, "{key}");
        assert_eq!(list(&inside, key, key).await, 1, "{key}");
    }
    let request =
        json!({ "point": point, "target": { "kind": "export", "clients": ["127.0.0.1"] } });
    let start = Some(request.clone());
    let status = caller.status(&outside, Method::POST, "api/v1/recoveries", start).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let mut named = request;
    named["repository"] = "local".into();
    let status = caller.status(&outside, Method::POST, "api/v1/recoveries", Some(named)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (method, path) in [
        (Method::GET, format!("api/v1/jobs/{id}")),
        (Method::GET, format!("api/v1/jobs/{id}/events")),
        (Method::POST, format!("api/v1/jobs/{id}/cancel")),
    ] {
        let status = caller.status(&outside, method.clone(), &path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    let discard = Some(json!({ "action": "discard" }));
    let finish = format!("api/v1/jobs/{id}/finish");
    let status = caller.status(&outside, Method::POST, &finish, discard.clone()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(caller.status(&inside, Method::GET, "metrics", None).await, StatusCode::FORBIDDEN);
    assert_eq!(caller.status(&inside, Method::POST, &finish, discard).await, StatusCode::ACCEPTED);
    daemon.cli(&["jobs", &id, "--watch"]);
    daemon.stop(&[]);
}

#[tokio::test]
async fn a_user_logs_in_with_a_password_and_is_locked_out_after_failures() {
    let site = Site::new();
    let daemon = site.start();
    add(&site, &daemon, "ann", &["--role", "viewer"]);
    let caller = Caller::new(&daemon);
    let session = cookie(&caller.log_in("ann", PASSWORD, None).await);
    let jobs = |cookie: &str| caller.page(Method::GET, "jobs").header("cookie", cookie.to_owned());
    assert_eq!(jobs(&session).send().await.unwrap().status(), StatusCode::OK);
    // Wrong ones: slowed down by address or by user, whichever is first, and the right one too then.
    let mut last = StatusCode::OK;
    for _ in 0..7 {
        last = caller.log_in("ann", "wrong horse battery", None).await.status();
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    let locked = caller.log_in("ann", PASSWORD, None).await;
    assert_eq!(locked.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(locked.headers().contains_key("retry-after"));
    // A new password ends the sessions of the old one.
    let file = site.path("password");
    fs::write(&file, "another horse battery").unwrap();
    daemon.cli(&["user", "passwd", "ann", "--password-file", file.to_str().unwrap()]);
    assert_eq!(jobs(&session).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    daemon.stop(&["log-in with a wrong password"]);
    // Sessions and lock-outs end with the process, users do not.
    let daemon = site.start();
    let caller = Caller::new(&daemon);
    let wrong = caller.log_in("ann", PASSWORD, None).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    cookie(&caller.log_in("ann", "another horse battery", None).await);
    daemon.stop(&["log-in with a wrong password"]);
}

/// The code of a secret in base32, `steps` of 30 s from now.
fn code(secret: &str, steps: u64) -> String {
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for letter in secret.bytes() {
        let value = if letter.is_ascii_uppercase() { letter - b'A' } else { letter - b'2' + 26 };
        word = word << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 0xff).try_into().unwrap());
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes);
    let tag = hmac::sign(&key, &(now / 30 + steps).to_be_bytes());
    let at = usize::from(tag.as_ref()[19] & 0xf);
    let word: [u8; 4] = tag.as_ref()[at..at + 4].try_into().unwrap();
    format!("{:06}", (u32::from_be_bytes(word) & 0x7fff_ffff) % 1_000_000)
}

#[tokio::test]
async fn a_second_factor_is_asked_for_and_its_codes_are_good_once() {
    let site = Site::new();
    site.console("restore_requires_totp = true");
    let daemon = site.start();
    let cancel = ["cancel", NOBODY];
    let (status, said) = daemon.cli_fails(&cancel);
    assert!(status == 6 && said.contains("totp_missing"), "{said}");
    let secret = daemon.cli(&["user", "totp", "begin"])["secret"].as_str().unwrap().to_owned();
    // Until it is confirmed it does not count.
    assert!(daemon.cli_fails(&cancel).1.contains("totp_missing"));
    let first = code(&secret, 0);
    daemon.cli(&["user", "totp", "confirm", &first]);
    assert!(daemon.cli_fails(&cancel).1.contains("totp_required"));
    let with = |code: &str| daemon.cli_fails(&["cancel", NOBODY, "--totp", code]).1;
    assert!(with(&first).contains("used already"), "a code is good once");
    let next = code(&secret, 1);
    assert!(with(&next).contains("job_not_found"), "a new code is taken");
    assert!(with(&next).contains("used already"));
    // The page's log-in asks for it too.
    let caller = Caller::new(&daemon);
    let body = json!({ "token": daemon.token() });
    let answer = caller.page(Method::POST, "session").json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "totp_required");
    daemon.stop(&["a wrong one-time code"]);
}
