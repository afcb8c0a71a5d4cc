"""What goes wrong between us and vSphere, told against any stand-in with a door for faults (see vsphere_story): refused calls, failed
tasks, ended sessions, a vCenter that is away, and a daemon killed in the middle of each call.

After each: what the job made is gone or runs, what it found is there, and the guest's bytes are right.
"""
import hashlib
import json
import time
from pathlib import Path
from urllib.parse import urlparse

from .daemon import Daemon
from .doorway import Doorway
from .stories import expect, secret, until
from .vsphere_gates import gates
from .vsphere_story import CONFIG, lay_down_backup, until_relocating

AWAY_SECONDS = 60
MANY = 20
# Each fault is told once, as a warning; the story expects them.
ALLOWED = [r'"level":"WARN"']
# How long a call is held back, so that the daemon can be killed in it.
HELD_MS = 1500


class World:
    """A daemon, and the stand-in behind a door that can be closed."""

    def __init__(self, folder, simulator):
        self.simulator = simulator
        url = urlparse(simulator.url)
        self.doorway = Doorway(url.hostname, url.port)
        secret(folder / "password", simulator.password)
        config = folder / "rekindle.toml"
        ours = url._replace(netloc=f"127.0.0.1:{self.doorway.port}").geturl()
        config.write_text(CONFIG.format(folder=folder, url=ours, thumbprint=simulator.thumbprint, host=simulator.host)
                          + f"[recovery]\nreserve_min_bytes = 1000000\nmax_active = {MANY + 2}\ngate_scripts_dir = \"{folder}/gates\"\n")
        vmx, content = lay_down_backup(folder)
        self.backup = bytes(content)
        self.daemon = Daemon(folder / "state", config=config, allowed=ALLOWED)
        self.daemon.start()
        self.daemon.ingest(vmx)
        self.store = simulator.local_datastore()
        self.before = self.inventory()
        self.number = 0

    def inventory(self):
        """What an independent client sees there."""
        state = self.simulator.state()
        return sorted(vm["name"] for vm in state["vms"]), sorted(store["name"] for store in state["datastores"])

    def fault(self, method, **rule):
        self.simulator.door("POST", "/fault", json.dumps({"method": method, **rule}).encode())

    def no_faults(self):
        self.simulator.door("DELETE", "/fault")

    def calls(self, method):
        return self.simulator.state()["calls"].get(method, 0)

    def start(self):
        """Begins a live recovery, to be finished by hand."""
        self.number += 1
        body = {"point": "web", "name": f"web-{self.number}", "target": {"kind": "vsphere", "name": "vcenter"},
                "migrate": {"datastore": self.store["name"]}, "migration": "manual"}
        return self.daemon.api("POST", "recoveries", body)["id"]

    def serving(self):
        job = self.start()
        return job, self.daemon.until_state(job, "serving")["name"]

    def write(self, name, offset, data):
        self.simulator.door("PUT", f"/guest?vm={name}&disk=0&offset={offset}", data)

    def until_end(self, job, *states, timeout=180):
        """Waits for a final state, which must be one of these."""
        def ended():
            view = self.daemon.job(job)
            return view if view["state"] in ("completed", "failed", "cancelled") else None
        view = until(f"job {job} ends", ended, timeout)
        if view["state"] not in states:
            raise AssertionError(f"job {job} {view['state']}, expected {' or '.join(states)}: {json.dumps(view['error'])}\n{self.daemon.tail()}")
        return view

    def finish(self, job, name, *written):
        """Migrates, and looks at what is there then. `written` are the guest's writes: (offset, bytes)."""
        self.daemon.command("finish", job, "migrate")
        self.until_end(job, "completed")
        self.moved(name, *written)

    def moved(self, name, *written):
        content = bytearray(self.backup)
        for offset, data in written:
            content[offset:offset + len(data)] = data
        vm = self.simulator.vm(name)
        extent = Path(self.store["dir"]) / vm["disks"][0].split("] ")[1].replace(".vmdk", "-flat.vmdk")
        right = hashlib.sha256(extent.read_bytes()).digest() == hashlib.sha256(content).digest()
        if vm["power"] != "poweredOn" or not right:
            raise AssertionError(f"{name} is {vm['power']}, its bytes are {'right' if right else 'WRONG'}")

    def nothing_is_left(self, *but):
        """Of ours: only VMs that were migrated."""
        names, stores = self.inventory()
        if names != sorted([*self.before[0], *but]) or stores != self.before[1] or self.daemon.api("GET", "exports")["exports"]:
            raise AssertionError(f"left over: {names}, {stores}, {self.daemon.api('GET', 'exports')}")
        self.before = names, stores


