"""The API: one method per vim25 call, and what the host does for it."""
import hashlib, os, re, shutil, threading, time, traceback
from xml.sax.saxutils import escape

from faults import Fault, NfsError, file_fault
from deltas import Deltas, open_disk
from leases import Leases
from inventory import Datastore, Disk, Host, Managed, PortGroup, Switch, Task, Vm, extents_of, parse_vmx, ref_xml
from volumes import CHUNK, DirVolume, NfsVolume, read_all, write_all

VSWP_MAX = 4 << 30


def split_path(path):
    found = re.fullmatch(r"\[([^\]]+)\] ?(.*)", path or "")
    if not found:
        raise Fault("InvalidDatastorePath", f"Invalid datastore path '{path}'.")
    return found[1], found[2]


class Api(Leases, Deltas):
    def __init__(self, options):
        self.options, self.lock = options, threading.RLock()
        self.changed, self.version = threading.Condition(self.lock), 1
        self.sessions, self.rules, self.calls, self.pages = set(), [], {}, {}
        self.copy_rate, self.next_id = 0, 100
        self.deaf_guests, self.guests_take, self.whole_files = False, 0.3, False
        self.objects = {}
        self.root = self.add(Managed("Folder", "group-d1", "Datacenters"))
        dc = self.dc = self.add(Managed("Datacenter", "datacenter-2", "DC0", self.root))
        hosts = self.add(Managed("Folder", "group-h4", "host", dc))
        self.vms = self.add(Managed("Folder", "group-v3", "vm", dc))
        compute = self.add(Managed("ComputeResource", "domain-s7", "H0", hosts))
        self.host = self.add(Host("HostSystem", "host-9", "H0", compute))
        self.pool = self.add(Managed("ResourcePool", "resgroup-8", "Resources", compute))
        self.system = self.add(Managed("HostDatastoreSystem", "datastoreSystem-9"))
        network = self.add(Managed("Network", "network-7", "VM Network", dc))
        local = self.add(Datastore("datastore-10", "local", dc, DirVolume(options.dir)))
        self.root.links["childEntity"] = [dc]
        dc.links.update(hostFolder=[hosts], vmFolder=[self.vms], datastore=[local])
        hosts.links["childEntity"], self.vms.links["childEntity"] = [compute], []
        compute.links.update(host=[self.host], resourcePool=[self.pool])
        self.max_volumes, settings = 8, self.add(Managed("OptionManager", "EsxHostAdvSettings-9"))
        networks = [network]
        if not options.esx:
            switch = self.add(Switch("VmwareDistributedVirtualSwitch", "dvs-12", "DVS0", dc))
            networks.append(self.add(PortGroup("dvportgroup-13", "Lab%2fA", dc, switch)))
        self.host.links.update({"datastore": [local], "network": networks, "configManager.datastoreSystem": [self.system], "configManager.advancedOption": [settings]})
        for kind in ("ServiceInstance", "PropertyCollector", "SessionManager", "SearchIndex", "FileManager", "VirtualDiskManager"):
            self.add(Managed(kind, kind))
        self.tasks = self.add(Managed("TaskManager", "TaskManager"))
        self.tasks.links["recentTask"] = []

    def add(self, obj):
        self.objects[obj.kind, obj.id] = obj
        return obj

    def new_id(self, prefix):
        self.next_id += 1
        return f"{prefix}-{self.next_id}"

    def touch(self):
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def find(self, element):
        kind, id = element.get("type"), element.text or ""
        obj = self.objects.get((kind, id))
        if obj is None:
            raise Fault("ManagedObjectNotFound", f"The object '{kind}:{id}' has already been deleted or has not been completely created", f'<obj type="{escape(kind or "")}">{escape(id)}</obj>')
        return obj

    def rule(self, method, at):
        with self.lock:
            for rule in self.rules:
                if rule["method"] in (method, "*") and rule.get("at", "call") == at:
                    rule["count"] = rule.get("count", 1) - 1
                    if rule["count"] == 0:
                        self.rules.remove(rule)
                    return rule
        return None

    # ----- sessions and properties

    def RetrieveServiceContent(self, this, args):
        kind = "HostAgent" if self.options.esx else "VirtualCenter"
        about = (f"<about><name>standin</name><fullName>vSphere stand-in 8.0.0</fullName><version>8.0.0</version>"
                 f"<apiType>{kind}</apiType><apiVersion>8.0.0.0</apiVersion></about>")
        managers = {"propertyCollector": "PropertyCollector", "sessionManager": "SessionManager", "searchIndex": "SearchIndex", "taskManager": "TaskManager",
                    "fileManager": "FileManager", "virtualDiskManager": "VirtualDiskManager"}
        found = "".join(f'<{name} type="{kind}">{kind}</{name}>' for name, kind in managers.items())
        return f"<returnval>{ref_xml('rootFolder', self.root)}{about}{found}</returnval>"

    def Login(self, this, args):
        if (args.findtext("userName"), args.findtext("password")) != (self.options.user, self.options.password):
            raise Fault("InvalidLogin", "Cannot complete login due to an incorrect user name or password.")
        return "<returnval><key>session</key></returnval>"

    def Logout(self, this, args):
        return ""

    def CurrentTime(self, this, args):
        return time.strftime("<returnval>%Y-%m-%dT%H:%M:%SZ</returnval>", time.gmtime())

    def select(self, spec):
        """The objects of a filter: where it starts, and all that its steps lead to."""
        found, seen = [], set()
        for start in spec.findall("objectSet"):
            steps = {s.findtext("name"): s for s in start.iter("selectSet") if s.find("path") is not None}

            def walk(obj, selections):
                for selection in selections:
                    step = steps.get(selection.findtext("name"))
                    if step is None:
                        raise Fault("InvalidArgument", "a selection without a step")
                    if (obj.id, id(step)) in seen or not obj.is_a(step.findtext("type")):
                        continue
                    seen.add((obj.id, id(step)))
                    for next_obj in obj.along(step.findtext("path")):
                        if step.findtext("skip") != "true":
                            found.append(next_obj)
                        walk(next_obj, step.findall("selectSet"))

            obj = self.find(start.find("obj"))
            if start.findtext("skip") != "true":
                found.append(obj)
            walk(obj, start.findall("selectSet"))
        return list(dict.fromkeys(found))

    def content(self, obj, spec):
        sets = [s for s in spec.findall("propSet") if obj.is_a(s.findtext("type"))]
        if not sets:
            return None
        out, known = ref_xml("obj", obj), obj.properties()
        for path in dict.fromkeys(p.text for s in sets for p in s.findall("pathSet")):
            if path not in known:
                raise Fault("InvalidProperty", f"{obj.kind} has no {path}", f"<name>{escape(path)}</name>")
            value = known[path]
            if isinstance(value, Managed):
                out += f'<propSet><name>{path}</name><val type="{value.kind}" xsi:type="ManagedObjectReference">{escape(value.id)}</val></propSet>'
            elif value is not None:
                out += f'<propSet><name>{path}</name><val xsi:type="{value[0]}">{value[1]}</val></propSet>'
        return f"<objects>{out}</objects>"

    def RetrievePropertiesEx(self, this, args):
        found = []
        for spec in args.findall("specSet"):
            found += filter(None, (self.content(obj, spec) for obj in self.select(spec)))
        most = int(args.findtext("options/maxObjects") or self.options.page)
        return self.page(found, min(most, self.options.page))

    def ContinueRetrievePropertiesEx(self, this, args):
        found = self.pages.pop(args.findtext("token"), None)
        if found is None:
            raise Fault("InvalidArgument", "A specified parameter was not correct: token")
        return self.page(found, self.options.page)

    def page(self, found, size):
        if not found:
            return ""
        token = ""
        if len(found) > size:
            name = self.new_id("page")
            self.pages[name], token = found[size:], f"<token>{name}</token>"
        return f"<returnval>{token}{''.join(found[:size])}</returnval>"

    def CreatePropertyCollector(self, this, args):
        return ref_xml("returnval", self.add(Managed("PropertyCollector", self.new_id("collector"))))

    def CreateFilter(self, this, args):
        self.select(args.find("spec"))
        return ref_xml("returnval", Managed("PropertyFilter", self.new_id("filter")))

    def DestroyPropertyCollector(self, this, args):
        self.objects.pop((this.kind, this.id), None)
        return ""

    def WaitForUpdatesEx(self, this, args):
        seen, wait = args.findtext("version") or "", float(args.findtext("options/maxWaitSeconds") or 60)
        with self.changed:
            self.changed.wait_for(lambda: str(self.version) != seen, wait)
            return f"<returnval><version>{self.version}</version></returnval>" if str(self.version) != seen else ""

    # ----- datastores

    def CreateNasDatastore(self, this, args):
        host, path, name = (args.findtext("spec/" + f) or "" for f in ("remoteHost", "remotePath", "localPath"))
        if not host or not path.startswith("/"):
            raise Fault("InvalidArgument", "A specified parameter was not correct: spec.remotePath")
        if not name or re.search(r"[\[\]/]", name) or len(name) > 42:
            raise Fault("InvalidName", f"The name '{name}' is invalid.")
        for other in self.host.links["datastore"]:
            if other.name == name:
                raise Fault("DuplicateName", f"The name '{name}' already exists.", f"<name>{escape(name)}</name>" + ref_xml("object", other))
            if other.nfs and (other.volume.host, other.volume.path.rstrip("/")) == (host, path.rstrip("/")):
                raise Fault("AlreadyExists", f"'{other.name}' already exists.", f"<name>{escape(other.name)}</name>")
        try:
            volume = NfsVolume(host, path)
            volume.space()
        except (OSError, NfsError) as error:
            raise Fault("PlatformConfigFault", f"Mount failed: {error}", f"<text>{escape(str(error))}</text>")
        id = f"{host}:{path}" if self.options.esx else self.new_id("datastore")
        datastore = self.add(Datastore(id, name, self.dc, volume))
        self.host.links["datastore"] = self.host.links["datastore"] + [datastore]
        self.dc.links["datastore"] = self.dc.links["datastore"] + [datastore]
        self.touch()
        return ref_xml("returnval", datastore)

    def RemoveDatastore(self, this, args):
        datastore = self.find(args.find("datastore"))
        if any(datastore in vm.stores() for vm in self.vms.links["childEntity"]):
            raise Fault("ResourceInUse", f"The resource '{datastore.name}' is in use.", f"<type>Datastore</type><name>{escape(datastore.name)}</name>")
        try:
            datastore.volume.unmount()
        except OSError:
            pass  # the server is gone: so is the mount
        for owner in (self.host, self.dc):
            owner.links["datastore"] = [d for d in owner.links["datastore"] if d is not datastore]
        self.objects.pop((datastore.kind, datastore.id))
        self.touch()
        return ""

    def QueryOptions(self, this, args):
        if args.findtext("name") != "NFS.MaxVolumes":
            raise Fault("InvalidName", f"The name '{args.findtext('name')}' is invalid.")
        return f'<returnval xsi:type="OptionValue"><key>NFS.MaxVolumes</key><value xsi:type="xsd:long">{self.max_volumes}</value></returnval>'

    def RefreshDatastore(self, this, args):
        return ""

    # ----- tasks

    def start(self, method, vm, work):
        """Runs work(task) in the background. With a VM, one at a time: a second one is its fault."""
        task = self.add(Task(self.new_id("task"), method, vm, self.rule(method, "task")))
        self.tasks.links["recentTask"] = (self.tasks.links["recentTask"] + [task])[-50:]

        def run():
            held = False
            try:
                held = vm is None or vm.busy.acquire(timeout=0.2)
                if not held:
                    other = next((t for t in self.tasks.links["recentTask"] if t.vm is vm and t.state == "running" and t is not task), task)
                    raise Fault("TaskInProgress", "another task is in progress", ref_xml("task", other))
                self.step(task, 0)
                task.result = work(task)
                self.step(task, 100)
                task.state = "success"
            except Fault as fault:
                task.error, task.state = fault, "error"
            except (OSError, NfsError) as error:
                task.error, task.state = file_fault(error, vm.vmx_path if vm else method), "error"
            except Exception as error:
                traceback.print_exc()
                task.error, task.state = Fault("SystemError", repr(error)), "error"
            finally:
                if vm and held:
                    vm.busy.release()
                self.touch()

        threading.Thread(target=run, daemon=True).start()
        return ref_xml("returnval", task)

    def step(self, task, percent):
        if task.cancelled:
            raise Fault("RequestCanceled", "The task was canceled by a user.")
        if percent != task.progress:
            task.progress = percent
            self.touch()
        if task.rule and percent >= task.rule.get("progress", 0):
            rule, task.rule = task.rule, None
            time.sleep(rule.get("delay_ms", 0) / 1000)
            if rule.get("fault"):
                raise Fault(rule["fault"], rule.get("message", rule["fault"] + " injected"))

    def CancelTask(self, this, args):
        if this.state != "running":
            raise Fault("InvalidState", "The task has ended.")
        if this.name not in ("RelocateVM_Task", "CopyVirtualDisk_Task"):
            raise Fault("NotSupported", "The task cannot be cancelled.")
        this.cancelled = True
        return ""

    # ----- VMs

    def FindByDatastorePath(self, this, args):
        wanted = args.findtext("path")
        return "".join(ref_xml("returnval", vm) for vm in self.vms.links["childEntity"] if vm.vmx_path == wanted)

    def FindByUuid(self, this, args):
        wanted = args.findtext("uuid")
        return "".join(ref_xml("returnval", vm) for vm in self.vms.links["childEntity"] if vm.uuid == wanted)

    def RegisterVM_Task(self, this, args):
        path, name = args.findtext("path"), args.findtext("name")

        def work(task):
            store, file = split_path(path)
            datastore = next((d for d in self.host.links["datastore"] if d.name == store), None)
            if datastore is None:
                raise Fault("InvalidDatastore", f"Invalid datastore '{store}'.")
            try:
                vmx = parse_vmx(read_all(datastore.volume, file))
            except (OSError, NfsError) as error:
                fault = file_fault(error, path)
                raise Fault("NotFound", fault.message) if fault.name == "FileNotFound" else fault
            with self.lock:
                vms = self.vms.links["childEntity"]
                if any(vm.vmx_path == path for vm in vms):
                    raise Fault("AlreadyExists", f"'{path}' is registered already.")
                vm_name = name or vmx.get("displayname") or os.path.basename(file)[:-4]
                if any(vm.name == vm_name for vm in vms):
                    raise Fault("DuplicateName", f"The name '{vm_name}' already exists.")
                vm = self.add(Vm(self.new_id("vm"), vm_name, self.vms, self.host, datastore, file, vmx))
                vm.pool = self.pool
                self.load_snapshots(vm)
                self.vms.links["childEntity"] = vms + [vm]
            return "ManagedObjectReference\" type=\"VirtualMachine", vm.id

        return self.start("RegisterVM_Task", None, work)

    def UnregisterVM(self, this, args):
        if this.on:
            raise Fault("InvalidPowerState", "The VM is powered on.")
        self.vms.links["childEntity"] = [vm for vm in self.vms.links["childEntity"] if vm is not this]
        self.objects.pop((this.kind, this.id))
        self.touch()
        return ""

    def PowerOnVM_Task(self, this, args):
        def work(task):
            if this.on:
                raise Fault("InvalidPowerState", "The VM is powered on.")
            try:
                self.boot(this, task)
            except BaseException:
                self.release(this)
                raise

        return self.start("PowerOnVM_Task", this, work)

    def boot(self, vm, task):
        volume = vm.datastore.volume
        vmx = parse_vmx(read_all(volume, vm.vmx_file))
        here = "56 4d " + hashlib.sha1(vm.vmx_path.encode()).hexdigest()[:28]
        other = self.rule("PowerOnVM_Task", "question")
        if other:
            self.ask(vm, task, other.get("message", "msg.standin:Shall it go on?"), ["Cancel", "Go on"])
        if vmx.get("uuid.location", here) != here and not vmx.get("uuid.action"):
            asked = "msg.uuid.altered:This virtual machine might have been moved or copied."
            self.ask(vm, task, asked, ["button.uuid.cancel", "button.uuid.movedTheVM", "button.uuid.copiedTheVM"])
        for path in vm.disks:
            disk = open_disk(vm.place, path)
            vm.open_disks.append(disk)
            count = min(64 << 10, disk.size)
            disk.read(0, count)
            disk.read(disk.size - count, count)
        self.step(task, 50)
        locked = [(volume, vm.vmx_file)] + [(getattr(file, "volume", None), name) for disk in vm.open_disks for name, _, file in disk.files]
        for home, path in locked:
            if isinstance(home, NfsVolume):
                lock = os.path.join(os.path.dirname(path), ".lck-%016x" % home.open(path).attr().fileid)
                file = home.create(lock, exclusive=True)
                vm.locks.append((home, lock))
                file.write(0, b"standin".ljust(84, b"\0"))
        stem = os.path.splitext(vm.vmx_file)[0]
        swap = volume.create(stem + ".vswp")
        vm.extra.append(stem + ".vswp")
        swap.truncate(min(vm.memory, VSWP_MAX))
        volume.create(os.path.join(vm.folder, "vmware.log")).write(0, f"{time.time():.3f} vmx| Log for {vm.name}\n".encode())
        vmx.update({"uuid.location": here})
        vmx.pop("uuid.action", None)
        write_all(volume, vm.vmx_file, "".join(f'{key} = "{value}"\n' for key, value in vmx.items()).encode())
        vm.on = True

    def ask(self, vm, task, text, labels):
        """Waits for the key of a label; 0 is Cancel."""
        vm.question, vm.asked, vm.labels = self.new_id("question"), text, labels
        self.touch()
        try:
            while vm.answers.empty():
                self.step(task, 1)
                time.sleep(0.02)
            if vm.answers.get() == "0":
                raise Fault("RequestCanceled", "The question was answered with Cancel.")
        finally:
            vm.question = None
            self.touch()

    def AnswerVM(self, this, args):
        if not this.question or args.findtext("questionId") != this.question:
            raise Fault("ConcurrentAccess", "There is no such question.")
        this.answers.put(args.findtext("answerChoice"))
        return ""

    def release(self, vm):
        vm.on = False
        for disk in vm.open_disks:
            for _, _, file in disk.files:
                file.close()
        for path in vm.extra:
            vm.datastore.volume.remove(path)
        for volume, lock in vm.locks:
            volume.remove(lock)
        vm.open_disks, vm.extra, vm.locks = [], [], []

    def PowerOffVM_Task(self, this, args):
        def work(task):
            if not this.on:
                raise Fault("InvalidPowerState", "The VM is powered off.")
            with this.io:
                self.release(this)

        return self.start("PowerOffVM_Task", this, work)

    def ShutdownGuest(self, this, args):
        """The guest takes a moment, and goes off by itself; without tools it cannot be asked."""
        if not this.on:
            raise Fault("InvalidPowerState", "The VM is powered off.")
        if self.deaf_guests:
            raise Fault("ToolsUnavailable", "VMware Tools do not run.")

        def go_off():
            time.sleep(self.guests_take)
            with this.io:
                if this.on:
                    self.release(this)
            self.touch()

        threading.Thread(target=go_off, daemon=True).start()
        return ""

    def Destroy_Task(self, this, args):
        """Unregisters, and deletes the VM's files and no others."""
        def work(task):
            if this.on:
                raise Fault("InvalidPowerState", "The VM is powered on.")
            volume = this.datastore.volume
            stem = os.path.splitext(this.vmx_file)[0]
            extents = [name for path in this.disks for name, _ in extents_of(volume, path)]
            wanted = {this.vmx_file, stem + ".nvram", os.path.join(this.folder, "vmware.log"), *this.disks, *extents}
            for path in [os.path.join(this.folder, name) for name in volume.list(this.folder)]:
                if path in wanted:
                    volume.remove(path)
            if not volume.list(this.folder):
                volume.rmdir(this.folder)
            self.UnregisterVM(this, args)

        return self.start("Destroy_Task", this, work)

    def ReconfigVM_Task(self, this, args):
        def work(task):
            name = args.findtext("spec/name")
            version = args.findtext("spec/changeVersion")
            if version and version != str(this.changes):
                raise Fault("ConcurrentAccess", "The resource has been changed since it was read.")
            this.changes += 1
            with self.lock:
                if name and any(vm.name == name for vm in self.vms.links["childEntity"] if vm is not this):
                    raise Fault("DuplicateName", f"The name '{name}' already exists.")
                this.name = name or this.name
            for option in args.findall("spec/extraConfig"):
                key, value = option.findtext("key"), option.findtext("value") or ""
                this.extra_config.pop(key, None)
                if value:
                    this.extra_config[key] = value
            for change in args.findall("spec/deviceChange"):
                if (change.find("device").get("{http://www.w3.org/2001/XMLSchema-instance}type") or "").endswith("VirtualDisk"):
                    self.change_disk(this, change)
                    continue
                nic = next((n for n in this.nics if str(n.key) == change.findtext("device/key")), None)
                if nic is None:
                    raise Fault("InvalidDeviceSpec", "Invalid configuration for device '0'.")
                if change.findtext("operation") == "remove":
                    this.nics.remove(nic)
                    continue
                port = change.find("device/backing/port")
                if port is not None:
                    if (port.findtext("switchUuid"), port.findtext("portgroupKey")) != ("50 1a 2b 3c", "dvportgroup-13"):
                        raise Fault("InvalidDeviceBacking", "Invalid port group for device '0'.")
                    nic.port = port.findtext("portgroupKey")
                    nic.start_connected = change.findtext("device/connectable/startConnected") == "true"
                    continue
                network = change.findtext("device/backing/deviceName") or nic.network
                if change.find("device/backing") is not None and network != "VM Network":
                    raise Fault("InvalidDeviceBacking", f"Invalid network '{network}' for device '0'.")
                if change.find("device/backing") is not None:
                    nic.port = None
                nic.network, nic.start_connected = network, change.findtext("device/connectable/startConnected") == "true"

        return self.start("ReconfigVM_Task", this, work)

    def change_disk(self, vm, change):
        """A disk comes or goes, while the VM runs or not. One that comes is opened; the files of one that goes stay."""
        if change.findtext("operation") == "remove":
            n = next((n for n in range(len(vm.disks)) if str(vm.disk_key(n)) == change.findtext("device/key")), None)
            if n is None or change.findtext("fileOperation"):
                raise Fault("InvalidDeviceSpec", "Invalid configuration for device '0'.")
            with vm.io:
                path = vm.disks.pop(n)
                vm.places.pop(n)
                vm.capacity.pop(path, None)
                vm.modes.pop(path, None)
                if vm.on:
                    for _, _, file in vm.open_disks.pop(n).files:
                        file.close()
            return
        store, file = split_path(change.findtext("device/backing/fileName"))
        if all(d.name != store for d in self.host.links["datastore"]):
            raise Fault("InvalidDatastore", f"Invalid datastore '{store}'.")
        path = vm.as_named(f"/vmfs/volumes/{store}/{file}")
        name = next((name for name, (_, _, key) in vm.controllers().items() if str(key) == change.findtext("device/controllerKey")), None)
        place = f"{name}:{change.findtext('device/unitNumber')}"
        if name is None or place in vm.places or path in vm.disks or place.endswith(":7"):
            raise Fault("InvalidDeviceSpec", "Invalid configuration for device '0'.")
        try:
            disk = open_disk(vm.place, path)
            disk.read(0, min(64 << 10, disk.size))
        except (OSError, NfsError) as error:
            raise file_fault(error, path)
        with vm.io:
            vm.disks.append(path)
            vm.places.append(place)
            vm.capacity[path], vm.modes[path] = disk.size, change.findtext("device/backing/diskMode")
            if vm.on:
                vm.open_disks.append(disk)
            else:
                for _, _, file in disk.files:
                    file.close()

    # ----- storage migration

    def RelocateVM_Task(self, this, args):
        if self.options.esx:
            raise Fault("NotSupported", "The operation is not supported on the object.")
        to = self.find(args.find("spec/datastore"))
        return self.start("RelocateVM_Task", this, lambda task: self.move(this, to, task))

    def move(self, vm, to, task):
        if to is vm.datastore:
            return
        source, target, folder = vm.datastore.volume, to.volume, os.path.basename(vm.folder)
        gone = [p for p in vm.extra] + [lock for _, lock in vm.locks]
        files = [os.path.join(vm.folder, n) for n in source.list(vm.folder)]
        files = [f for f in files if f not in gone]
        sizes = {f: source.open(f).size() for f in files}
        total, done, copied = sum(sizes.values()) or 1, 0, []
        disks = vm.open_disks or [Disk(source, p) for p in vm.disks]
        target.mkdir(folder)
        try:
            for path in files:
                copy = target.create(os.path.join(folder, os.path.basename(path)), exclusive=True)
                copied.append(copy)
                with vm.io:
                    copy.truncate(sizes[path])
                    for disk in disks:
                        if any(name == path for name, _, _ in disk.files):
                            disk.mirror[path] = copy
                file = source.open(path)
                for at in range(0, sizes[path], CHUNK):
                    count = min(CHUNK, sizes[path] - at)
                    with vm.io:  # the guest's writes go to both places, before or after this
                        copy.write(at, file.read(at, count))
                    done += count
                    if self.copy_rate:
                        time.sleep(count / (self.copy_rate << 20))
                    self.step(task, done * 95 // total)
            for path in files:
                here = target.open(os.path.join(folder, os.path.basename(path))).size()
                if here != sizes[path]:
                    raise OSError(f"{path}: {here} of {sizes[path]} bytes arrived")
            self.step(task, 97)
        except BaseException:
            shutil.rmtree(target.real(folder), ignore_errors=True)
            for disk in disks:
                disk.mirror = {}
            raise
        with vm.io:  # the VM goes on at its new place
            running, old = vm.on, vm.folder
            vm.capacity = {os.path.join(folder, os.path.basename(p)): size for p, size in vm.capacity.items()}
            vm.disks = [os.path.join(folder, os.path.basename(p)) for p in vm.disks]
            vm.datastore, vm.vmx_file, vm.extra, vm.locks = to, os.path.join(folder, os.path.basename(vm.vmx_file)), [], []
            vm.open_disks = [Disk(target, p) for p in vm.disks] if running else []
        for path in files + gone:
            source.remove(path)
        source.rmdir(old)
