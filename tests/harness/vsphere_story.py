"""A recovery through vSphere, told against any stand-in whose host does real I/O: mounted, registered, running off the export,
relocated while its guest writes and the daemon is killed, verified, cleaned up."""
import hashlib
import json
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from . import recovery
from .daemon import Daemon
from .qemu import die_with_parent
from .stories import expect, secret, until

MEBIBYTES = 32
CONFIG = """\
state_dir = "{folder}/state"
[nfs]
advertise = "127.0.0.1"
[[target]]
name = "vcenter"
kind = "vsphere"
url = "{url}"
user = "administrator@vsphere.local"
password_file = "{folder}/password"
thumbprint = "{thumbprint}"
host = "{host}"
clients = ["127.0.0.1"]
"""
VMX = """\
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "14"
displayName = "web"
guestOS = "debian10-64"
memSize = "512"
numvcpus = "1"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
uuid.bios = "56 4d 00 11 22 33 44 55-66 77 88 99 aa bb cc dd"
uuid.location = "56 4d 00 11 22 33 44 55-66 77 88 99 aa bb cc dd"
"""


class Simulator:
    """A stand-in for a vCenter as a process, and the test's own door into it.

    It prints `ready URL thumbprint SHA1`; its door understands /guest, /copy-rate and /state (see tests/vsphere-standin).
    """

    def __init__(self, command, log, password, host, door=None, port_group="DC0_DVPG0"):
        self.password, self.host, self.url, self.address = password, host, None, door
        self.port_group = port_group
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=die_with_parent)
        for line in self.process.stdout:
            if line.startswith("admin "):
                self.address = line.split()[1].removeprefix("http://")
            if line.startswith("ready "):
                _, self.url, _, self.thumbprint = line.split()
                break
        if not self.url:
            raise RuntimeError(f"{command[0]} did not start")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def door(self, method, path, body=None):
        request = urllib.request.Request(f"http://{self.address}{path}", data=body, method=method)
        return urllib.request.urlopen(request, timeout=60).read()

    def state(self):
        return json.loads(self.door("GET", "/state"))

    def vm(self, name):
        return next((vm for vm in self.state()["vms"] if vm["name"] == name), None)

    def local_datastore(self):
        return next(store for store in self.state()["datastores"] if "nfs" not in store)


def lay_down_backup(folder):
    image = recovery.write_image(folder / "web.raw", 3, MEBIBYTES)
    with open(image, "r+b") as disk:
        # The rig's guests boot, and their tools report, off a disk that has a boot sector.
        disk.seek(510)
        disk.write(b"\x55\xaa")
    vm = folder / "backup"
    vm.mkdir()
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", image, vm / "web.vmdk"], check=True)
    (vm / "web.vmx").write_text(VMX)
    return vm / "web.vmx", bytearray(image.read_bytes())


def until_relocating(daemon, job):
    while True:
        view = daemon.job(job)
        if view["state"] == "migrating" and (view["progress"] or {}).get("phase") == "relocate":
            return
        if view["state"] in ("completed", "failed", "cancelled", "stuck"):
            raise RuntimeError(f"the job was {view['state']} before it could be seen relocating: {view['error']}")
        time.sleep(0.02)


def configured(folder, simulator):
    secret(folder / "password", simulator.password)
    config = folder / "rekindle.toml"
    config.write_text(CONFIG.format(folder=folder, url=simulator.url, thumbprint=simulator.thumbprint, host=simulator.host))
    return config


def runs_as_backed_up(simulator, name, content):
    vm = simulator.vm(name)
    expect(f"the VM {name} runs from the export", vm["power"] == "poweredOn" and not vm["question"])
    expect("its guest reads what was backed up", read(simulator, name, len(content)) == bytes(content))