def refused(world):
    """A call or task that fails before the VM runs: the job fails with what the host said, and nothing is left."""
    for method, at, fault in [
        ("CreateNasDatastore", "call", "PlatformConfigFault"),
        ("RegisterVM_Task", "call", "NotFound"),
        ("RegisterVM_Task", "task", "VmConfigFault"),
        ("PowerOnVM_Task", "call", "InvalidState"),
        ("PowerOnVM_Task", "task", "GenericVmConfigFault"),
    ]:
        # Always: what may be tried again is refused again.
        world.fault(method, at=at, fault=fault, message="refused by the test", count=-1)
        job = world.start()
        view = world.until_end(job, "failed")
        world.no_faults()
        told = json.dumps(view["error"])
        expect(f"{method} refused at its {at}: the job fails and says why", "refused by the test" in told or fault in told)
        world.nothing_is_left()


def migration_fails(world):
    """The guest runs on from the export with all it wrote, and the migration can be asked for again."""
    for at in ["call", "task"]:
        job, name = world.serving()
        first, second = (4096, b"before it failed " * 999), (8 << 20, b"after it failed " * 999)
        world.write(name, *first)
        world.fault("RelocateVM_Task", at=at, progress=50, fault="GenericVmConfigFault", message="refused by the test", count=1 if at == "task" else 9)
        world.daemon.command("finish", job, "migrate")
        view = until("the migration is given up", lambda: failed_migration(world, job), 120)
        world.no_faults()
        expect(f"RelocateVM_Task fails at its {at}: the VM runs on, and it is told", "refused by the test" in json.dumps(view))
        world.write(name, *second)
        world.finish(job, name, first, second)
        expect("the second try moves it, with every byte", True)
        world.nothing_is_left(name)


def failed_migration(world, job):
    view = world.daemon.job(job)
    return view if view["state"] == "serving" and view["error"] else None


def removal_waits(world):
    """A datastore that is in use for a while yet (HA, SIOC): asked again until it goes."""
    job, name = world.serving()
    world.fault("RemoveDatastore", fault="ResourceInUse", message="refused by the test", count=3)
    before = world.calls("RemoveDatastore")
    world.finish(job, name)
    expect("RemoveDatastore is asked again until it does", world.calls("RemoveDatastore") - before >= 4)
    world.no_faults()
    world.nothing_is_left(name)


def overloaded(world):
    """A call is turned away once: asked again."""
    for method in ["CreateNasDatastore", "RegisterVM_Task", "PowerOnVM_Task"]:
        world.fault(method, status=503, count=1)
        job, name = world.serving()
        world.no_faults()
        world.finish(job, name)
        expect(f"{method} answered by 503 once: the recovery goes on", True)
        world.nothing_is_left(name)


def sessions_end(world):
    """As when vpxd restarts."""
    world.simulator.door("POST", "/sessions/drop")
    job, name = world.serving()
    world.simulator.door("POST", "/sessions/drop")
    world.simulator.door("POST", "/copy-rate?mbps=8")
    world.daemon.command("finish", job, "migrate")
    until_relocating(world.daemon, job)
    world.simulator.door("POST", "/sessions/drop")
    world.until_end(job, "completed")
    world.simulator.door("POST", "/copy-rate?mbps=0")
    world.moved(name)
    world.nothing_is_left(name)
    expect("three ended sessions: the VM is moved, nothing is left", True)


def away(world):
    """The vCenter is away for a minute while the VM is moved: the guest runs, and the job goes on when it is back."""
    job, name = world.serving()
    world.simulator.door("POST", "/copy-rate?mbps=2")
    world.daemon.command("finish", job, "migrate")
    until_relocating(world.daemon, job)
    world.doorway.close()
    begun = time.monotonic()
    number, written = 0, []
    while time.monotonic() - begun < AWAY_SECONDS:
        written.append((number << 13, b"%08d" % number * 512))
        world.write(name, *written[-1])
        state = world.daemon.job(job)["state"]
        if state != "migrating":
            raise AssertionError(f"the job is {state} while the vCenter is away, expected migrating")
        number += 1
        time.sleep(0.5)
    world.doorway.open()
    world.until_end(job, "completed")
    world.simulator.door("POST", "/copy-rate?mbps=0")
    world.moved(name, *written)
    world.nothing_is_left(name)
    expect(f"away for {AWAY_SECONDS} s while it is moved: {number} writes meanwhile, the VM is moved with all of them", True)


def away_before(world):
    """Away when a recovery is asked for: refused with the reason; when it is back, the next one is done."""
    world.doorway.close()
    try:
        world.start()
    except RuntimeError as refusal:
        expect("away when a recovery is asked for: refused, with the reason", "target_unreachable" in str(refusal))
    else:
        raise AssertionError("a recovery is accepted while its target is away")
    world.doorway.open()
    world.nothing_is_left()
    job, name = world.serving()
    world.finish(job, name)
    world.nothing_is_left(name)
    expect("and done when the target is back", True)


