//! Who gets into the console and the API, and what they are told.

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::process::{Daemon, Site};

struct Caller<'a> {
    daemon: &'a Daemon,
    http: Client,
}

impl Caller<'_> {
    fn new(daemon: &Daemon) -> Caller<'_> {
        // Another test of this process may have installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Caller { daemon, http: Client::new() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.daemon.url))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    fn authorized(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(self.daemon.token())
    }

    /// A request as our own page sends it.
    fn page_request(&self, method: Method, path: &str) -> RequestBuilder {
        let origin = self.daemon.url.trim_end_matches('/').to_owned();
        self.request(method, path).header("origin", origin).header("x-rekindle-console", "1")
    }

    async fn log_in(&self, token: &str) -> Response {
        let body = json!({ "token": token });
        self.page_request(Method::POST, "api/v1/session").json(&body).send().await.unwrap()
    }
}

async fn problem(request: RequestBuilder, status: StatusCode, code: &str) -> Value {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status.as_u16());
    problem
}

const GUARDED: [&str; 11] = [
    "api/v1/session",
    "api/v1/repositories",
    "api/v1/points",
    "api/v1/targets",
    "api/v1/jobs",
    "api/v1/jobs/20250101-000000-0000/events",
    "api/v1/exports",
    "api/v1/cache",
    "api/v1/openapi.json",
    "metrics",
    "readyz",
];

#[tokio::test]
async fn the_token_opens_everything_and_nothing_else_does() {
    let site = Site::new();
    let daemon = site.start();
    let caller = Caller::new(&daemon);
    for path in GUARDED.iter().chain(&["api/v1/unknown"]) {
        problem(caller.get(path), StatusCode::UNAUTHORIZED, "unauthorized").await;
        let wrong = caller.get(path).bearer_auth("0".repeat(64));
        problem(wrong, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    for path in GUARDED.iter().filter(|path| !path.contains("events")) {
        let answer = caller.authorized(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    for path in ["healthz", "", "assets/app.js", "assets/style.css"] {
        let answer = caller.get(path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let headers = answer.headers();
        assert!(headers["content-security-policy"].to_str().unwrap().contains("script-src 'self'"));
        assert_eq!(headers["x-frame-options"], "DENY");
    }
    daemon.stop(&[]);
}

#[tokio::test]
async fn a_session_is_for_our_own_page_only() {
    let site = Site::new();
    let daemon = site.start();
    let caller = Caller::new(&daemon);
    let answer = caller.log_in(&daemon.token()).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    let cookie = set.split(';').next().unwrap().to_owned();

    let jobs = caller.get("api/v1/jobs").header("cookie", &cookie).send().await.unwrap();
    assert_eq!(jobs.status(), StatusCode::OK);
    let cancel = "api/v1/jobs/20250101-000000-0000/cancel";
    let bare = caller.request(Method::POST, cancel).header("cookie", &cookie);
    problem(bare, StatusCode::FORBIDDEN, "forbidden").await;
    let foreign = caller
        .request(Method::POST, cancel)
        .header("cookie", &cookie)
        .header("x-rekindle-console", "1")
        .header("origin", "http://evil.example");
    problem(foreign, StatusCode::FORBIDDEN, "forbidden").await;
    let own = caller.page_request(Method::POST, cancel).header("cookie", &cookie);
    problem(own, StatusCode::NOT_FOUND, "job_not_found").await;

    let out = caller.page_request(Method::DELETE, "api/v1/session").header("cookie", &cookie);
    assert_eq!(out.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let after = caller.get("api/v1/jobs").header("cookie", &cookie);
    problem(after, StatusCode::UNAUTHORIZED, "unauthorized").await;
    daemon.stop(&[]);
}

#[tokio::test]
async fn guessing_the_token_is_slowed_down() {
    let site = Site::new();
    let daemon = site.start();
    let caller = Caller::new(&daemon);
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(caller.log_in(&"0".repeat(64)).await.status());
    }
    assert_eq!(answers[0], StatusCode::UNAUTHORIZED);
    assert_eq!(*answers.last().unwrap(), StatusCode::TOO_MANY_REQUESTS);
    // Whoever holds the token is not locked out of the API by that.
    let jobs = caller.authorized(Method::GET, "api/v1/jobs").send().await.unwrap();
    assert_eq!(jobs.status(), StatusCode::OK);
    daemon.stop(&["log-in with a wrong token"]);
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let site = Site::new();
    let daemon = site.start();
    let caller = Caller::new(&daemon);
    let post = |path: &str| caller.authorized(Method::POST, path);
    let recoveries = "api/v1/recoveries";
    let bad = StatusCode::BAD_REQUEST;
    problem(post(recoveries).json(&json!({ "pint": 1 })), bad, "bad_request").await;
    let text = post(recoveries).body("x");
    problem(text, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type").await;
    let large =
        post(recoveries).header("content-type", "application/json").body(vec![b' '; 100_000]);
    problem(large, StatusCode::PAYLOAD_TOO_LARGE, "too_large").await;
    let point = json!({ "point": "x", "target": { "kind": "export", "clients": ["127.0.0.1"] } });
    problem(post(recoveries).json(&point), StatusCode::NOT_FOUND, "point_not_found").await;
    let key = post(recoveries).json(&point).header("idempotency-key", "");
    problem(key, bad, "bad_request").await;
    let nobody = json!({ "point": "x", "target": { "kind": "export", "clients": [] } });
    problem(post(recoveries).json(&nobody), StatusCode::UNPROCESSABLE_ENTITY, "bad_clients").await;
    problem(
        caller.authorized(Method::PUT, "api/v1/jobs"),
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
    )
    .await;
    problem(caller.authorized(Method::GET, "api/v1/nothing"), StatusCode::NOT_FOUND, "not_found")
        .await;
    problem(caller.authorized(Method::GET, "api/v1/points?repo=x"), bad, "bad_request").await;
    let elsewhere = caller.authorized(Method::GET, "api/v1/points?repository=x");
    problem(elsewhere, StatusCode::NOT_FOUND, "not_found").await;
    let metrics = caller.authorized(Method::GET, "metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("rekindle_jobs{state=\"serving\"} 0"), "{metrics}");
    daemon.stop(&[]);
}

#[tokio::test]
async fn two_daemons_do_not_share_a_state_directory() {
    let site = Site::new();
    let daemon = site.start();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_rekindle"))
        .args(["serve", "--config"])
        .arg(site.config())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is in use by process"));
    daemon.stop(&[]);
}