def story(folder, simulator):
    config = configured(folder, simulator)
    vmx, content = lay_down_backup(folder)
    with Daemon(folder / "state", config=config) as daemon:
        daemon.ingest(vmx)
        store = simulator.local_datastore()
        simulator.door("POST", "/copy-rate?mbps=8")
        body = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}, "migrate": {"datastore": store["name"]}, "migration": "manual"}
        refused(daemon, body | {"networks": {"map": {"VM Network": "nowhere"}}}, "not_on_target")
        body["networks"] = {"map": {"VM Network": simulator.port_group}}
        job = daemon.api("POST", "recoveries", body)["id"]
        name = daemon.until_state(job, "serving")["name"]
        runs_as_backed_up(simulator, name, content)
        on = simulator.vm(name).get("networks")
        # The rig's simulator does not tell; the tests of the crate ask it.
        if on:
            expect("its adapter has a port of the distributed switch", on == ["dvportgroup-13"])
        write(simulator, name, content, 4096, b"before the migration " * 5000)
        daemon.command("finish", job, "migrate")
        until_relocating(daemon, job)
        write(simulator, name, content, 9 << 20, b"while it is moved " * 3000)
        daemon.kill()
        daemon.start()
        write(simulator, name, content, 20 << 20, b"after the daemon came back " * 2000)
        view = daemon.until_state(job, "completed", timeout=120)
        expect("the job is completed, migrated", view["outcome"] == "migrated")
        finished(daemon, simulator, store, name, content)
    simulator.process.kill()


def standalone(folder, simulator):
    """The same on one ESXi host, which cannot relocate: the VM runs from the export until it is thrown away. See `low_pause` for its migration."""
    config = configured(folder, simulator)
    vmx, content = lay_down_backup(folder)
    with Daemon(folder / "state", config=config) as daemon:
        daemon.ingest(vmx)
        before = simulator.state()
        body = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}}
        try:
            daemon.api("POST", "recoveries", {**body, "migrate": {"datastore": simulator.local_datastore()["name"]}, "cut_over": {"method": "relocate"}})
        except RuntimeError as refusal:
            expect("a migration while the VM runs is refused when it is asked for, and a vCenter named for it", "needs_vcenter" in str(refusal))
        else:
            raise AssertionError("a host alone is asked to relocate")
        job = daemon.api("POST", "recoveries", body)["id"]
        name = daemon.until_state(job, "serving")["name"]
        runs_as_backed_up(simulator, name, content)
        write(simulator, name, content, 4096, b"before the restart " * 5000)
        daemon.kill()
        daemon.start()
        write(simulator, name, content, 20 << 20, b"after the daemon came back " * 2000)
        expect("after a SIGKILL it has all that its guest wrote", read(simulator, name, len(content)) == bytes(content))
        second = daemon.api("POST", "recoveries", {**body, "mode": "live_mount", "expires_in_seconds": 3600})["id"]
        other = daemon.until_state(second, "serving")["name"]
        expect("a live mount of the same point runs beside it", other != name and simulator.vm(other)["power"] == "poweredOn")
        daemon.command("finish", second, "discard", "--watch")
        expect("and goes without it", simulator.vm(other) is None and simulator.vm(name)["power"] == "poweredOn")
        daemon.command("finish", job, "discard", "--watch")
        state = simulator.state()
        same = all(sorted(one["name"] for one in state[kind]) == sorted(one["name"] for one in before[kind]) for kind in ("vms", "datastores"))
        expect("nothing of ours is left on the host", same and daemon.api("GET", "exports")["exports"] == [])
    simulator.process.kill()


