//! One HTTP POST per call: deadline, bounded reply, session cookie.

use std::{sync::Mutex, time::Duration};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, COOKIE, HeaderValue, RANGE, SET_COOKIE},
    redirect::Policy,
};
use tokio::time::timeout;

use crate::{
    Endpoint, Trust, VsphereError,
    endpoint::Limits,
    error::Failure,
    soap::{self, Request},
    tls::{self, SeenCertificate},
    xml::Element,
};

/// Bytes of one reply. A page of 100 objects is below 1 MiB.
const MAX_REPLY: usize = 8 << 20;

const SESSION_COOKIE: &str = "vmware_soap_session";

pub(crate) struct Transport {
    http: Client,
    url: Url,
    limits: Limits,
    /// Held to copy it in or out, never across an await.
    cookie: Mutex<Option<HeaderValue>>,
}

fn builder(limits: &Limits) -> reqwest::ClientBuilder {
    Client::builder()
        .connect_timeout(limits.connect)
        .redirect(Policy::none())
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!("rekindle/", env!("CARGO_PKG_VERSION")))
}

impl Transport {
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, VsphereError> {
        let url = endpoint.api_url()?;
        let limits = endpoint.limits;
        let http = tls::configure(builder(&limits), &endpoint.trust)?
            .build()
            .map_err(|e| VsphereError::BadEndpoint { reason: chain(&e) })?;
        Ok(Self { http, url, limits, cookie: Mutex::default() })
    }

    /// Sends a call and waits for its answer for `within`.
    pub(crate) async fn post(
        &self,
        request: &Request,
        within: Duration,
    ) -> Result<Element, Failure> {
        let call = request.call;
        match timeout(within, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(VsphereError::TimedOut { call, after: within }.into()),
        }
    }

    async fn exchange(&self, request: &Request) -> Result<Element, Failure> {
        let call = request.call;
        let mut post = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", soap::ACTION)
            .body(request.body.clone());
        if let Some(cookie) = self.cookie().clone() {
            post = post.header(COOKIE, cookie);
        }
        let response = match post.send().await {
            Ok(response) => response,
            Err(error) => return Err(self.broken(call, &error).await),
        };
        self.keep_cookie(&response);
        let status = response.status();
        // SOAP faults come with 500; a proxy's own 500 has no envelope in it.
        if status != StatusCode::OK && status != StatusCode::INTERNAL_SERVER_ERROR {
            return Err(refused_by_http(call, status));
        }
        let document = read(call, response).await?;
        match soap::open(call, &document) {
            Err(Failure::Error(VsphereError::Garbled { .. })) if status != StatusCode::OK => {
                Err(refused_by_http(call, status))
            }
            answer => answer,
        }
    }

    /// The URL that a server hands out, with this server's own name where it has `*`; and whether it is of this server.
    pub(crate) fn resolve(&self, text: &str) -> Result<(Url, bool), String> {
        let own_port = self.url.port_or_known_default();
        let host = self.url.host_str().unwrap_or_default();
        let authority = own_port.map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let text = text.replacen("://*", &format!("://{authority}"), 1);
        let url = Url::parse(&text).map_err(|e| format!("the URL {text:?}: {e}"))?;
        let own = url.host_str() == self.url.host_str() && url.port_or_known_default() == own_port;
        match url.scheme() == "https" || (own && url.scheme() == self.url.scheme()) {
            true => Ok((url, own)),
            false => Err(format!("the URL {text:?} is not encrypted")),
        }
    }

    /// Begins to read what is at `url`. The session's cookie goes to this server alone; another is trusted as `trust`
    /// says, else as this one.
    pub(crate) async fn get(
        &self,
        url: Url,
        trust: Option<&Trust>,
        call: &'static str,
    ) -> Result<Response, Failure> {
        self.get_part(url, trust, (call, None)).await
    }

    async fn get_part(
        &self,
        url: Url,
        trust: Option<&Trust>,
        (call, range): (&'static str, Option<&str>),
    ) -> Result<Response, Failure> {
        let client = match trust {
            Some(trust) => tls::configure(builder(&self.limits), trust)?
                .build()
                .map_err(|e| VsphereError::BadEndpoint { reason: chain(&e) })?,
            None => self.http.clone(),
        };
        let own = url.host_str() == self.url.host_str()
            && url.port_or_known_default() == self.url.port_or_known_default();
        let mut get = client.get(url);
        if let Some(range) = range {
            get = get.header(RANGE, range);
        }
        if let Some(cookie) = self.cookie().clone().filter(|_| own) {
            get = get.header(COOKIE, cookie);
        }
        let within = self.limits.call;
        let response = match timeout(within, get.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(call, &error).await),
            Err(_) => return Err(VsphereError::TimedOut { call, after: within }.into()),
        };
        accepted(call, response)
    }

