//! `ingest --from`: a full backup of a VM over the vSphere API, against the stand-in.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rekindle_block::BlockIdx;
use rekindle_repo::{MapEntry, PointManifest, Repository};
use rekindle_vsphere::{Endpoint, Secret, UuidPolicy, VmId, Vsphere};
use serde_json::{Value, json};

use super::{
    disk_data::{DISK_BYTES, image, make_image},
    process::{Site, command, wait_for},
};

const STANDIN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vsphere-standin/vsphere-standin");
const NVRAM: &[u8] = b"what the firmware remembers";

/// A host with one VM, of two disks, and a site that knows it as the target `lab`.
struct Lab {
    site: Site,
    standin: Child,
    admin: String,
    url: String,
    vm: VmId,
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.standin.kill();
        let _ = self.standin.wait();
    }
}

fn make_vm(dir: &Path, raw: &Path) {
    fs::create_dir_all(dir.join("web")).unwrap();
    for disk in ["web", "data"] {
        let made = dir.join(format!("web/{disk}.vmdk"));
        let convert = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat"];
        assert!(
            Command::new("qemu-img").args(convert).args([raw, &made]).status().unwrap().success()
        );
    }
    let mut vmx = "displayName = \"web\"\nmemSize = \"32\"\nvirtualHW.version = \"13\"\nconfig.version = \"8\"\n\
                   guestOS = \"other-64\"\nnvram = \"web.nvram\"\nuuid.action = \"keep\"\n".to_owned();
    for (place, kind, disk) in [("scsi0", "pvscsi", "web"), ("sata1", "", "data")] {
        vmx += &format!("{place}.present = \"TRUE\"\n");
        if !kind.is_empty() {
            vmx += &format!("{place}.virtualDev = \"{kind}\"\n");
        }
        vmx += &format!("{place}:3.present = \"TRUE\"\n{place}:3.fileName = \"{disk}.vmdk\"\n");
    }
    fs::write(dir.join("web/web.vmx"), vmx).unwrap();
    fs::write(dir.join("web/web.nvram"), NVRAM).unwrap();
}

impl Lab {
    async fn new() -> Self {
        let site = Site::new();
        let (raw, host) = (site.path("disk.raw"), site.path("host"));
        make_image(&raw);
        make_vm(&host, &raw);
        let mut standin = Command::new("python3");
        standin.arg(STANDIN).arg("--dir").arg(&host);
        let mut standin = standin.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(standin.stdout.take().unwrap()).lines().map(Result::unwrap);
        let admin = lines.next().unwrap().strip_prefix("admin http://").unwrap().to_owned();
        let url = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let password = site.path("password");
        super::sealed::secret(&site, "password", "standin-pass");
        let mut config = fs::OpenOptions::new().append(true).open(site.config()).unwrap();
        writeln!(
            config,
            "[[target]]\nname = \"lab\"\nkind = \"vsphere\"\nurl = \"{url}\"\n\
             user = \"administrator@vsphere.local\"\npassword_file = \"{}\"\nserver = \"127.0.0.1\"",
            password.display()
        )
        .unwrap();
        let vsphere = connect(&url).await;
        let esx = vsphere.find_host(None).await.unwrap();
        let vm = vsphere.ensure_registered(&esx.id, "[local] web/web.vmx", "web").await.unwrap();
        Self { site, standin, admin, url, vm: vm.id }
    }

    async fn power_on(&self) {
        connect(&self.url).await.power_on(&self.vm, UuidPolicy::Moved).await.unwrap();
    }

    fn door(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.door("GET", "/state", "")).unwrap()
    }

    /// Nothing of ours is left on the host: no snapshot, and no lease that holds.
    fn nothing_is_left(&self) {
        let state = self.state();
        assert_eq!(state["snapshots"], json!([]), "{state:#}");
        for lease in state["leases"].as_array().unwrap() {
            assert_ne!(lease["state"], "ready", "{state:#}");
        }
    }

    fn ingest(&self) -> Command {
        let mut ingest = command();
        ingest.args(["ingest", "--json", "--from", "vsphere://lab/web", "--config"]);
        ingest.arg(self.site.config()).stdin(Stdio::null()).stdout(Stdio::piped());
        ingest.stderr(Stdio::piped());
        ingest
    }

    /// What it said when it failed, and how.
    fn fails(&self) -> (i32, String) {
        let output = self.ingest().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        (output.status.code().unwrap(), said)
    }

    /// Begins an ingest, and returns when the first part of a disk has come and no more does.
    fn stalled(&self) -> Child {
        self.door("POST", "/fault", &json!({"method": "GET nfc", "stall": true}).to_string());
        let before = self.state()["stalled"].as_array().unwrap().len();
        let ingest = self.ingest().spawn().unwrap();
        wait_for("a disk to stall", || self.state()["stalled"].as_array().unwrap().len() > before);
        ingest
    }

    fn repository(&self) -> Option<Repository> {
        let dir = self.site.state().join("repository");
        dir.exists().then(|| Repository::open(&dir).unwrap())
    }

    async fn points(&self) -> Vec<PointManifest> {
        match self.repository() {
            Some(repository) => repository.points().await.unwrap().points,
            None => Vec::new(),
        }
    }
}

