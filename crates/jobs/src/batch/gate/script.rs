//! Programs of the administrator's that gates may run.
//!
//! A request names a file of the configured directory and nothing more: no path, no arguments, no shell text. Without the
//! directory there are none. A program has the rights of the appliance and an environment of its own:
//!
//! ```text
//! PATH LANG                        fixed
//! REKINDLE_BATCH REKINDLE_JOB      ids
//! REKINDLE_VM REKINDLE_NAME        the backed-up VM's name, and the recovered one's
//! REKINDLE_ADDRESS                 the guest's address, when its tools tell one
//! ```
//! It runs in a process group of its own, which is killed when its time is over, when it ends, and when the gate is given up.
//! What it says (stdout and stderr) goes to the log, with the job's id, and its last line to the batch.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Guest;
use crate::JobError;

/// Runs at once, of all gates of all batches: each is a process group and a thread.
static RUNS: Semaphore = Semaphore::const_new(32);
/// Bytes of what a run says that are kept: its end.
const OUTPUT_MAX: usize = 4096;
/// Reads of 4 KiB before the clock is looked at: what a pipe holds.
const TAKEN_AT_ONCE: usize = 16;
/// Characters of its last line that the batch tells.
const LINE_MAX: usize = 200;
const NAME_MAX: usize = 64;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directory of the programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateScripts(PathBuf);

impl GateScripts {
    /// The programs of this directory, an absolute path.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }
}

/// Refuses what is no plain file name.
pub(super) fn check_name(name: &str) -> Result<(), JobError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > NAME_MAX
        || !name.chars().all(plain)
        || name.starts_with(['.', '-'])
    {
        let message = format!(
            "a gate's script is the name of a file: 1 to {NAME_MAX} letters, digits, dots, dashes and underscores"
        );
        return Err(JobError::refused("bad_batch", message));
    }
    Ok(())
}

/// The file of that name, if it may be run: nobody but root and ourselves can have written it, or can put another there.
pub(super) fn find(scripts: Option<&GateScripts>, name: &str) -> Result<PathBuf, JobError> {
    check_name(name)?;
    let refused = |message: String| JobError::refused("gate_script_refused", message);
    let Some(GateScripts(directory)) = scripts else {
        let message = "gates run no scripts: recovery.gate_scripts_dir is not configured";
        return Err(JobError::refused("gate_scripts_off", message));
    };
    let unreadable = |path: &Path, e: io::Error| refused(format!("{}: {e}", path.display()));
    let directory = fs::canonicalize(directory).map_err(|e| unreadable(directory, e))?;
    for folder in directory.ancestors() {
        let metadata = fs::symlink_metadata(folder).map_err(|e| unreadable(folder, e))?;
        // In a sticky folder others cannot rename what is not theirs; scripts are not kept in one.
        let sticky = folder != directory && metadata.mode() & 0o1000 != 0;
        if !is_ours(&metadata) || (is_open_to_others(&metadata) && !sticky) {
            let message =
                format!("others than root and the appliance can change {}", folder.display());
            return Err(refused(message));
        }
    }
    let path = directory.join(name);
    let metadata = match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(JobError::NotFound { what: "gate script", name: name.to_owned() });
        }
        found => found.map_err(|e| unreadable(&path, e))?,
    };
    if !metadata.is_file() {
        return Err(refused(format!("{name} is not a regular file")));
    }
    if !is_ours(&metadata) || is_open_to_others(&metadata) {
        return Err(refused(format!("others than root and the appliance can change {name}")));
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(refused(format!("{name} is not executable")));
    }
    Ok(path)
}

fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == 0 || metadata.uid() == geteuid().as_raw()
}

fn is_open_to_others(metadata: &Metadata) -> bool {
    metadata.mode() & 0o022 != 0
}

