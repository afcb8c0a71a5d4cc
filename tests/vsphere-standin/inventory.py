"""The objects of the inventory and their properties, and a VM's files: its .vmx and its disks."""
import hashlib, os, queue, re, threading, time
from xml.sax.saxutils import escape

from faults import Fault, NfsError
from volumes import NfsVolume, read_all


def parse_vmx(data):
    lines = re.findall(r'^\s*([^#=\s][^=\s]*)\s*=\s*"(.*)"\s*$', data.decode(errors="replace"), re.M)
    if not lines:
        raise Fault("VmConfigFault", "the .vmx has nothing in it")
    return {key.lower(): value for key, value in lines}


def disk_names(vmx):
    for key, value in sorted(vmx.items()):
        found = re.fullmatch(r"((?:scsi|sata|nvme|ide)\d+:\d+)\.filename", key)
        if found and value.endswith(".vmdk") and vmx.get(found[1] + ".present", "TRUE").upper() == "TRUE":
            yield found[1], value


def extents_of(volume, path):
    """The extents that a descriptor names: each one's path and size in bytes."""
    text = read_all(volume, path, 64 << 10).decode(errors="replace")
    found = re.findall(r'^RW\s+(\d+)\s+(?:VMFS|FLAT)\s+"([^"]+)"', text, re.M)
    if not found:
        raise Fault("GenericVmConfigFault", f"{path} is not a disk descriptor of flat extents")
    return [(os.path.join(os.path.dirname(path), name), int(sectors) * 512) for sectors, name in found]


class Disk:
    """The open disk of a running VM. While it is copied away, what the guest writes goes to both places."""

    def __init__(self, volume, path):
        self.path, self.files = path, []
        for name, size in extents_of(volume, path):
            file = volume.open(name)
            if file.size() != size:
                message = f"possible extent truncation: {name} has {file.size()} bytes, its descriptor says {size}"
                raise Fault("GenericVmConfigFault", message)
            self.files.append((name, size, file))
        self.size = sum(size for _, size, _ in self.files)
        self.mirror = {}

    def parts(self, offset, count):
        base = 0
        for name, size, file in self.files:
            lo, hi = max(offset, base), min(offset + count, base + size)
            if lo < hi:
                yield name, file, lo - base, lo - offset, hi - lo
            base += size

    def read(self, offset, count):
        return b"".join(file.read(at, n) for _, file, at, _, n in self.parts(offset, count))

    def write(self, offset, data):
        for name, file, at, skip, n in self.parts(offset, len(data)):
            file.write(at, data[skip:skip + n])
            if name in self.mirror:
                self.mirror[name].write(at, data[skip:skip + n])


def text(value):
    return "xsd:string", escape(str(value))


def number(value):
    return "xsd:long", str(int(value))


def flag(value):
    return "xsd:boolean", "true" if value else "false"


def ref_xml(name, obj):
    return f'<{name} type="{obj.kind}">{escape(obj.id)}</{name}>'


def refs(objects):
    return "ArrayOfManagedObjectReference", "".join(ref_xml("ManagedObjectReference", o) for o in objects)


ENTITIES = {"Folder", "Datacenter", "ComputeResource", "ResourcePool", "HostSystem", "Datastore", "VirtualMachine"}


class Managed:
    """An object of the inventory. `parent`, and the lists in `links`, can be walked along."""

    def __init__(self, kind, id, name="", parent=None):
        self.kind, self.id, self.name, self.parent, self.links = kind, id, name, parent, {}

    def is_a(self, kind):
        return kind == self.kind or kind == "ManagedEntity" and self.kind in ENTITIES

    def along(self, path):
        return ([self.parent] if self.parent else []) if path == "parent" else self.links.get(path, [])

    def properties(self):
        found = {"name": text(self.name), "parent": self.parent}
        for path, objects in self.links.items():
            single = path in ("hostFolder", "vmFolder", "resourcePool", "configManager.datastoreSystem", "configManager.advancedOption")
            found[path] = objects[0] if single else refs(objects)
        return found


