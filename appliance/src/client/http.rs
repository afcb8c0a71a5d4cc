use std::{fs, time::Duration};

use anyhow::Context;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::trust;
use crate::{
    cli::DaemonArgs,
    exit::{Failure, Kind},
};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Until a call is answered: longer than the daemon's own deadline of 30 s.
const CALL: Duration = Duration::from_secs(40);

/// The most parts of a list: 5 million points.
const PARTS: usize = 1000;

/// A running appliance, as its API shows it.
pub(super) struct Daemon {
    http: reqwest::Client,
    base: Url,
    token: String,
    totp: Option<String>,
}

/// A problem document (RFC 9457), as far as it is shown.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

impl Daemon {
    pub(super) fn new(args: &DaemonArgs) -> Result<Self, Failure> {
        let bad = |e: &dyn std::fmt::Display| Failure::refused(format!("--url {}: {e}", args.url));
        let base: Url = args.url.parse().map_err(|e| bad(&e))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(bad(&"use http://HOST:PORT or https://HOST:PORT"));
        }
        let http = trust::configure(reqwest::Client::builder(), args)?
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("set up the HTTP client")?;
        Ok(Self { http, base, token: token(args)?, totp: args.totp.clone() })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.answer(self.request(Method::GET, url).timeout(CALL)).await
    }

    /// A list as a whole, part by part: what the first part says, with the entries `name` of all of them.
    pub(super) async fn list(
        &self,
        path: &str,
        query: &[(&str, &str)],
        name: &str,
    ) -> Result<Value, Failure> {
        let mut whole: Value = self.get(path, query).await?;
        for _ in 0..PARTS {
            let Some(cursor) = whole["next"].as_str().map(str::to_owned) else { break };
            let query = [query, &[("cursor", &cursor)]].concat();
            let mut part: Value = self.get(path, &query).await?;
            whole["next"] = part["next"].take();
            if let (Some(all), Some(more)) = (whole[name].as_array_mut(), part[name].as_array_mut())
            {
                all.append(more);
            }
            if part.get("left_out").is_some() {
                whole["left_out"] = part["left_out"].take();
            }
        }
        if whole["next"].is_string() {
            let text = format!("{path}: the list has no end after {PARTS} parts");
            return Err(Failure::said(Kind::Unavailable, text));
        }
        Ok(whole)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        let mut request = self.request(Method::POST, self.url(path)?).timeout(CALL);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.answer(request).await
    }

    /// An answer as it came.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let url = self.url(path)?;
        let response = self.send(self.request(Method::GET, url).timeout(CALL)).await?;
        Ok(response.text().await.context("read the appliance's answer")?)
    }

    /// Any other call; `Null` where the answer is empty.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.request(method, self.url(path)?).timeout(CALL);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer =
            self.send(request).await?.bytes().await.context("read the appliance's answer")?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&answer).context("read the appliance's answer")?)
    }

    /// An event stream; it has no deadline.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, Failure> {
        let url = self.url(path)?;
        self.send(self.request(Method::GET, url)).await
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let bad = |e| Failure::refused(format!("cannot ask for {path}: {e}"));
        self.base.join("/api/v1/").and_then(|base| base.join(path)).map_err(bad)
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url).bearer_auth(&self.token);
        match &self.totp {
            Some(code) => request.header("x-rekindle-totp", code),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        let answer = response.json().await.context("read the appliance's answer")?;
        Ok(answer)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        Err(refusal(status, &text))
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let url = &self.base;
        let advice = if error.is_timeout() {
            "it takes too long to answer"
        } else if let Some(why) = trust::refused_certificate(&error) {
            let text =
                format!("{url} shows a certificate that is not trusted ({why}): {}", trust::ADVICE);
            return Failure::said(Kind::Denied, text);
        } else {
            "is it running (`rekindle serve`), and is --url right?"
        };
        let cause = anyhow::Error::from(error.without_url());
        Failure::new(Kind::Unavailable, cause.context(format!("cannot reach {url}: {advice}")))
    }
}

fn refusal(status: StatusCode, text: &str) -> Failure {
    let said = match serde_json::from_str::<Problem>(text) {
        Ok(problem) => format!("{} ({})", problem.detail, problem.code),
        Err(_) => format!("the appliance answered {status}"),
    };
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT => Kind::Unavailable,
        status if status.is_client_error() => Kind::Refused,
        _ => Kind::Failed,
    };
    Failure::said(kind, said)
}

fn token(args: &DaemonArgs) -> Result<String, Failure> {
    if let Some(file) = &args.token_file {
        let text = fs::read_to_string(file).map_err(|e| {
            Failure::said(Kind::Denied, format!("cannot read the token in {}: {e}", file.display()))
        })?;
        return Ok(text.trim().to_owned());
    }
    match std::env::var("REKINDLE_TOKEN") {
        Ok(token) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
        _ => Err(Failure::said(
            Kind::Denied,
            "no token: name its file with --token-file (the appliance's is admin-token in its state \
             directory), or set REKINDLE_TOKEN",
        )),
    }
}

/// The path of a job in the API. What cannot be an id is refused before it is sent.
pub(super) fn job_path(id: &str) -> Result<String, Failure> {
    let id: rekindle_jobs::JobId =
        id.parse().map_err(|e| Failure::new(Kind::NotFound, anyhow::Error::from(e)))?;
    Ok(format!("jobs/{id}"))
}

/// The same of a batch.
pub(super) fn batch_path(id: &str) -> Result<String, Failure> {
    Ok(job_path(id)?.replacen("jobs", "batches", 1))
}

/// A part of an answer as a type.
pub(super) fn decode<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    let decoded = serde_json::from_value(answer)
        .context("the appliance's answer is not understood, is it of the same version?")?;
    Ok(decoded)
}
