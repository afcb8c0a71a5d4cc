use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;

/// A directory with a program in it that may be run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(text);
        folder
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), format!("#!/bin/sh\n{text}\n")).unwrap();
        self.allow(0o755);
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("check")
    }

    fn allow(&self, mode: u32) {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn scripts(&self) -> GateScripts {
        GateScripts::new(self.0.path().to_owned())
    }

    fn refusal(&self, name: &str) -> String {
        find(Some(&self.scripts()), name).unwrap_err().to_string()
    }

    async fn run(&self, within: Duration) -> (Result<(), String>, String) {
        let mut command = Command::new(self.path());
        command.env_clear().env("PATH", PATH);
        execute(command, Instant::now() + within).await
    }
}

const LONG: Duration = Duration::from_secs(60);

/// Whether a process is there and has not ended.
fn lives(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

async fn until_gone(id: &str) {
    let gone = async {
        while lives(id) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("it is killed with its group");
}

#[test]
fn only_a_plain_name_of_a_file_is_taken() {
    for good in ["check", "db-is_up.sh", "7"] {
        check_name(good).unwrap();
    }
    let long = "x".repeat(NAME_MAX + 1);
    for bad in [
        "", ".", "..", "../check", "a/b", "/bin/sh", "-c", ".check", "a b", "a;b", "$x", "a\n",
        &long,
    ] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn what_others_may_have_written_is_not_run() {
    let folder = Folder::with("true");
    let scripts = folder.scripts();
    assert_eq!(find(Some(&scripts), "check").unwrap(), fs::canonicalize(folder.path()).unwrap());
    assert!(matches!(find(None, "check"), Err(JobError::Refused { code: "gate_scripts_off", .. })));
    assert!(matches!(find(Some(&scripts), "other"), Err(JobError::NotFound { .. })));
    for mode in [0o775, 0o757] {
        folder.allow(mode);
        assert!(folder.refusal("check").contains("can change check"), "{mode:o}");
    }
    folder.allow(0o644);
    assert!(folder.refusal("check").contains("not executable"));
    folder.allow(0o755);
    symlink("/bin/true", folder.0.path().join("link")).unwrap();
    assert!(folder.refusal("link").contains("not a regular file"));
    fs::create_dir(folder.0.path().join("sub")).unwrap();
    assert!(folder.refusal("sub").contains("not a regular file"));
    if geteuid().is_root() {
        nix::unistd::chown(&folder.path(), Some(nix::unistd::Uid::from_raw(12_345)), None).unwrap();
        assert!(folder.refusal("check").contains("can change check"));
        nix::unistd::chown(&folder.path(), Some(geteuid()), None).unwrap();
    }
    find(Some(&scripts), "check").unwrap();
    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(folder.refusal("check").contains("can change /"), "{mode:o}");
    }
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o700)).unwrap();
    // Nor below a folder that others may write in.
    let below = folder.0.path().join("sub");
    fs::copy(folder.path(), below.join("check")).unwrap();
    find(Some(&GateScripts::new(below.clone())), "check").unwrap();
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = find(Some(&GateScripts::new(below)), "check").unwrap_err().to_string();
    assert!(refused.contains("can change /"), "{refused}");
}

#[tokio::test]
async fn a_run_is_told_by_its_status_and_its_words() {
    let folder = Folder::with("echo out; echo err >&2; env");
    let (result, said) = folder.run(LONG).await;
    assert_eq!(result, Ok(()));
    assert!(said.starts_with("out\nerr\n"), "{said}");
    assert!(said.contains(&format!("PATH={PATH}")) && !said.contains("CARGO"), "{said}");
    folder.write("echo first; echo not yet; exit 3");
    assert_eq!(folder.run(LONG).await, (Err("exit status: 3".into()), "first\nnot yet\n".into()));
    folder.write("cat; kill -TERM $$");
    assert!(
        folder.run(LONG).await.0.unwrap_err().contains("signal: 15"),
        "nothing is on its stdin"
    );
    let nothing = Command::new("/nowhere/check");
    assert!(execute(nothing, Instant::now() + LONG).await.0.unwrap_err().contains("cannot be run"));
}

/// What it says last, right before its end, is what an administrator looks for. On one thread the runtime cannot have heard
/// of it before the end is seen.
#[tokio::test(flavor = "current_thread")]
async fn its_last_words_are_taken_in() {
    let folder = Folder::with("echo first; until [ -e \"$0.go\" ]; do :; done; echo last; exit 3");
    let mut command = Command::new(folder.path());
    command.env_clear().env("PATH", PATH);
    let mut running = Running::start(command).unwrap();
    while running.said != b"first\n" {
        running.output.readable().await.unwrap();
        assert!(running.take().unwrap());
    }
    fs::write(folder.path().with_extension("go"), "").unwrap();
    let status = loop {
        match running.ended.try_recv() {
            Ok(status) => break status.unwrap(),
            Err(oneshot::error::TryRecvError::Empty) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((status.code(), running.end().as_str()), (Some(3), "first\nlast\n"));
}

#[tokio::test]
async fn nothing_is_left_of_a_run_when_its_time_is_over() {
    let folder = Folder::with("sleep 10000 & echo $!; wait");
    let (result, said) = folder.run(Duration::from_secs(1)).await;
    assert_eq!(result, Err("it was killed: its time was over".into()));
    until_gone(&said).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_ended_or_was_given_up() {
    // Who goes on in the background holds nothing up.
    let folder = Folder::with("sleep 10000 & echo $!");
    let (result, said) = folder.run(LONG).await;
    assert_eq!(result, Ok(()));
    until_gone(&said).await;
    let note = folder.0.path().join("note");
    folder.write(&format!("sleep 10000 & echo $! > {}; wait", note.display()));
    let noted = async {
        while !fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        run = folder.run(LONG) => panic!("{run:?}"),
        () = noted => {}
    }
    until_gone(&fs::read_to_string(&note).unwrap()).await;
}

#[tokio::test]
async fn endless_words_neither_fill_memory_nor_stop_the_clock() {
    let folder = Folder::with("exec yes 0123456789abcdef");
    let (result, said) = folder.run(Duration::from_secs(1)).await;
    assert_eq!(result, Err("it was killed: its time was over".into()));
    assert!(said.len() <= OUTPUT_MAX && said.contains("0123456789abcdef\n"), "{}", said.len());
    folder.write("exec yes | head -c 1000000");
    let (result, said) = folder.run(LONG).await;
    assert!(result.is_ok() && said.len() == OUTPUT_MAX, "{}", said.len());
}
