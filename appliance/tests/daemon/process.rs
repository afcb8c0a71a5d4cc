//! The daemon as a child process, and the command line as its client.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A directory with a configuration, a state directory and room for images.
pub(crate) struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        let config = format!(
            "state_dir = \"{}\"\n\
             [cache]\nram_bytes = 67108864\nmax_bytes = 268435456\nmin_free_percent = 1\n\
             [recovery]\nreserve_min_bytes = 0\nreserve_percent_of_vm = 0\n\
             [nfs]\nlisten = \"127.0.0.1\"\nport = 0\nportmap = \"none\"\n\
             [console]\nlisten = \"127.0.0.1:0\"\n",
            site.state().display()
        );
        fs::write(site.config(), config).unwrap();
        site
    }

    /// Adds a line to the configuration of the console.
    pub(crate) fn console(&self, line: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), text.replace("[console]\n", &format!("[console]\n{line}\n")))
            .unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("rekindle.toml")
    }

    /// Ingests the sample disk as the VM `name`.
    pub(crate) fn ingest(&self, name: &str) -> Value {
        let image = self.path("disk.raw");
        super::disk_data::make_image(&image);
        let output = command()
            .args(["ingest", "--json", "--name", name, "--config"])
            .args([&self.config(), &image])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(self)
    }

    /// What lies below the state directory in `name`, by path.
    pub(crate) fn entries(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.state().join(name), &mut found);
        found.sort();
        found
    }
}

fn collect(dir: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        collect(&path, found);
    }
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekindle"));
    for name in [
        "REKINDLE_TOKEN",
        "REKINDLE_TOKEN_FILE",
        "REKINDLE_URL",
        "RUST_LOG",
        "REKINDLE_FINGERPRINT",
        "REKINDLE_CA_FILE",
        "REKINDLE_LOG_FORMAT",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command that needs no daemon: what it printed, or its exit status and what it said.
pub(crate) fn run(args: &[&str]) -> Result<String, (i32, String)> {
    let output = command().args(args).stdin(Stdio::null()).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => {
            let said = String::from_utf8(output.stderr).unwrap();
            Err((output.status.code().unwrap(), said))
        }
    }
}

/// What a daemon has logged so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// Waits until it is so; a busy machine may take its time.
pub(crate) fn wait_for(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < START, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running daemon. Dropped without `stop` or `kill`, it is killed.
pub(crate) struct Daemon {
    child: Child,
    log: Option<JoinHandle<()>>,
    lines: Lines,
    state: PathBuf,
    pub(crate) url: String,
    pub(crate) nfs: SocketAddr,
}

impl Daemon {
    fn start(site: &Site) -> Self {
        let mut child = command()
            .arg("serve")
            .arg("--config")
            .arg(site.config())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (found, ready) = channel();
        let lines = Lines::default();
        let kept = Arc::clone(&lines);
        let log = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map(Result::unwrap) {
                ready_line(&line).into_iter().for_each(|r| found.send(r).unwrap());
                kept.lock().unwrap().push(line);
            }
        });
        let (url, nfs) = wait_ready(&ready, &mut child);
        Self { child, log: Some(log), lines, state: site.state(), url, nfs }
    }

    /// What `field` was in each line logged so far that has it.
    pub(crate) fn logged(&self, field: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter_map(|event| event[field].as_str().map(str::to_owned)).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.state.join("admin-token")).unwrap().trim().to_owned()
    }

    /// Runs a client command with `--json`; it must succeed.
    pub(crate) fn cli(&self, args: &[&str]) -> Value {
        let (status, stdout, stderr) = self.try_cli(args);
        assert!(status.success(), "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"))
    }

    /// Runs a client command without `--json`; what it printed.
    pub(crate) fn text(&self, args: &[&str]) -> String {
        let output = command()
            .args(args)
            .args(["--url", &self.url])
            .env("REKINDLE_TOKEN", self.token())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a client command that must fail; its exit status and what it said.
    pub(crate) fn cli_fails(&self, args: &[&str]) -> (i32, String) {
        let (status, stdout, stderr) = self.try_cli(args);
        assert!(!status.success(), "{args:?}: {stdout}");
        (status.code().unwrap(), stderr)
    }

    /// Runs a client command: its exit status, what it printed and what it said.
    pub(crate) fn try_cli(&self, args: &[&str]) -> (ExitStatus, String, String) {
        let output = command()
            .args(args)
            .args(["--json", "--url", &self.url])
            .env("REKINDLE_TOKEN", self.token())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status, text(output.stdout), text(output.stderr))
    }

    /// SIGKILL, as a crash. What it logged until then must be clean.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.check_log(&[]);
    }

    /// SIGTERM: it must end well, and its log must be clean but for lines with one of `allowed`.
    pub(crate) fn stop(mut self, allowed: &[&str]) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        let log = self.check_log(allowed);
        assert!(status.success(), "{status}\n{}", log.join("\n"));
    }

    fn check_log(&mut self, allowed: &[&str]) -> Vec<String> {
        self.log.take().unwrap().join().unwrap();
        let log = std::mem::take(&mut *self.lines.lock().unwrap());
        let bad: Vec<_> = log.iter().filter(|line| is_bad(line, allowed)).collect();
        assert!(bad.is_empty(), "unexpected log lines: {bad:#?}");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.log.is_some() {
            // It has ended already when this fails.
            let _ = self.child.kill();
            let _ = self.child.wait();
            if self.log.take().is_some_and(|log| log.join().is_ok()) {
                eprintln!("log of the daemon:\n{}", self.lines.lock().unwrap().join("\n"));
            }
        }
    }
}

fn wait_ready(ready: &Receiver<(String, SocketAddr)>, child: &mut Child) -> (String, SocketAddr) {
    ready.recv_timeout(START).unwrap_or_else(|e| {
        let _ = child.kill();
        panic!("the daemon is not ready: {e}, it ended as {:?}", child.wait())
    })
}

fn ready_line(line: &str) -> Option<(String, SocketAddr)> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event["message"] != "ready" {
        return None;
    }
    Some((event["console"].as_str()?.to_owned(), event["nfs"].as_str()?.parse().ok()?))
}

fn is_bad(line: &str, allowed: &[&str]) -> bool {
    let quiet = match serde_json::from_str::<Value>(line) {
        Ok(event) => matches!(event["level"].as_str(), Some("TRACE" | "DEBUG" | "INFO")),
        Err(_) => false,
    };
    !quiet && !allowed.iter().any(|text| line.contains(text))
}