def killed_in(world, method, finish):
    """SIGKILL while the call is under way; it is carried out all the same, and nobody hears its answer."""
    job, name = (world.start(), None) if not finish else world.serving()
    written = [(4096, b"before it was killed " * 999)] if finish else []
    for write in written:
        world.write(name, *write)
    before = world.calls(method)
    world.fault(method, delay_ms=HELD_MS, count=1)
    if finish:
        world.daemon.command("finish", job, "migrate")
    until(f"{method} is called", lambda: world.calls(method) > before, 60)
    world.daemon.kill()
    # Carried out before the daemon is back, and once it is: both are found in the field.
    if world.number % 2:
        time.sleep(HELD_MS / 1000)
    world.daemon.start()
    if not finish:
        name = world.daemon.until_state(job, "serving")["name"]
        world.daemon.command("finish", job, "migrate")
    world.until_end(job, "completed")
    world.no_faults()
    world.moved(name, *written)
    world.nothing_is_left(name)
    expect(f"SIGKILL in {method}: it goes on, the VM is moved, nothing is left", True)


def killed_in_each(world):
    """Calls that a recovery makes, twice each: their answers come before the restart, or after it."""
    for method, finish in [("CreateNasDatastore", False), ("RegisterVM_Task", False), ("PowerOnVM_Task", False),
                           ("RelocateVM_Task", True), ("RemoveDatastore", True)]:
        for _ in range(2):
            killed_in(world, method, finish)


def alone_killed_in_each(world):
    """The same on a host alone, which copies the disks, stops the VM for a moment and merges what it wrote."""
    for method, finish in [("CreateNasDatastore", False), ("RegisterVM_Task", False), ("PowerOnVM_Task", False),
                           ("CreateSnapshot_Task", True), ("MakeDirectory", True), ("CopyVirtualDisk_Task", True), ("ShutdownGuest", True),
                           ("UnregisterVM", True), ("RegisterVM_Task", True), ("PowerOnVM_Task", True), ("ConsolidateVMDisks_Task", True),
                           ("RemoveDatastore", True)]:
        for _ in range(2):
            killed_in(world, method, finish)


