//! The session: logged in at connect, and again whenever the server has forgotten us.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{
    Endpoint, VsphereError, disk_copy::Copies, endpoint::Limits, error::Failure, moref::MoRef,
    soap::Request, transport::Transport, xml::Element,
};

/// After a refused login no other is tried for so long: wrong passwords in a row lock an account.
const LOGIN_PAUSE: Duration = Duration::from_secs(30);

/// First and longest pause between two tries to reach a server.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What a server is.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct About {
    /// `VMware vCenter Server 8.0.2 build-22385739`.
    pub full_name: String,
    /// `8.0.2`.
    pub version: String,
    /// `8.0.2.0`.
    pub api_version: String,
    /// `VirtualCenter` or `HostAgent`.
    pub api_type: String,
    /// The vCenter's own id; an ESXi has none.
    pub instance_uuid: Option<String>,
}

/// The objects where everything starts.
pub(crate) struct Roots {
    pub(crate) root_folder: MoRef,
    pub(crate) property_collector: MoRef,
    pub(crate) session_manager: MoRef,
    pub(crate) search_index: MoRef,
    pub(crate) task_manager: MoRef,
    pub(crate) file_manager: Option<MoRef>,
    pub(crate) disk_manager: Option<MoRef>,
}

pub(crate) struct Session {
    pub(crate) transport: Transport,
    pub(crate) roots: Roots,
    pub(crate) about: About,
    pub(crate) limits: Limits,
    user: String,
    password: crate::Secret,
    /// Counts logins, so that of many calls that find the session gone only one logs in.
    logins: AtomicU64,
    /// Locked to read or change it, never across an await.
    copies: Copies,
    /// Taken to log in; holds when a login was last refused.
    refused: Mutex<Option<(Instant, String, String)>>,
}

impl Session {
    pub(crate) async fn open(endpoint: Endpoint) -> Result<Self, VsphereError> {
        let transport = Transport::new(&endpoint)?;
        let Endpoint { user, password, limits, .. } = endpoint;
        let service = MoRef::new("ServiceInstance", "ServiceInstance");
        let request = Request::new("RetrieveServiceContent", &service, |_| {});
        let answer = transport.post(&request, limits.call).await?;
        let (roots, about) = content(&answer)?;
        let session = Self {
            transport,
            roots,
            about,
            limits,
            user,
            password,
            logins: AtomicU64::new(0),
            copies: Copies::default(),
            refused: Mutex::default(),
        };
        session.log_in(0).await?;
        Ok(session)
    }

    /// Sends a call. A session that the server has forgotten is renewed once, and the call repeated:
    /// a call that was answered with NotAuthenticated has had no effect.
    pub(crate) async fn call(&self, request: &Request) -> Result<Element, Failure> {
        self.call_within(request, self.limits.call).await
    }

    pub(crate) async fn call_within(
        &self,
        request: &Request,
        within: Duration,
    ) -> Result<Element, Failure> {
        let login = self.logins.load(Ordering::Acquire);
        match self.transport.post(request, within).await {
            Err(failure) if failure.is(&["NotAuthenticated"]) => {
                self.log_in(login).await?;
                self.transport.post(request, within).await
            }
            answer => answer,
        }
    }

    /// A call whose answer is one object, most often the task that does the work.
    pub(crate) async fn call_for_moref(&self, request: &Request) -> Result<MoRef, Failure> {
        let answer = self.call(request).await?;
        let moref = answer.child("returnval").and_then(Element::moref);
        moref.ok_or_else(|| Failure::garbled(request.call, "it names no object"))
    }

    /// Logs in, unless somebody has since the caller's `login`.
    async fn log_in(&self, login: u64) -> Result<(), Failure> {
        let mut refused = self.refused.lock().await;
        if self.logins.load(Ordering::Acquire) != login {
            return Ok(());
        }
        if let Some((at, fault, message)) = &*refused
            && at.elapsed() < LOGIN_PAUSE
        {
            let (fault, message) = (fault.clone(), message.clone());
            return Err(VsphereError::Denied { call: "Login", fault, message }.into());
        }
        let request = Request::new("Login", &self.roots.session_manager, |w| {
            w.text("userName", &self.user);
            w.text("password", self.password.expose());
        });
        // Login over a session that still is one would be refused.
        self.transport.forget_session();
        match self.transport.post(&request, self.limits.call).await {
            Ok(_) => {
                *refused = None;
                self.logins.fetch_add(1, Ordering::Release);
                Ok(())
            }
            Err(Failure::Fault(fault)) => {
                *refused = Some((Instant::now(), fault.name.clone(), fault.message.clone()));
                Err(Failure::Fault(fault))
            }
            Err(failure) => Err(failure),
        }
    }

    pub(crate) async fn log_out(&self) -> Result<(), Failure> {
        let request = Request::new("Logout", &self.roots.session_manager, |_| {});
        match self.transport.post(&request, self.limits.call).await {
            Err(failure) if !failure.is(&["NotAuthenticated"]) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Remembers the task that copies a disk to `to`, or that none does.
    pub(crate) fn note_copy(&self, to: &str, task: Option<&MoRef>) {
        let mut copies = self.copies.lock().unwrap_or_else(|e| e.into_inner());
        match task {
            Some(task) => copies.insert(to.to_owned(), task.clone()),
            None => copies.remove(to),
        };
    }

    /// The copies to places that begin with `below`.
    pub(crate) fn copies_below(&self, below: &str) -> Vec<(String, MoRef)> {
        let copies = self.copies.lock().unwrap_or_else(|e| e.into_inner());
        let there = copies.iter().filter(|(to, _)| to.starts_with(below));
        there.map(|(to, task)| (to.clone(), task.clone())).collect()
    }

    /// Repeats an idempotent operation while the server cannot be reached, as long as our patience
    /// lasts, and makes its failure an error of the crate.
    pub(crate) async fn insist<T, F>(&self, operation: impl FnMut() -> F) -> Result<T, VsphereError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.persist(operation).await.map_err(VsphereError::from)
    }

    /// The same, inside of an operation: what takes hours must not run out of patience by that.
    pub(crate) async fn persist<T, F>(&self, mut operation: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let end = Instant::now() + self.limits.patience;
        let mut pause = BACK_OFF.0;
        loop {
            match operation().await {
                Err(failure) if failure.is_unreachable() && Instant::now() + pause < end => {
                    tracing::debug!(?failure, "vSphere is not there, trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
                result => return result,
            }
        }
    }
}

fn content(answer: &Element) -> Result<(Roots, About), Failure> {
    const CALL: &str = "RetrieveServiceContent";
    let content = answer.child("returnval").ok_or_else(|| Failure::garbled(CALL, "it is empty"))?;
    let root = |name: &str| {
        let moref = content.child(name).and_then(Element::moref);
        moref.ok_or_else(|| Failure::garbled(CALL, format!("it has no {name}")))
    };
    let roots = Roots {
        root_folder: root("rootFolder")?,
        property_collector: root("propertyCollector")?,
        session_manager: root("sessionManager")?,
        search_index: root("searchIndex")?,
        task_manager: root("taskManager")?,
        file_manager: content.child("fileManager").and_then(Element::moref),
        disk_manager: content.child("virtualDiskManager").and_then(Element::moref),
    };
    let text = |name: &str| content.text_at(&["about", name]).unwrap_or_default().to_owned();
    let about = About {
        full_name: text("fullName"),
        version: text("version"),
        api_version: text("apiVersion"),
        api_type: text("apiType"),
        instance_uuid: content.text_at(&["about", "instanceUuid"]).map(str::to_owned),
    };
    Ok((roots, about))
}