class Host(Managed):
    def properties(self):
        vnic = "<HostVirtualNic><device>vmk0</device><spec><ip><ipAddress>127.0.0.1</ipAddress></ip></spec></HostVirtualNic>"
        return super().properties() | {
            "runtime.connectionState": ("HostSystemConnectionState", "connected"),
            "runtime.inMaintenanceMode": flag(False),
            "config.network.vnic": ("ArrayOfHostVirtualNic", vnic),
        }


class Datastore(Managed):
    def __init__(self, id, name, parent, volume):
        super().__init__("Datastore", id, name, parent)
        self.volume = volume

    @property
    def nfs(self):
        return isinstance(self.volume, NfsVolume)

    def properties(self):
        try:
            (capacity, free), accessible = self.volume.space(), True
        except (OSError, NfsError):
            capacity, free, accessible = 0, 0, False
        info = ("LocalDatastoreInfo", f"<name>{escape(self.name)}</name><path>{escape(str(getattr(self.volume, 'root', '')))}</path>")
        if self.nfs:
            nas = f"<remoteHost>{escape(self.volume.host)}</remoteHost><remotePath>{escape(self.volume.path)}</remotePath>"
            info = ("NasDatastoreInfo", f"<name>{escape(self.name)}</name><nas><type>NFS</type>{nas}</nas>")
        return super().properties() | {
            "summary.type": text("NFS" if self.nfs else "VMFS"), "summary.capacity": number(capacity),
            "summary.freeSpace": number(free), "summary.accessible": flag(accessible), "info": info,
        }


class Switch(Managed):
    def properties(self):
        return super().properties() | {"uuid": text("50 1a 2b 3c")}


class PortGroup(Managed):
    """A network of a distributed switch. Only a reconfiguration can put an adapter on it."""

    def __init__(self, id, name, parent, switch):
        super().__init__("DistributedVirtualPortgroup", id, name, parent)
        self.switch = switch

    def is_a(self, kind):
        return kind == "Network" or super().is_a(kind)

    def properties(self):
        return super().properties() | {"key": text(self.id), "config.distributedVirtualSwitch": self.switch}


class Nic:
    def __init__(self, key, vmx, prefix):
        self.port = None
        self.key, self.network = key, vmx.get(prefix + ".networkname", "VM Network")
        self.mac = vmx.get(prefix + ".address") or vmx.get(prefix + ".generatedaddress") or "00:50:56:00:00:%02x" % (key - 4000)
        self.start_connected = vmx.get(prefix + ".startconnected", "TRUE").upper() == "TRUE"

    def xml(self):
        on = flag(self.start_connected)[1]
        backing = f'<backing xsi:type="VirtualEthernetCardNetworkBackingInfo"><deviceName>{escape(self.network)}</deviceName></backing>'
        if self.port:
            port = f"<switchUuid>50 1a 2b 3c</switchUuid><portgroupKey>{self.port}</portgroupKey>"
            backing = f'<backing xsi:type="VirtualEthernetCardDistributedVirtualPortBackingInfo"><port>{port}</port></backing>'
        return (f'<VirtualDevice xsi:type="VirtualVmxnet3"><key>{self.key}</key><deviceInfo><label>Network adapter {self.key - 3999}</label></deviceInfo>'
                f'{backing}<connectable><startConnected>{on}</startConnected><connected>{on}</connected></connectable><macAddress>{self.mac}</macAddress></VirtualDevice>')