async fn connect(url: &str) -> Vsphere {
    let secret = Secret::new("standin-pass");
    Vsphere::connect(Endpoint::new(url, "administrator@vsphere.local", secret)).await.unwrap()
}

/// Every byte of the point is that of the VM.
async fn check(lab: &Lab, id: &Value) {
    let repository = lab.repository().unwrap();
    let point = repository.point(&id.as_str().unwrap().parse().unwrap()).await.unwrap();
    assert_eq!((point.vm.name.as_str(), point.nvram.as_deref()), ("web", Some(NVRAM)));
    assert!(point.vmx.contains("memSize = \"32\"") || point.vmx.contains("memsize = \"32\""));
    let places: Vec<_> = point.disks.iter().map(|disk| disk.key.as_str()).collect();
    assert_eq!(places, ["scsi0:3", "sata1:3"]);
    for index in 0..2 {
        let disk = repository.open_disk(&point, index).await.unwrap();
        let block = disk.block_size().bytes();
        assert_eq!(disk.size(), DISK_BYTES);
        for number in 0..DISK_BYTES.div_ceil(block) {
            let len = block.min(DISK_BYTES - number * block) as usize;
            let found = match disk.entry(BlockIdx(number)).await.unwrap() {
                MapEntry::Zero => vec![0; len],
                MapEntry::Stored(stored) => {
                    disk.read_block(&stored).await.unwrap().bytes().to_vec()
                }
            };
            assert!(found == image(number * block, len), "disk {index}, block {number}");
        }
    }
}

#[tokio::test]
async fn a_vm_is_backed_up_from_its_host_on_or_off_and_nothing_is_left_there() {
    let lab = Lab::new().await;
    for on in [false, true] {
        if on {
            lab.power_on().await;
        }
        let output = lab.ingest().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        check(&lab, &report["point"]).await;
        lab.nothing_is_left();
        let state = lab.state();
        let lease = state["leases"].as_array().unwrap().last().unwrap();
        assert_eq!(lease["state"], "done", "{state:#}");
        assert!(!lease["percent"].as_array().unwrap().is_empty(), "{state:#}");
        assert_eq!(state["calls"]["CreateSnapshot_Task"].as_u64().unwrap_or(0), u64::from(on));
    }
    assert_eq!(lab.points().await.len(), 2);
}

#[tokio::test]
async fn a_failure_leaves_nothing_on_the_host_and_no_point() {
    let lab = Lab::new().await;
    lab.power_on().await;
    let rules = [
        json!({"method": "GET nfc", "cut": 200_000}),
        json!({"method": "GET nfc", "status": 404}),
        json!({"method": "GET folder", "status": 404}),
        json!({"method": "ExportSnapshot", "fault": "NoPermission"}),
        json!({"method": "CreateSnapshot_Task", "at": "task", "progress": 100, "fault": "SystemError"}),
    ];
    for rule in rules {
        lab.door("POST", "/fault", &rule.to_string());
        let (status, said) = lab.fails();
        assert!([1, 3, 4, 5, 6].contains(&status), "{rule}: {status}: {said}");
        assert!(!said.contains("panicked"), "{rule}: {said}");
        lab.door("DELETE", "/fault", "");
        lab.nothing_is_left();
        assert!(lab.points().await.is_empty(), "{rule}");
    }
    let unknown = |from: &str| {
        let mut ingest = command();
        ingest.args(["ingest", "--from", from, "--config"]).arg(lab.site.config());
        ingest.output().unwrap().status.code().unwrap()
    };
    assert_eq!(unknown("vsphere://lab/nobody"), 4);
    assert_eq!(unknown("vsphere://nowhere/web"), 4);
    assert_eq!(unknown("vsphere:/lab"), 2);
}

#[tokio::test]
async fn an_interrupt_ends_the_lease_and_removes_the_snapshot() {
    let lab = Lab::new().await;
    lab.power_on().await;
    let mut ingest = lab.stalled();
    assert_eq!(lab.state()["snapshots"], json!(["rekindle ingest"]));
    kill(Pid::from_raw(ingest.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(ingest.wait().unwrap().code(), Some(130));
    lab.nothing_is_left();
    assert!(lab.points().await.is_empty());
}

#[tokio::test]
async fn what_a_killed_run_left_is_removed_by_the_next() {
    let lab = Lab::new().await;
    lab.power_on().await;
    let mut ingest = lab.stalled();
    ingest.kill().unwrap();
    ingest.wait().unwrap();
    assert_eq!(lab.state()["snapshots"], json!(["rekindle ingest"]));
    assert!(lab.points().await.is_empty());
    // The lease of the killed run ends by itself, and only then can the snapshot be removed.
    wait_for("the lease to end", || lab.state()["leases"][0]["state"] != "ready");
    let output = lab.ingest().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("removed 1 snapshots"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    check(&lab, &report["point"]).await;
    lab.nothing_is_left();
}