def low_pause(folder, simulator):
    """A migration on one ESXi host: copied while its guest writes, compared, stopped for a moment, merged where it stays; the daemon killed on the way."""
    config = configured(folder, simulator)
    vmx, content = lay_down_backup(folder)
    expected = ["failed: verify the destination", "failed: the guest did not shut down", "failed: power the VM on", "cannot be taken back yet: write the snapshot back"]
    with Daemon(folder / "state", config=config, allowed=expected) as daemon:
        daemon.ingest(vmx)
        store = simulator.local_datastore()
        body = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}, "migrate": {"datastore": store["name"]}, "migration": "manual"}
        job = daemon.api("POST", "recoveries", body)["id"]
        name = daemon.until_state(job, "serving")["name"]
        runs_as_backed_up(simulator, name, content)
        write(simulator, name, content, 4096, b"before the migration " * 5000)

        fault(simulator, method="CopyVirtualDisk_Task", at="data", offset=7 << 20)
        daemon.command("finish", job, "migrate")
        goes_back(daemon, simulator, job, name, content, "corrupt")
        expect("a copy with a wrong byte is found before the guest is stopped", "ShutdownGuest" not in simulator.state()["calls"])
        simulator.door("POST", "/guests?answer=no")
        daemon.command("finish", job, "migrate")
        goes_back(daemon, simulator, job, name, content, "guest_runs_on")
        simulator.door("POST", "/guests?answer=yes")
        fault(simulator, method="PowerOnVM_Task", at="task", fault="GenericVmConfigFault", message="no room for its swap file")
        daemon.command("finish", job, "migrate")
        goes_back(daemon, simulator, job, name, content, "target_refused")

        simulator.door("POST", "/copy-rate?mbps=8")
        daemon.command("finish", job, "migrate")
        until_step(daemon, job, "clone")
        write(simulator, name, content, 9 << 20, b"while it is copied " * 3000)
        daemon.kill()
        daemon.start()
        write(simulator, name, content, 20 << 20, b"after the daemon came back " * 2000)
        fault(simulator, method="ConsolidateVMDisks_Task", fault="FileLocked", count=1000)
        stuck = daemon.until_state(job, "stuck", timeout=120)
        expect("it has migrated, and stays until all of it is merged", stuck["outcome"] == "migrated" and daemon.api("GET", "exports")["exports"] != [])
        vm = simulator.vm(name)
        expect("the VM runs from the datastore with what it wrote last still on the export",
               vm["power"] == "poweredOn" and vm["vmx"].startswith(f"[{store['name']}]") and not any(disk.startswith(f"[{store['name']}]") for disk in vm["disks"]))
        expect("its guest reads all that it wrote", read(simulator, name, len(content)) == bytes(content))
        write(simulator, name, content, 25 << 20, b"where it stays " * 3000)
        daemon.kill()
        simulator.door("DELETE", "/fault")
        daemon.start()
        view = daemon.until_state(job, "completed", timeout=120)
        expect(f"the job is completed, migrated, its guest off for {view['pause_ms']} ms", view["outcome"] == "migrated" and 0 < view["pause_ms"] < 30_000)
        finished(daemon, simulator, store, name, content)
        expect("its guest reads the same there", read(simulator, name, len(content)) == bytes(content))
        home = Path(store["dir"]) / simulator.vm(name)["disks"][0].split("] ")[1]
        qemu = json.loads(subprocess.run(["qemu-img", "info", "--output=json", home], check=True, stdout=subprocess.PIPE).stdout)
        expect("another reader finds one whole disk there", qemu["virtual-size"] == len(content) and "backing-filename" not in qemu)
        left = sorted(path.name for path in Path(store["dir"]).iterdir())
        expect("nothing of the tries before is left on the datastore", left == [home.parent.name])
    simulator.process.kill()


