"""Snapshots, and what leaves the host as files: NFC leases (/nfc) with streamOptimized VMDKs, and datastores (/folder)."""
import os, re, subprocess, tempfile, threading, time, urllib.parse
from xml.sax.saxutils import escape

from faults import Fault, NfsError
from inventory import Disk, Managed, ref_xml, text
from volumes import CHUNK, read_all

LEASE_SECONDS = 20


class Snapshot(Managed):
    """A VM's disks as they were: a real host writes on into deltas, this one keeps a copy."""

    def __init__(self, id, name, vm, folder):
        super().__init__("VirtualMachineSnapshot", id, name)
        self.vm, self.hardware, self.files = vm, vm.hardware(), []
        disks = vm.open_disks if vm.on else [Disk(vm.datastore.volume, path) for path in vm.disks]
        for number, disk in enumerate(disks):
            path = os.path.join(folder, f"{id}-{number}.raw")
            with open(path, "wb") as copy, vm.io:
                for at in range(0, disk.size, CHUNK):
                    copy.write(disk.read(at, min(CHUNK, disk.size - at)))
            self.files.append(path)

    def properties(self):
        return {"config.hardware.device": ("ArrayOfVirtualDevice", self.hardware)}

    def xml(self, children):
        return (f'<snapshot type="{self.kind}">{self.id}</snapshot>{ref_xml("vm", self.vm)}<name>{escape(self.name)}</name><description/><id>1</id>'
                f"<createTime>2025-01-01T00:00:00Z</createTime><state>poweredOn</state><quiesced>false</quiesced>{children}")


class Lease(Managed):
    def __init__(self, id, files, keys, origin, remove):
        super().__init__("HttpNfcLease", id)
        self.files, self.keys, self.origin, self.remove = files, keys, origin, remove
        self.state, self.percent, self.used = "ready", [], time.monotonic()

    def properties(self):
        urls = "".join(
            f"<deviceUrl><key>/vm-1/{key}</key><importKey>/vm/{key}</importKey><url>{self.origin}://*/nfc/{self.id}/disk-{n}.vmdk</url>"
            f"<sslThumbprint/><disk>true</disk><targetId>disk-{n}.vmdk</targetId></deviceUrl>" for n, key in enumerate(self.keys))
        return {"state": ("HttpNfcLeaseState", self.state), "error": None,
                "info": ("HttpNfcLeaseInfo", f'<lease type="{self.kind}">{self.id}</lease>{urls}<totalDiskCapacityInKB>1</totalDiskCapacityInKB><leaseTimeout>{LEASE_SECONDS}</leaseTimeout>')}


class Leases:
    """A part of the API."""

    stalled, released = [], threading.Event()

    def frozen(self):
        if not hasattr(self, "frozen_folder"):
            self.frozen_folder = tempfile.TemporaryDirectory(prefix="vsphere-standin-frozen")
        return self.frozen_folder.name

    def CreateSnapshot_Task(self, this, args):
        if self.options.esx:
            return self.branch(this, args)

        def work(task):
            snapshot = self.add(Snapshot(self.new_id("snapshot"), args.findtext("name"), this, self.frozen()))
            this.snapshots.append(snapshot)
            return 'ManagedObjectReference" type="VirtualMachineSnapshot', snapshot.id

        return self.start("CreateSnapshot_Task", this, work)

    def RemoveSnapshot_Task(self, this, args):
        def work(task):
            if this in this.vm.snapshots and self.is_branch(this):
                return self.merge_branch(this)
            if any(lease.state == "ready" and lease.files == this.files for lease in self.leases()):
                raise Fault("FileLocked", "The snapshot is being exported.")
            this.vm.snapshots.remove(this)
            self.objects.pop((this.kind, this.id))
            for path in this.files:
                os.remove(path)

        return self.start("RemoveSnapshot_Task", this.vm, work)

    def leases(self):
        now = time.monotonic()
        found = [lease for (kind, _), lease in list(self.objects.items()) if kind == "HttpNfcLease"]
        for lease in found:
            if lease.state == "ready" and now - lease.used > LEASE_SECONDS:
                self.end_lease(lease, "error")
        return found

    def lease(self, vm, files, remove):
        origin = "https" if self.options.tls else "http"
        return ref_xml("returnval", self.add(Lease(self.new_id("lease"), files, vm.device_keys(), origin, remove)))

    def ExportSnapshot(self, this, args):
        return self.lease(this.vm, this.files, [])

    def ExportVm(self, this, args):
        if this.on:
            raise Fault("InvalidPowerState", "The VM is powered on.")
        copy = Snapshot(self.new_id("copy"), "", this, self.frozen())
        return self.lease(this, copy.files, copy.files)

    def held(self, lease):
        self.leases()
        if lease.state != "ready":
            raise Fault("InvalidState", f"The lease is {lease.state}.")
        lease.used = time.monotonic()

    def end_lease(self, lease, state):
        lease.state = state
        for path in lease.remove:
            os.remove(path)
        self.touch()

    def HttpNfcLeaseProgress(self, this, args):
        self.held(this)
        this.percent.append(int(args.findtext("percent")))
        return ""

    def HttpNfcLeaseComplete(self, this, args):
        self.held(this)
        self.end_lease(this, "done")
        return ""

    def HttpNfcLeaseAbort(self, this, args):
        self.held(this)
        self.end_lease(this, "error")
        return ""


