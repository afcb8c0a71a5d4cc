//! A server in a process of its own, its admin door, and how to connect to it.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rekindle_vsphere::{Endpoint, Limits, Secret, Trust, Vsphere};
use serde_json::{Value, json};

pub(crate) const USER: &str = "administrator@vsphere.local";

/// The stand-in's script.
pub(crate) const STANDIN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vsphere-standin/vsphere-standin");

/// Ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) thumbprint: String,
    admin: String,
    pub(crate) password: &'static str,
    /// What its local datastores hold.
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The stand-in, on free ports. `args` come after its own.
    pub(crate) fn standin(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command.arg(STANDIN).arg("--dir").arg(dir.path()).args(args);
        Self::spawn(command, dir, "standin-pass")
    }

    /// The rig's simulator, if there is one.
    pub(crate) fn simulator(args: &[&str]) -> Option<Self> {
        let Some(binary) = simulator_binary() else {
            println!("skipped: no simulator (REKINDLE_VCSIM names one)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary);
        command
            .args(["-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-dir"])
            .arg(dir.path())
            .args(args)
            .stderr(Stdio::null()); // it tells of every change of an object
        Some(Self::spawn(command, dir, "vcsim-pass"))
    }

    fn spawn(mut command: Command, dir: tempfile::TempDir, password: &'static str) -> Self {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("the server ended before it was ready").unwrap();
        let admin = line().strip_prefix("admin http://").unwrap().to_owned();
        let ready = line();
        let [_, url, _, thumbprint] = ready.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{ready}")
        };
        let (url, thumbprint) = (url.to_owned(), thumbprint.to_owned());
        Self { child, url, thumbprint, admin, password, dir }
    }

    /// Trusts its thumbprint, and is short of patience.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let mut endpoint = Endpoint::new(&self.url, USER, Secret::new(self.password));
        if self.thumbprint != "-" {
            endpoint.trust = Trust::Thumbprint(self.thumbprint.parse().unwrap());
        }
        endpoint.limits = Limits { patience: Duration::from_secs(10), ..Limits::default() };
        endpoint
    }

    pub(crate) async fn connect(&self) -> Vsphere {
        Vsphere::connect(self.endpoint()).await.unwrap()
    }

    /// A call at the admin door; its answer's body.
    pub(crate) fn door(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        body.to_owned()
    }

    /// Makes calls or tasks fail.
    pub(crate) fn rule(&self, rule: &Value) {
        self.door("POST", "/fault", &rule.to_string());
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, method: &str) -> u64 {
        let state: Value = serde_json::from_str(&self.door("GET", "/state", "")).unwrap();
        state["calls"][method].as_u64().unwrap_or(0)
    }

    /// The next calls of a method end at an HTTP error.
    pub(crate) fn break_calls(&self, method: &str, count: i32) {
        self.rule(&json!({"method": method, "status": 503, "count": count}));
    }
}

fn simulator_binary() -> Option<PathBuf> {
    let named = env::var_os("REKINDLE_VCSIM").map(PathBuf::from);
    let cached = env::var_os("HOME").map(|home| Path::new(&home).join(".cache/rig/bin/vcsim"));
    named.or(cached).filter(|path| path.exists())
}