def attach(folder, simulator):
    """A backup's disk on a VM that runs: its guest reads and writes it, the daemon is killed while it is attached and while it is taken off, and the VM runs on as it was."""
    config = configured(folder, simulator)
    vmx, content = lay_down_backup(folder)
    with Daemon(folder / "state", config=config) as daemon:
        daemon.ingest(vmx)
        target = {"kind": "vsphere", "name": "vcenter"}
        first = daemon.api("POST", "recoveries", {"point": "web", "target": target, "migrate": {"datastore": simulator.local_datastore()["name"]}})["id"]
        name = daemon.until_state(first, "completed", timeout=120)["name"]
        own, before = bytes(content), simulator.vm(name)
        expect("a VM runs that no job has", before["power"] == "poweredOn" and len(before["disks"]) == 1)
        body = {"point": "web", "mode": "disk_only", "target": target, "attach_to": {"name": name}}

        simulator.door("POST", f"/off-limits?vm={name}&why=encrypted")
        refused(daemon, body, "vm_encrypted")
        simulator.door("POST", f"/off-limits?vm={name}&why=consolidation")
        refused(daemon, body, "vm_needs_consolidation")
        simulator.door("POST", f"/off-limits?vm={name}&why=")
        calls = simulator.state()["calls"]["ReconfigVM_Task"] if "ReconfigVM_Task" in simulator.state()["calls"] else 0
        fault(simulator, method="ReconfigVM_Task", at="task", delay_ms=1500)
        job = daemon.api("POST", "recoveries", body)["id"]
        until("the host is asked to attach it", lambda: simulator.state()["calls"].get("ReconfigVM_Task", 0) > calls, 60)
        daemon.kill()
        daemon.start()
        view = daemon.until_state(job, "serving")
        attached = simulator.vm(name)
        expect("after a SIGKILL on the way the VM has the disk once", len(attached["disks"]) == 2 and attached["tags"].get("rekindle.attached") == job)
        expect("the timeline says where", any(event["what"] == f"scsi0:0 is attached to {name} as scsi0:1" for event in view["timeline"]))
        expect("its guest reads what was backed up", read(simulator, name, len(content), disk=1) == bytes(content))
        write(simulator, name, content, 4096, b"to the disk that came " * 5000, disk=1)
        refused(daemon, body, "vm_taken")
        daemon.kill()
        daemon.start()
        write(simulator, name, content, 20 << 20, b"after the daemon came back " * 2000, disk=1)
        expect("after a SIGKILL it has all that its guest wrote", read(simulator, name, len(content), disk=1) == bytes(content))
        expect("and its own disk is as it was", read(simulator, name, len(own)) == own)

        calls = simulator.state()["calls"]["ReconfigVM_Task"]
        fault(simulator, method="ReconfigVM_Task", at="task", delay_ms=1500)
        daemon.command("finish", job, "discard")
        until("the host is asked to take it off", lambda: simulator.state()["calls"]["ReconfigVM_Task"] > calls, 60)
        daemon.kill()
        daemon.start()
        daemon.until_state(job, "completed")
        as_before(daemon, simulator, name, before, own)
        expect("the backup is as it was", again(daemon, simulator, body, name, len(own)) == own)
        as_before(daemon, simulator, name, before, own)
    simulator.process.kill()


def again(daemon, simulator, body, name, length):
    """What the disk is when it is attached anew, for a while."""
    job = daemon.api("POST", "recoveries", {**body, "expires_in_seconds": 3600})["id"]
    expect("it ends by itself", daemon.until_state(job, "serving")["expires_at"])
    content = read(simulator, name, length, disk=1)
    daemon.api("POST", f"jobs/{job}/extend", {"expires_in_seconds": 1})
    view = daemon.until_state(job, "completed")
    expect("and does so", view["outcome"] == "expired")
    return content


def as_before(daemon, simulator, name, before, own):
    now = simulator.vm(name)
    expect("the VM runs on with its own disk alone", now == before and read(simulator, name, len(own)) == own)
    expect("no datastore and no export is left", not [one for one in simulator.state()["datastores"] if "nfs" in one] and daemon.api("GET", "exports")["exports"] == [])


def refused(daemon, body, code):
    try:
        daemon.api("POST", "recoveries", body)
    except RuntimeError as refusal:
        expect(f"refused: {code}", code in str(refusal))
    else:
        raise AssertionError(f"accepted, and not refused as {code}")