    /// Begins to read the file `path` of a datastore, or a part of it (`bytes=0-9`) where the server gives parts.
    pub(crate) async fn get_folder(
        &self,
        path: &str,
        query: &[(&str, &str)],
        range: Option<&str>,
    ) -> Result<Response, Failure> {
        self.get_part(self.folder_url(path, query)?, None, ("read", range)).await
    }

    /// Writes the file `path` of a datastore, as a whole.
    pub(crate) async fn put_folder(
        &self,
        path: &str,
        query: &[(&str, &str)],
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let call = "write";
        let put = self.http.put(self.folder_url(path, query)?).body(bytes.to_vec());
        let cookie = self.cookie().clone();
        let put = cookie.into_iter().fold(put, |put, cookie| put.header(COOKIE, cookie));
        let within = self.limits.call;
        let response = match timeout(within, put.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(call, &error).await),
            Err(_) => return Err(VsphereError::TimedOut { call, after: within }.into()),
        };
        accepted(call, response).map(drop)
    }

    fn folder_url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, Failure> {
        let mut url = self.url.clone();
        url.set_query(None);
        let bad = || Failure::garbled("folder", "a URL that has no path");
        url.path_segments_mut().map_err(|()| bad())?.clear().push("folder").extend(path.split('/'));
        url.query_pairs_mut().extend_pairs(query);
        Ok(url)
    }

    /// Tells a certificate that is not trusted from a server that cannot be reached.
    async fn broken(&self, call: &'static str, error: &reqwest::Error) -> Failure {
        match tls::certificate_error(error) {
            Some(why) => {
                let reason = format!("{why:?}");
                VsphereError::Untrusted { reason, seen: self.look().await.map(Box::new) }.into()
            }
            None => VsphereError::Unreachable { call, reason: chain(error) }.into(),
        }
    }

    /// The certificate that the server shows, whoever it is.
    async fn look(&self) -> Option<SeenCertificate> {
        look(&self.url, &self.limits).await
    }

    fn cookie(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.cookie.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The next call begins a session of its own.
    pub(crate) fn forget_session(&self) {
        *self.cookie() = None;
    }

    fn keep_cookie(&self, response: &Response) {
        for header in response.headers().get_all(SET_COOKIE) {
            let pair =
                header.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            if pair.starts_with(SESSION_COOKIE)
                && let Ok(mut value) = HeaderValue::from_str(pair)
            {
                value.set_sensitive(true);
                *self.cookie() = Some(value);
            }
        }
    }
}

pub(crate) async fn look(url: &Url, limits: &Limits) -> Option<SeenCertificate> {
    let (builder, pin) = tls::looking(builder(limits)).ok()?;
    // It always fails, in the handshake: the verifier has no certificate that it trusts.
    let _ = builder.timeout(limits.connect).build().ok()?.head(url.clone()).send().await;
    pin.seen()
}

/// The answer to a file's request, if it is a good one.
fn accepted(call: &'static str, response: Response) -> Result<Response, Failure> {
    match response.status() {
        StatusCode::OK
        | StatusCode::CREATED
        | StatusCode::NO_CONTENT
        | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::NOT_FOUND => Err(Failure::not_found("what it asked for")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let (fault, message) = ("HTTP".to_owned(), response.status().to_string());
            Err(VsphereError::Denied { call, fault, message }.into())
        }
        status => Err(refused_by_http(call, status)),
    }
}

fn refused_by_http(call: &'static str, status: StatusCode) -> Failure {
    if status.is_server_error() {
        return VsphereError::Unreachable { call, reason: format!("HTTP {status}") }.into();
    }
    Failure::garbled(call, format!("HTTP {status}"))
}

async fn read(call: &'static str, mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut document = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if document.len() + chunk.len() <= MAX_REPLY => document.extend(chunk),
            Ok(Some(_)) => {
                return Err(Failure::garbled(call, format!("it is over {MAX_REPLY} bytes")));
            }
            Ok(None) => return Ok(document),
            Err(e) => return Err(VsphereError::Unreachable { call, reason: chain(&e) }.into()),
        }
    }
}

/// An error with its causes, which reqwest keeps out of its own text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