/// One run, which takes `within` at most and ends by `end`. `Err` says how it ended, and its last line.
pub(super) async fn run(
    name: &str,
    guest: &Guest,
    within: Duration,
    end: Instant,
) -> Result<(), String> {
    let turn = timeout_at(end, RUNS.acquire()).await;
    let _turn = turn.map_err(|_| "its turn did not come".to_owned())?;
    let until = (Instant::now() + within).min(end);
    let (scripts, wanted) = (guest.scripts().cloned(), name.to_owned());
    let path = crate::failure::blocking(move || find(scripts.as_ref(), &wanted)).await;
    let path = path.map_err(|e| e.to_string())?;
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8");
    command.env("REKINDLE_BATCH", guest.batch.as_str()).env("REKINDLE_JOB", guest.job.id.as_str());
    command.env("REKINDLE_VM", &guest.job.vm).env("REKINDLE_NAME", &guest.job.name);
    // A script may do without.
    if let Ok(Ok(told)) = timeout_at(until, guest.told()).await
        && let Some(address) = told.address
    {
        command.env("REKINDLE_ADDRESS", address.to_string());
    }
    let (result, said) = execute(command, until).await;
    log(name, guest, &result, &said);
    result.map_err(|why| match said.trim_end().rsplit('\n').next() {
        Some(line) if !line.is_empty() => format!("{why}: {}", one_line(line, LINE_MAX)),
        _ => why,
    })
}

/// How it ended, and the end of what it said.
async fn execute(command: Command, until: Instant) -> (Result<(), String>, String) {
    let mut running = match Running::start(command) {
        Ok(running) => running,
        Err(error) => return (Err(format!("it cannot be run: {error}")), String::new()),
    };
    let result = match timeout_at(until, running.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it was killed: its time was over".to_owned()),
    };
    (result, running.end())
}

/// Says what a run said, unless the one before said the same.
fn log(name: &str, guest: &Guest, result: &Result<(), String>, said: &str) {
    let ended = result.as_ref().err().map_or("exit status: 0", String::as_str);
    let output = one_line(said.trim_end(), OUTPUT_MAX);
    let news = format!("{ended} {output}");
    let mut before = guest.said.lock();
    if *before != news {
        let (batch, job, vm) = (&guest.batch, &guest.job.id, guest.name());
        tracing::info!(%batch, %job, vm, script = name, ended, output, "a gate's script ran");
        *before = news;
    }
}

fn one_line(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

/// A run. When it is dropped nothing of its process group is left.
struct Running {
    /// Who waits for it on a thread of its own, and so takes it out of the table of processes.
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    output: Receiver,
    said: Vec<u8>,
    _group: Group,
}

/// A process group, which ends with this.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Refused when nobody is left in it.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Running {
    fn start(mut command: Command) -> io::Result<Self> {
        let (read, write) = io::pipe()?;
        let output = Receiver::from_owned_fd(OwnedFd::from(read))?;
        command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
        let mut child = command.current_dir("/").process_group(0).spawn()?;
        let id = i32::try_from(child.id()).map_err(io::Error::other)?;
        let group = Group(Pid::from_raw(id));
        let (tell, ended) = oneshot::channel();
        // Nobody listens any more when the run was given up.
        let wait = move || drop(tell.send(child.wait()));
        std::thread::Builder::new().name("gate-script".into()).spawn(wait)?;
        Ok(Self { ended, output, said: Vec::new(), _group: group })
    }

    /// Waits for its end, and takes in what it says.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut open = true;
        loop {
            tokio::select! {
                ended = &mut self.ended => return ended.unwrap_or_else(|e| Err(io::Error::other(e))),
                ready = self.output.readable(), if open => {
                    ready?;
                    open = self.take()?;
                }
            }
        }
    }

    /// Takes in what it has said; whether more may come.
    fn take(&mut self) -> io::Result<bool> {
        take(&mut self.said, |buffer| self.output.try_read(buffer))
    }

    /// Ends it, with whoever is still in its group; what it said.
    fn end(self) -> String {
        let Self { output, mut said, _group: group, .. } = self;
        // The rest of what it said; nobody is waited for. Asked of the pipe itself: its last words may have come without
        // the runtime having heard of them yet.
        if let Ok(pipe) = output.into_nonblocking_fd() {
            let mut pipe = fs::File::from(pipe);
            let _ = take(&mut said, |buffer| pipe.read(buffer));
        }
        drop(group);
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// Takes in what can be read, a pipe's worth at most, and keeps the end of all; whether more may come.
fn take(
    said: &mut Vec<u8>,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    for _ in 0..TAKEN_AT_ONCE {
        match read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(len) => said.extend_from_slice(&buffer[..len]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) => return Err(e),
        }
        let beyond = said.len().saturating_sub(OUTPUT_MAX);
        said.drain(..beyond);
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