def budget(folder, simulator):
    """A host that has no NFS mount left: a job waits and says so, is not begun, and goes on when there is one, also after a restart."""
    config = configured(folder, simulator)
    vmx, content = lay_down_backup(folder)
    with Daemon(folder / "state", config=config) as daemon:
        daemon.ingest(vmx)
        simulator.door("POST", "/max-volumes?to=0")
        body = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}}
        waits = "an NFS mount on the host vcenter: 0 are used, 0 are allowed (NFS.MaxVolumes)"
        expect("the forecast says what it would wait for", daemon.api("POST", "recoveries/forecast", body)["waits_for"] == waits)
        job = daemon.api("POST", "recoveries", body)["id"]
        until("the job says what it waits for", lambda: daemon.job(job)["waits_for"] == waits, 30)
        daemon.kill()
        daemon.start()
        until("and does so after a restart", lambda: daemon.job(job)["waits_for"] == waits, 30)
        expect("nothing of it is begun", daemon.job(job)["state"] == "queued" and daemon.api("GET", "exports")["exports"] == [])
        simulator.door("POST", "/max-volumes?to=1")
        name = daemon.until_state(job, "serving")["name"]
        runs_as_backed_up(simulator, name, content)
        second = daemon.api("POST", "recoveries", body)["id"]
        daemon.until_state(second, "serving")
        expect("a second VM needs no mount more", len([one for one in simulator.state()["datastores"] if "nfs" in one]) == 1)
        for one in (job, second):
            daemon.command("finish", one, "discard", "--watch")
        expect("no export is left", daemon.api("GET", "exports")["exports"] == [])
    simulator.process.kill()


def fault(simulator, **rule):
    simulator.door("POST", "/fault", json.dumps(rule).encode())


def until_step(daemon, job, step):
    until(f"{job} takes the step {step}", lambda: any(one["name"] == step and one["state"] == "running" for one in daemon.job(job)["steps"]), 60)


def goes_back(daemon, simulator, job, name, content, code):
    view = until(f"the migration is given up: {code}", lambda: (now := daemon.job(job))["state"] == "serving" and now["error"] and now, 60)
    expect(f"a migration is given up: {view['error']['message']}", view["error"]["code"] == code)
    runs = until("the VM runs again", lambda: (vm := simulator.vm(name)) and vm["power"] == "poweredOn" and vm, 10)
    expect("its VM runs from the export, on its own disks", not runs["question"] and not any("-0000" in disk for disk in runs["disks"]))
    expect("its guest has all that it wrote", read(simulator, name, len(content)) == bytes(content))
    expect("nothing is left on the datastore", list(Path(simulator.local_datastore()["dir"]).iterdir()) == [])


def read(simulator, name, length, disk=0):
    """The first bytes of a VM's disk, as its guest reads them."""
    return simulator.door("GET", f"/guest?vm={name}&disk={disk}&offset=0&length={length}")


def write(simulator, name, content, offset, data, disk=0):
    simulator.door("PUT", f"/guest?vm={name}&disk={disk}&offset={offset}", data)
    content[offset:offset + len(data)] = data


def finished(daemon, simulator, store, name, content):
    state = simulator.state()
    vm = simulator.vm(name)
    expect(f"the VM runs from {store['name']}", vm["power"] == "poweredOn" and all(f"[{store['name']}]" in disk for disk in vm["disks"]))
    expect("the export's datastore is gone", not [one for one in state["datastores"] if "nfs" in one])
    extent = Path(store["dir"]) / vm["disks"][0].split("] ")[1].replace(".vmdk", "-flat.vmdk")
    expect("the moved disk has the backup's bytes and the guest's writes",
           hashlib.sha256(extent.read_bytes()).digest() == hashlib.sha256(bytes(content)).digest())
    expect("no export is left", daemon.api("GET", "exports")["exports"] == [])