class Vm(Managed):
    def __init__(self, id, name, parent, host, datastore, vmx_file, vmx):
        super().__init__("VirtualMachine", id, name, parent)
        self.host, self.datastore, self.vmx_file, self.on = host, datastore, vmx_file, False
        self.memory = int(vmx.get("memsize", "32")) << 20
        self.uuid = hashlib.md5(f"{id}{time.time()}".encode()).hexdigest()
        self.nics = [Nic(4000 + n, vmx, f"ethernet{n}") for n in range(10) if vmx.get(f"ethernet{n}.present", "").upper() == "TRUE"]
        self.disks, self.capacity = [os.path.join(self.folder, name) for _, name in disk_names(vmx)], {}
        self.places, self.snapshots = [key for key, _ in disk_names(vmx)], []
        for path in self.disks:
            try:
                volume, file = self.place(path)
                sectors = re.findall(r"^RW\s+(\d+)\s", read_all(volume, file, 64 << 10).decode(errors="replace"), re.M)
                self.capacity[path] = sum(int(count) * 512 for count in sectors)
            except (OSError, NfsError, Fault):
                pass  # found at power on, as on a real host
        self.bios_uuid = re.sub("[^0-9a-f]", "", vmx.get("uuid.bios", "").lower()) or self.uuid
        self.pool, self.extra_config, self.modes, self.changes = None, {}, {}, 0
        self.encrypted = self.wants_consolidation = False
        self.open_disks, self.extra, self.locks = [], [], []
        self.busy, self.io = threading.Lock(), threading.Lock()
        self.question, self.asked, self.labels, self.answers = None, "", [], queue.Queue()

    @property
    def folder(self):
        return os.path.dirname(self.vmx_file)

    def store(self, path):
        """The datastore of a disk: the VM's own, unless the path begins at the host's root."""
        name = path.split("/")[3] if path.startswith("/vmfs/volumes/") else self.datastore.name
        found = next((d for d in self.host.links["datastore"] if d.name == name), None)
        if found is None:
            raise Fault("InvalidDatastore", f"Invalid datastore '{name}'.")
        return found

    def place(self, path):
        """Where a disk is: its volume, and its path in that."""
        return self.store(path).volume, path.split("/", 4)[4] if path.startswith("/vmfs/volumes/") else path

    def as_named(self, path):
        """A path as this VM's configuration has it: relative in its own datastore."""
        own = f"/vmfs/volumes/{self.datastore.name}/"
        return path.removeprefix(own)

    def all_files(self):
        """Datastore and path of its configuration and of its disks, with those that lie below."""
        files = [(self.datastore.name, self.vmx_file)] + [(self.store(path).name, self.place(path)[1]) for path in self.disks]
        for disk in self.open_disks:
            while getattr(disk, "parent", None):
                files.append((self.store(disk.parent_path).name, self.place(disk.parent_path)[1]))
                disk = disk.parent
        return files

    @property
    def vmx_path(self):
        return f"[{self.datastore.name}] {self.vmx_file}"

    def along(self, path):
        return self.stores() if path == "datastore" else super().along(path)

    def controllers(self):
        """By name (scsi0): kind, bus number and key."""
        kinds = {"scsi": "ParaVirtualSCSIController", "sata": "VirtualAHCIController", "ide": "VirtualIDEController", "nvme": "VirtualNVMEController"}
        names = sorted({place.split(":")[0] for place in self.places} or {"scsi0"})
        return {name: (kinds[name.rstrip("0123456789")], name.lstrip("scidevmnat"), 1000 + n) for n, name in enumerate(names)}

    def device_keys(self):
        """The disks' places as leases have them."""
        for place in self.places:
            kind, bus, _ = self.controllers()[place.split(":")[0]]
            yield f"{kind}{bus}:{place.split(':')[1]}"

    def disk_key(self, n):
        """As a host makes it: of the disk's place, so that it stays when another goes."""
        name, unit = self.places[n].split(":")
        return 2000 + 16 * (self.controllers()[name][2] - 1000) + int(unit)

    def hardware(self):
        devices = [n.xml() for n in self.nics]
        controllers = self.controllers()
        devices += [f'<VirtualDevice xsi:type="{kind}"><key>{key}</key><busNumber>{bus}</busNumber><scsiCtlrUnitNumber>7</scsiCtlrUnitNumber></VirtualDevice>' for kind, bus, key in controllers.values()]
        for n, path in enumerate(self.disks):
            size = self.capacity.get(path, 0)
            devices.append(
                f'<VirtualDevice xsi:type="VirtualDisk"><key>{self.disk_key(n)}</key><deviceInfo><label>Hard disk {n + 1}</label></deviceInfo>'
                f'<backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>[{escape(self.store(path).name)}] {escape(self.place(path)[1])}</fileName>'
                f'{ref_xml("datastore", self.store(path))}<diskMode>{self.modes.get(path, "persistent")}</diskMode>{self.parent_xml(path)}</backing>'
                f"<controllerKey>{controllers[self.places[n].split(':')[0]][2]}</controllerKey><unitNumber>{self.places[n].split(':')[1]}</unitNumber>"
                f"<capacityInKB>{size // 1024}</capacityInKB><capacityInBytes>{size}</capacityInBytes></VirtualDevice>")
        return "".join(devices)

    def parent_xml(self, path):
        if not re.search(r"-\d{6}\.vmdk$", path):
            return ""
        below = re.sub(r"-\d{6}(\.vmdk)$", r"\1", self.place(path)[1])
        return f'<parent xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>[{escape(self.store(path).name)}] {escape(below)}</fileName></parent>'

    def stores(self):
        names = {name for name, _ in self.all_files()}
        return [d for d in self.host.links["datastore"] if d.name in names]

    def properties(self):
        found = super().properties() | {
            "runtime.powerState": ("VirtualMachinePowerState", "poweredOn" if self.on else "poweredOff"),
            "runtime.host": self.host, "datastore": refs(self.stores()),
            "config.changeVersion": text(str(self.changes)), "config.template": flag(False), "config.keyId": None,
            "runtime.connectionState": ("VirtualMachineConnectionState", "connected"), "runtime.consolidationNeeded": flag(self.wants_consolidation),
            "config.files.vmPathName": text(self.vmx_path), "config.instanceUuid": text(self.uuid), "config.uuid": text(self.bios_uuid),
            "resourcePool": self.pool,
            "config.extraConfig": ("ArrayOfOptionValue", "".join(
                f'<OptionValue><key>{escape(key)}</key><value xsi:type="xsd:string">{escape(value)}</value></OptionValue>'
                for key, value in self.extra_config.items())),
            "config.hardware.device": ("ArrayOfVirtualDevice", self.hardware()), "snapshot": None,
            "guest.toolsRunningStatus": text("guestToolsRunning" if self.on else "guestToolsNotRunning"), "runtime.question": None,
            "guestHeartbeatStatus": ("ManagedEntityStatus", "green" if self.on else "gray"), "guest.ipAddress": text("192.0.2.10") if self.on else None,
        }
        if self.encrypted:
            found["config.keyId"] = ("CryptoKeyId", "<keyId>key</keyId>")
        if self.snapshots:
            tree = ""
            for snapshot in reversed(self.snapshots):
                tree = f"<rootSnapshotList>{snapshot.xml(tree.replace('rootSnapshotList', 'childSnapshotList'))}</rootSnapshotList>"
            found["snapshot"] = ("VirtualMachineSnapshotInfo", ref_xml("currentSnapshot", self.snapshots[-1]) + tree)
        if self.question:
            infos = "".join(f'<choiceInfo xsi:type="ElementDescription"><label>{label}</label><summary/><key>{n}</key></choiceInfo>' for n, label in enumerate(self.labels))
            asked = escape(self.asked)
            found["runtime.question"] = ("VirtualMachineQuestionInfo", f"<id>{self.question}</id><text>{asked}</text><choice>{infos}</choice>"
                                         f"<message><id>{asked.split(':')[0]}</id><text>{asked}</text></message>")
        return found


DESCRIPTIONS = {"RelocateVM_Task": "VirtualMachine.relocate", "RegisterVM_Task": "Folder.registerVm"}


class Task(Managed):
    def __init__(self, id, name, vm, rule):
        super().__init__("Task", id, name)
        self.vm = vm
        self.state, self.progress, self.error, self.result, self.rule = "running", None, None, None, rule
        self.cancelled = False

    def properties(self):
        error = self.error and ("LocalizedMethodFault", f'<fault xsi:type="{self.error.name}">{self.error.inner()}</fault>'
                                f"<localizedMessage>{escape(self.error.message)}</localizedMessage>")
        progress = None if self.progress is None else number(self.progress)
        return {"info.state": ("TaskInfoState", self.state), "info.progress": progress, "info.error": error, "info.result": self.result,
                "info.entity": self.vm, "info.descriptionId": text(DESCRIPTIONS.get(self.name, self.name))}