def send(handler, file, rule):
    """A file as it is, or only its first bytes if a rule cuts it off."""
    size = whole = file.size()
    start, asked = 0, re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range") or "")
    part = asked and int(asked[1]) < whole and not handler.api.whole_files
    if part:
        start, size = int(asked[1]), min(int(asked[2]) + 1, whole)
    handler.send_response(206 if part else 200)
    handler.send_header("Content-Type", "application/octet-stream")
    handler.send_header("Content-Length", str(size - start))
    if part:
        handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{whole}")
    handler.end_headers()
    end = min(size, rule.get("cut", size)) if rule else size
    try:
        for at in range(start, end, CHUNK):
            handler.wfile.write(file.read(at, min(CHUNK, end - at)))
        handler.wfile.flush()
    except (BrokenPipeError, ConnectionResetError):
        handler.close_connection = True  # nobody reads any more
    finally:
        file.close()
    if end < size:
        handler.hang_up()


def upload(handler):
    """PUT of /folder/PATH?dsName=DATASTORE: the whole of a file."""
    api, url = handler.api, urllib.parse.urlparse(handler.path)
    parts, query = urllib.parse.unquote(url.path).strip("/").split("/"), dict(urllib.parse.parse_qsl(url.query))
    data, rule = handler.body(), api.rule("PUT folder", "call")
    if rule and rule.get("status"):
        return handler.reply(rule["status"], "made to fail")
    store = next((d for d in api.host.links["datastore"] if d.name == query.get("dsName")), None)
    try:
        file = store.volume.create("/".join(parts[1:]))
        file.truncate(0)
        file.write(0, data)
        file.close()
    except (AttributeError, OSError, NfsError):
        return handler.reply(404, "no such place")
    handler.reply(201, "")


def download(handler):
    """GET of /nfc/LEASE/disk-N.vmdk and /folder/PATH?dsName=DATASTORE."""
    api, url = handler.api, urllib.parse.urlparse(handler.path)
    parts, query = urllib.parse.unquote(url.path).strip("/").split("/"), dict(urllib.parse.parse_qsl(url.query))
    rule = api.rule("GET " + parts[0], "call")
    if rule and rule.get("status"):
        return handler.reply(rule["status"], "made to fail")
    if parts[0] == "folder":
        store = next((d for d in api.host.links["datastore"] if d.name == query.get("dsName")), None)
        try:
            file = store.volume.open("/".join(parts[1:]))
        except (AttributeError, OSError, NfsError):
            return handler.reply(404, "no such file")
        return send(handler, file, rule)
    lease = api.objects.get(("HttpNfcLease", parts[1])) if parts[0] == "nfc" else None
    if lease is None or lease.state != "ready":
        return handler.reply(404, "no such lease")
    raw = lease.files[int(parts[2].removeprefix("disk-").removesuffix(".vmdk"))]
    made = f"{raw}.{threading.get_ident()}.vmdk"
    try:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, made], check=True)
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-vnd.vmware-streamVmdk")
        handler.send_header("Transfer-Encoding", "chunked")  # a host does not know the length
        handler.end_headers()
        left = rule.get("cut", 1 << 62) if rule else 1 << 62
        with open(made, "rb") as file:
            while chunk := file.read(min(1 << 16, left)):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                left -= len(chunk)
                handler.wfile.flush()
                if rule and rule.get("stall"):
                    api.stalled.append(lease.id)
                    api.released.wait(60)
        if left == 0:
            return handler.hang_up()
        handler.wfile.write(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        handler.close_connection = True  # nobody reads any more
    finally:
        if os.path.exists(made):
            os.remove(made)
