//! The API as a program meets it: lists in parts, calls that are made once, changes of what was seen.

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::{
    process::{Daemon, Site},
    recovery::recover,
};

struct Program<'a> {
    daemon: &'a Daemon,
    http: Client,
}

impl<'a> Program<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        // Another test of this process may have installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { daemon, http: Client::new() }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}api/v1/{path}", self.daemon.url);
        self.http.request(method, url).bearer_auth(self.daemon.token())
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> Response {
        let call = self.call(Method::POST, path).header("idempotency-key", key).json(body);
        call.send().await.unwrap()
    }

    async fn problem(&self, call: RequestBuilder, status: u16, code: &str) {
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{problem}");
    }
}

/// Starts a live mount and waits until it serves.
fn mount(daemon: &Daemon) -> String {
    recover(daemon, &["--mount"]).id
}

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

const KEY: &str = "0123456789abcdef-1";

#[tokio::test]
async fn a_call_under_a_key_is_made_once_and_answered_the_same_after_a_restart() {
    let site = Site::new();
    let daemon = site.start();
    let program = Program::new(&daemon);
    let user = json!({ "name": "ann", "password": "correct horse battery", "role": "viewer" });
    let first = program.post("users", KEY, &user).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let tag = first.headers()["etag"].clone();
    let first = first.text().await.unwrap();
    let again = program.post("users", KEY, &user).await;
    assert_eq!((again.status(), &again.headers()["etag"]), (StatusCode::CREATED, &tag));
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.text().await.unwrap(), first);
    let other = json!({ "name": "bob", "password": "correct horse battery", "role": "viewer" });
    let call = || program.call(Method::POST, "users").header("idempotency-key", KEY);
    program.problem(call().json(&other), 409, "idempotency_key_reused").await;
    let short = program.call(Method::POST, "users").header("idempotency-key", "short");
    program.problem(short.json(&other), 400, "bad_request").await;
    // What is refused may be put right under the same key.
    let taken = program.post("users", "fedcba9876543210", &user).await;
    assert_eq!(taken.status(), StatusCode::CONFLICT);
    let bob = program.post("users", "fedcba9876543210", &other).await;
    assert_eq!(bob.status(), StatusCode::CREATED);

    let wanted = json!({ "name": "ci", "expires_in_seconds": 3600 });
    let token: Value =
        program.post("tokens", "token-0123456789", &wanted).await.json().await.unwrap();
    daemon.kill();
    let daemon = site.start();
    let program = Program::new(&daemon);
    let again: Value =
        program.post("tokens", "token-0123456789", &wanted).await.json().await.unwrap();
    assert!(token["token"].is_string() && again == token, "{again}");
    assert_eq!(program.get("tokens").await["tokens"].as_array().unwrap().len(), 1);
    let again = program.post("users", KEY, &user).await;
    assert_eq!(again.text().await.unwrap(), first);
    daemon.stop(&[]);
}

#[tokio::test]
async fn lists_come_in_parts_that_make_the_whole() {
    let site = Site::new();
    site.ingest("web");
    site.ingest("web");
    let daemon = site.start();
    let program = Program::new(&daemon);
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.insert(0, mount(&daemon));
    }
    assert_eq!(ids(&program.get("jobs").await["jobs"]), jobs);
    let first = program.get("jobs?limit=1").await;
    assert_eq!(ids(&first["jobs"]), jobs[..1]);
    // A job that comes meanwhile is in no later part.
    mount(&daemon);
    let next = first["next"].as_str().unwrap();
    let rest = program.get(&format!("jobs?limit=2&cursor={next}")).await;
    assert_eq!((ids(&rest["jobs"]), &rest["next"]), (jobs[1..].to_vec(), &Value::Null));

    let points = program.get("points?limit=1").await;
    assert_eq!((ids(&points["points"]).len(), &points["left_out"]), (1, &json!(1)));
    let next = points["next"].as_str().unwrap();
    let older = program.get(&format!("points?limit=1&cursor={next}")).await;
    let both = [ids(&points["points"]), ids(&older["points"])].concat();
    assert_eq!(both, ids(&program.get("points").await["points"]));

    let records = program.get("audit?from=0&limit=2").await;
    let next = records["next"].as_str().unwrap();
    let more = program.get(&format!("audit?limit=2&cursor={next}")).await;
    assert_eq!(more["records"][0]["number"], 2);
    for path in ["jobs?cursor=00", "points?cursor=x", "batches?cursor=", "audit?cursor=x"] {
        program.problem(program.call(Method::GET, path), 422, "refused").await;
    }
    program.problem(program.call(Method::GET, "jobs?limit=0"), 400, "bad_request").await;
    program.problem(program.call(Method::GET, "jobs?since=1"), 400, "bad_request").await;
    daemon.stop(&[]);
}

#[tokio::test]
async fn a_job_is_changed_only_as_it_was_seen() {
    let site = Site::new();
    site.ingest("web");
    let daemon = site.start();
    let program = Program::new(&daemon);
    let path = format!("jobs/{}", mount(&daemon));
    let seen = program.call(Method::GET, &path).send().await.unwrap();
    let tag = seen.headers()["etag"].to_str().unwrap().to_owned();
    let unchanged = program.call(Method::GET, &path).header("if-none-match", &tag);
    assert_eq!(unchanged.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let extend = |tag: &str, seconds: u64| {
        let call = program.call(Method::POST, &format!("{path}/extend")).header("if-match", tag);
        call.json(&json!({ "expires_in_seconds": seconds }))
    };
    program.problem(extend("\"other\"", 7000), 412, "changed").await;
    let done = extend(&tag, 7000).send().await.unwrap();
    assert_eq!(done.status(), StatusCode::ACCEPTED);
    program.problem(extend(&tag, 8000), 412, "changed").await;
    let changed =
        program.call(Method::GET, &path).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
    daemon.cli(&["cancel", path.trim_start_matches("jobs/"), "--watch"]);
    let commit = program.call(Method::POST, &format!("{path}/finish")).header("if-match", "*");
    let refused = commit.json(&json!({ "action": "commit" })).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    daemon.stop(&[]);
}

#[tokio::test]
async fn what_is_not_as_the_document_says_is_refused_as_it_says() {
    let site = Site::new();
    let daemon = site.start();
    let program = Program::new(&daemon);
    let post = |path: &str| program.call(Method::POST, path);
    let text = post("users").header("content-type", "text/plain").body("{}");
    program.problem(text, 415, "unsupported_media_type").await;
    program
        .problem(post("users").json(&json!(["ann", "a password", "viewer"])), 400, "bad_request")
        .await;
    program.problem(post("users").json(&json!({ "name": "ann" })), 400, "bad_request").await;
    let large = json!({ "name": "x".repeat(100_000), "password": "x", "role": "viewer" });
    program.problem(post("users").json(&large), 413, "too_large").await;
    program.problem(program.call(Method::PATCH, "users"), 405, "method_not_allowed").await;
    let unreadable = format!("jobs/{}", "%ff");
    program.problem(program.call(Method::GET, &unreadable), 400, "bad_request").await;
    let document = program.get("openapi.json").await;
    assert_eq!(&document, rekindle_console::openapi());
    daemon.stop(&[]);
}