def many(world):
    """So many VMs by one request, in ordered groups, over one datastore; the daemon is killed between the groups."""
    each = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}, "migrate": {"datastore": world.store["name"]},
            "migration": "manual"}
    recoveries = [{**each, "name": f"many-{number}"} for number in range(MANY)]
    groups = [{"recoveries": recoveries[at:at + 5], "delay_seconds": 1} for at in range(0, MANY, 5)]
    batch = world.daemon.api("POST", "batches", {"name": "all of them", "groups": groups})["id"]
    look = lambda: world.daemon.api("GET", f"batches/{batch}")  # noqa: E731
    until("the second group begins", lambda: look()["groups"][1]["state"] != "pending", 120)
    world.daemon.kill()
    world.daemon.start()
    view = until("the batch ends", lambda: (lambda view: view if view["finished_at"] else None)(look()), 180)
    expect(f"{len(groups)} groups are up, one after the other", view["state"] == "completed")
    jobs = [vm["job"] for group in view["groups"] for vm in group["vms"]]
    views = [world.daemon.job(job) for job in jobs]
    begun, up = ([view[key] for view in views] for key in ("created_at", "serving_since"))
    expect("no group was begun before the one before it served", all(begun[n] > max(up[:n // 5 * 5], default="") for n in range(MANY)))
    names = [view["name"] for view in views]
    mounted = [store for store in world.simulator.state()["datastores"] if "nfs" in store]
    expect(f"{MANY} VMs run from {len(mounted)} datastore", len(mounted) == 1 and len(set(names)) == MANY)
    writes = {name: (number << 16, b"%08d" % number * 512) for number, name in enumerate(names)}
    for name, write in writes.items():
        world.write(name, *write)
    for job in jobs:
        world.daemon.command("finish", job, "migrate")
    for job, name in zip(jobs, names):
        world.until_end(job, "completed", timeout=300)
        world.moved(name, writes[name])
    world.nothing_is_left(*names)
    expect("all are moved, each with its own bytes, and nothing is left", True)


def in_place(world):
    """A recovery takes the place of the VM that was migrated before, which comes back, or stays renamed, or goes."""
    first = world.start()
    name = world.daemon.until_state(first, "serving")["name"]
    world.finish(first, name)
    world.nothing_is_left(name)
    original = world.simulator.vm(name)
    body = {"point": "web", "target": {"kind": "vsphere", "name": "vcenter"}, "migrate": {"datastore": world.store["name"]},
            "in_place": {"original": {"moref": original["ref"]}, "shut_down_seconds": 30}}
    for method in [None, "ReconfigVM_Task", "RegisterVM_Task", "PowerOnVM_Task"]:
        if method:
            world.fault(method, at="task", fault="GenericVmConfigFault", message="refused by the test", count=1)
            job = world.daemon.api("POST", "recoveries", body)["id"]
            world.until_end(job, "failed")
            world.no_faults()
        else:
            job = world.daemon.api("POST", "recoveries", {**body, "migration": "manual"})["id"]
            world.daemon.until_state(job, "serving")
            aside = next(vm for vm in world.simulator.state()["vms"] if vm["ref"] == original["ref"])
            right = (aside["name"], aside["power"]) == (f"{name} (before {job})", "poweredOff")
            expect("the recovered VM runs under the original's name, and that is off and renamed", right and world.simulator.vm(name)["power"] == "poweredOn")
            world.write(name, 4096, b"lost when it is undone " * 99)
            world.daemon.command("undo", job)
            world.until_end(job, "completed")
        original_is_back(world, original, f"{method} fails" if method else "undone")
    for method in ["ShutdownGuest", "ReconfigVM_Task", "RegisterVM_Task", "PowerOnVM_Task"]:
        in_place_killed(world, method, body, original)
    for remove in [False, True]:
        # The second one's original is what the first one has committed.
        original = world.simulator.vm(name)
        body["in_place"]["original"] = {"moref": original["ref"]}
        job = world.daemon.api("POST", "recoveries", body)["id"]
        until("it asks", lambda: asks(world, job), 120)
        world.write(name, 4096, b"kept " * 999)
        world.daemon.command("finish", job, "commit", *(["--remove-original"] if remove else []))
        world.until_end(job, "completed")
        world.moved(name, (4096, b"kept " * 999))
        left = [(vm["name"], vm["power"]) for vm in world.simulator.state()["vms"] if vm["ref"] == original["ref"]]
        if remove:
            expect("a commit that says so removes the original", left == [])
            world.nothing_is_left()
        else:
            expect("a commit leaves the original, off and renamed", left == [(f"{name} (before {job})", "poweredOff")])
            world.nothing_is_left(left[0][0])


def asks(world, job):
    view = world.daemon.job(job)
    if view["state"] in ("failed", "cancelled", "stuck"):
        raise AssertionError(f"job {job} is {view['state']}: {view['error']}")
    return any(step["name"] == "commit" and step["state"] == "running" for step in view["steps"])


def original_is_back(world, original, why):
    now = world.simulator.vm(original["name"])
    same = now and {key: now[key] for key in ("ref", "power", "vmx", "disks")} == {key: original[key] for key in ("ref", "power", "vmx", "disks")}
    expect(f"{why}: the original is back, and runs", same and not any("rekindle" in key for key in now.get("tags", {})))
    names, stores = world.inventory()
    if names.count(original["name"]) != 1 or any("before" in name for name in names) or stores != world.before[1]:
        raise AssertionError(f"left over: {names}, {stores}")


def in_place_killed(world, method, body, original):
    """SIGKILL in a call that puts the recovered VM in place: it goes on after the restart, and is then given up."""
    before = world.calls(method)
    world.fault(method, delay_ms=HELD_MS, count=1)
    job = world.daemon.api("POST", "recoveries", body)["id"]
    until(f"{method} is called", lambda: world.calls(method) > before, 60)
    world.daemon.kill()
    if method == "ShutdownGuest":
        # The simulator's guests have no state of shutting down: one that is asked twice is powered off twice, the second time
        # perhaps after it was powered on again.
        until("the original is off", lambda: world.simulator.vm(original["name"])["power"] == "poweredOff", 60)
    else:
        # Carried out before the job can end: a host that renames the VM later still is seen, and refused, by the next one.
        time.sleep(HELD_MS / 1000)
    world.daemon.start()
    until("it asks", lambda: asks(world, job), 120)
    world.no_faults()
    moved = Path(world.store["dir"]) / world.simulator.vm(original["name"])["vmx"].split("] ")[1]
    world.daemon.command("finish", job, "discard")
    world.until_end(job, "completed")
    expect(f"SIGKILL in {method}, then given up after its migration: its files are left", moved.exists())
    original_is_back(world, original, f"SIGKILL in {method}")


ALONE = [refused, removal_waits, alone_killed_in_each]
KINDS = [refused, migration_fails, removal_waits, overloaded, sessions_end, away_before, killed_in_each, in_place, gates, many, away]


def story(folder, simulator, wanted=(), kinds=KINDS):
    """`wanted` are names of kinds; all without."""
    world = World(folder, simulator)
    try:
        for kind in kinds:
            if not wanted or kind.__name__ in wanted:
                print(f"-- {kind.__name__}", flush=True)
                kind(world)
    finally:
        if world.daemon.process.poll() is None:
            world.daemon.stop()
    world.daemon.check_log()
    simulator.process.kill()
