"""Chains of disks as one ESXi host has them: snapshots that write on into vmfsSparse deltas, disks copied by the host, files of datastores."""
import os, random, re, struct, time
from xml.sax.saxutils import escape

from faults import Fault, NfsError, file_fault
from inventory import Disk, Managed, ref_xml
from volumes import CHUNK, read_all, write_all

GRAIN_SECTORS = 8
GRAIN = GRAIN_SECTORS * 512
TABLE_ENTRIES = 4096  # of a grain table, as QEMU reads it too
DIRECTORY_AT = 4  # sectors of the header


class Cowd:
    """A vmfsSparse extent: header, grain directory, and behind them tables and grains as they come."""

    def __init__(self, file, make_sectors=None):
        self.file, self.tables = file, {}
        if make_sectors is not None:
            tables = -(-make_sectors // (GRAIN_SECTORS * TABLE_ENTRIES))
            end = DIRECTORY_AT + -(-tables * 4 // 512)
            file.truncate(end * 512)
            file.write(0, struct.pack("<4sIIIIIII", b"COWD", 1, 3, make_sectors, GRAIN_SECTORS, DIRECTORY_AT, tables, end))
        magic, version, _, self.sectors, grain, at, count, _ = struct.unpack("<4sIIIIIII", file.read(0, 32))
        if (magic, version, grain, at) != (b"COWD", 1, GRAIN_SECTORS, DIRECTORY_AT):
            raise Fault("GenericVmConfigFault", "not a delta disk")
        directory = struct.unpack(f"<{count}I", file.read(at * 512, count * 4))
        for number, sector in enumerate(directory):
            if sector:
                entries = struct.unpack(f"<{TABLE_ENTRIES}I", file.read(sector * 512, TABLE_ENTRIES * 4))
                self.tables[number] = (sector, list(entries))

    def append(self, data):
        at = self.file.size()
        self.file.write(at, data)
        return at // 512

    def find(self, grain):
        table = self.tables.get(grain // TABLE_ENTRIES)
        return table[1][grain % TABLE_ENTRIES] if table else 0

    def read(self, grain):
        sector = self.find(grain)
        return self.file.read(sector * 512, GRAIN) if sector else None

    def write(self, grain, data):
        """A whole grain: its bytes first, then what leads to them."""
        sector = self.find(grain)
        if sector:
            self.file.write(sector * 512, data)
            return
        number, sector = grain // TABLE_ENTRIES, self.append(data)
        if number not in self.tables:
            table = self.append(bytes(TABLE_ENTRIES * 4))
            self.tables[number] = (table, [0] * TABLE_ENTRIES)
            self.file.write(DIRECTORY_AT * 512 + number * 4, struct.pack("<I", table))
        table, entries = self.tables[number]
        entries[grain % TABLE_ENTRIES] = sector
        self.file.write(table * 512 + (grain % TABLE_ENTRIES) * 4, struct.pack("<I", sector))

    def grains(self):
        return sorted(n * TABLE_ENTRIES + i for n, (_, entries) in self.tables.items() for i, sector in enumerate(entries) if sector)


def setting(text, key):
    found = re.search(rf'^{key}\s*=\s*"?([^"\r\n]+)"?', text, re.M)
    return found[1] if found else None


class Chain:
    """A disk over another one. What is written goes to the delta."""

    def __init__(self, place, path):
        self.place, self.path, self.mirror = place, path, {}
        self.volume, self.name = place(path)
        text = read_all(self.volume, self.name, 64 << 10).decode()
        hint = setting(text, "parentFileNameHint")
        self.parent_path = hint if hint.startswith("/") else os.path.join(os.path.dirname(path), hint)
        self.parent = open_disk(place, self.parent_path)
        parent_volume, parent_name = place(self.parent_path)
        content = setting(read_all(parent_volume, parent_name, 64 << 10).decode(), "CID")
        if content != setting(text, "parentCID"):
            raise Fault("GenericVmConfigFault", "The parent virtual disk has been modified since the child was created")
        extent = re.search(r'^RW\s+(\d+)\s+VMFSSPARSE\s+"([^"]+)"', text, re.M)
        self.extent = os.path.join(os.path.dirname(self.name), extent[2])
        file = self.volume.open(self.extent)
        self.cowd, self.size = Cowd(file), int(extent[1]) * 512
        if self.size != self.parent.size:
            raise Fault("GenericVmConfigFault", "a delta of another size than its parent")
        self.files = [(self.extent, self.size, file)] + self.parent.files

    def pieces(self, offset, count):
        while count:
            skip = offset % GRAIN
            some = min(GRAIN - skip, count)
            yield offset // GRAIN, skip, some
            offset, count = offset + some, count - some

    def whole(self, grain):
        data = self.cowd.read(grain)
        if data is None:
            count = min(GRAIN, self.size - grain * GRAIN)
            data = self.parent.read(grain * GRAIN, count).ljust(GRAIN, b"\0")
        return data

    def read(self, offset, count):
        return b"".join(self.whole(grain)[skip:skip + some] for grain, skip, some in self.pieces(offset, count))

    def write(self, offset, data):
        for grain, skip, some in self.pieces(offset, len(data)):
            whole = self.whole(grain) if some < GRAIN else b""
            self.cowd.write(grain, whole[:skip] + data[:some] + whole[skip + some:])
            data = data[some:]

    def merge(self):
        """Writes all of it into the parent, and removes its files."""
        for grain in self.cowd.grains():
            count = min(GRAIN, self.size - grain * GRAIN)
            self.parent.write(grain * GRAIN, self.cowd.read(grain)[:count])
        self.files[0][2].close()
        self.volume.remove(self.extent)
        self.volume.remove(self.name)
        return self.parent


def open_disk(place, path):
    volume, name = place(path)
    hint = setting(read_all(volume, name, 64 << 10).decode(errors="replace"), "parentFileNameHint")
    return Chain(place, path) if hint else Disk(volume, name)


def make_delta(place, path, delta):
    """Puts a delta, at a path of its own, over the disk at another."""
    volume, name = place(path)
    text = read_all(volume, name, 64 << 10).decode()
    _, delta_name = place(delta)
    extent = delta_name.replace(".vmdk", "-delta.vmdk")
    sectors = sum(int(count) for count in re.findall(r"^RW\s+(\d+)", text, re.M))
    Cowd(volume.create(extent, exclusive=True), sectors).file.close()
    lines = ["# Disk DescriptorFile", "version=1", 'encoding="UTF-8"', "CID=%08x" % random.getrandbits(31), f"parentCID={setting(text, 'CID')}",
             'createType="vmfsSparse"', f'parentFileNameHint="{os.path.basename(name)}"', f'RW {sectors} VMFSSPARSE "{os.path.basename(extent)}"', ""]
    write_all(volume, delta_name, "\n".join(lines).encode())


def free_delta(place, path):
    """What a delta over a disk is called: as the disk, with a number that no file there has."""
    stem = re.sub(r"(-\d{6})?\.vmdk$", "", path)
    volume, name = place(f"{stem}.vmdk")
    there = set(volume.list(os.path.dirname(name)))
    base = os.path.basename(stem)
    number = next(number for number in range(1, 1000) if not {f"{base}-{number:06d}.vmdk", f"{base}-{number:06d}-delta.vmdk"} & there)
    return f"{stem}-{number:06d}.vmdk"


class Branch(Managed):
    """A snapshot of a host alone: what its VM's disks were lies below the deltas."""

    def __init__(self, id, name, vm):
        super().__init__("VirtualMachineSnapshot", id, name)
        self.vm, self.files = vm, []

    def xml(self, children):
        return (f'<snapshot type="{self.kind}">{self.id}</snapshot>{ref_xml("vm", self.vm)}<name>{escape(self.name)}</name><description/><id>1</id>'
                f"<createTime>2025-01-01T00:00:00Z</createTime><state>poweredOn</state><quiesced>false</quiesced>{children}")


class Deltas:
    """A part of the API."""

    copying = set()

    def vmsd(self, vm):
        return os.path.splitext(vm.vmx_file)[0] + ".vmsd"

    def load_snapshots(self, vm):
        """A VM that is registered knows its snapshots by a file beside its configuration."""
        try:
            text = read_all(vm.datastore.volume, self.vmsd(vm)).decode()
        except (OSError, NfsError):
            return
        for name in re.findall(r'^snapshot\d+\.displayName = "(.*)"$', text, re.M):
            vm.snapshots.append(self.add(Branch(self.new_id("snapshot"), name, vm)))

    def save_snapshots(self, vm):
        text = "".join(f'snapshot{n}.displayName = "{s.name}"\n' for n, s in enumerate(vm.snapshots))
        write_all(vm.datastore.volume, self.vmsd(vm), text.encode())

    def rename_disk(self, vm, number, path):
        """The VM's configuration names another file from now on."""
        vm.capacity[path] = vm.capacity.get(vm.disks[number], 0)
        vm.disks[number] = path
        volume, home = vm.datastore.volume, vm.folder + "/"
        lines = read_all(volume, vm.vmx_file).decode().splitlines()
        key, value = f"{vm.places[number]}.filename", path.removeprefix(home)
        lines = [f'{vm.places[number]}.fileName = "{value}"' if line.split("=")[0].strip().lower() == key else line for line in lines]
        write_all(volume, vm.vmx_file, "".join(line + "\n" for line in lines).encode())

    def branch(self, vm, args):
        def work(task):
            with vm.io:
                for number, path in enumerate(list(vm.disks)):
                    delta = free_delta(vm.place, path)
                    make_delta(vm.place, path, delta)
                    self.rename_disk(vm, number, delta)
                    if vm.on:
                        vm.open_disks[number] = open_disk(vm.place, delta)
                snapshot = self.add(Branch(self.new_id("snapshot"), args.findtext("name"), vm))
                vm.snapshots.append(snapshot)
                self.save_snapshots(vm)
            return 'ManagedObjectReference" type="VirtualMachineSnapshot', snapshot.id

        return self.start("CreateSnapshot_Task", vm, work)

    def is_branch(self, snapshot):
        return isinstance(snapshot, Branch)

    def merge_branch(self, snapshot):
        """One delta less: what is on top goes into what it lies over. The last one takes all that is left along."""
        vm = snapshot.vm
        self.objects.pop((snapshot.kind, snapshot.id))
        if vm.snapshots == [snapshot]:
            return self.merge(vm)
        with vm.io:
            for number in range(len(vm.disks)):
                disk = vm.open_disks[number] if vm.on else open_disk(vm.place, vm.disks[number])
                path, disk = disk.parent_path, disk.merge()
                if vm.on:
                    vm.open_disks[number] = disk
                self.rename_disk(vm, number, vm.as_named(path))
            vm.snapshots.remove(snapshot)
            self.save_snapshots(vm)

    def merge(self, vm):
        with vm.io:
            for number in range(len(vm.disks)):
                disk = vm.open_disks[number] if vm.on else open_disk(vm.place, vm.disks[number])
                while isinstance(disk, Chain):
                    path, disk = disk.parent_path, disk.merge()
                    if vm.on:
                        vm.open_disks[number] = disk
                    self.rename_disk(vm, number, vm.as_named(path))
            vm.snapshots.clear()
            for volume, lock in [(volume, lock) for volume, lock in vm.locks if volume is not vm.datastore.volume]:
                volume.remove(lock)
                vm.locks.remove((volume, lock))
            try:
                vm.datastore.volume.remove(self.vmsd(vm))
            except (OSError, NfsError):
                pass

    def RemoveAllSnapshots_Task(self, this, args):
        # Without a snapshot that it knows a host removes nothing.
        return self.start("RemoveAllSnapshots_Task", this, lambda task: self.merge(this) if this.snapshots else None)

    def ConsolidateVMDisks_Task(self, this, args):
        return self.start("ConsolidateVMDisks_Task", this, lambda task: None if this.snapshots else self.merge(this))

    # ----- disks and files of datastores

    def at(self, path):
        found = re.fullmatch(r"\[([^\]]+)\] ?(.*)", path or "")
        if not found:
            raise Fault("InvalidDatastorePath", f"Invalid datastore path '{path}'.")
        store = next((d for d in self.host.links["datastore"] if d.name == found[1]), None)
        if store is None:
            raise Fault("InvalidDatastore", f"Invalid datastore '{found[1]}'.")
        return store.volume, found[2]

    def CopyVirtualDisk_Task(self, this, args):
        source, dest = args.findtext("sourceName"), args.findtext("destName")

        def work(task):
            (volume, path), (to, name) = self.at(source), self.at(dest)
            text, disk = read_all(volume, path, 64 << 10).decode(), Disk(volume, path)
            flat = name.replace(".vmdk", "-flat.vmdk")
            try:
                copy = to.create(flat, exclusive=True)
            except (OSError, NfsError) as error:
                raise file_fault(error, dest)
            self.copying.add(dest)
            try:
                copy.truncate(disk.size)
                for at in range(0, disk.size, CHUNK):
                    data = disk.read(at, min(CHUNK, disk.size - at))
                    copy.write(at, data)
                    if self.copy_rate:
                        time.sleep(len(data) / (self.copy_rate << 20))
                    self.step(task, at * 99 // disk.size)
                bad = self.rule("CopyVirtualDisk_Task", "data")
                if bad:
                    copy.write(bad["offset"], bytes([copy.read(bad["offset"], 1)[0] ^ 1]))
                text = re.sub(r"^CID=.*$", "CID=%08x" % random.getrandbits(31), text, flags=re.M)
                text = re.sub(r'^RW (\d+) VMFS ".*"$', rf'RW \1 VMFS "{os.path.basename(flat)}"', text, flags=re.M)
                write_all(to, name, text.encode())
            except BaseException:
                to.remove(flat)
                raise
            finally:
                copy.close()
                self.copying.discard(dest)

        return self.start("CopyVirtualDisk_Task", None, work)

    def MakeDirectory(self, this, args):
        volume, path = self.at(args.findtext("name"))
        try:
            volume.mkdir(path)
        except (OSError, NfsError) as error:
            raise file_fault(error, args.findtext("name"))
        return ""

    def DeleteDatastoreFile_Task(self, this, args):
        name = args.findtext("name")

        def work(task):
            used = [f"[{d}] {p}" for vm in self.vms.links["childEntity"] for d, p in vm.all_files()]
            if any(file.startswith(name + "/") for file in [*self.copying, *used]):
                raise Fault("FileLocked", f"{name} is in use.")
            volume, path = self.at(name)
            try:
                for file in volume.list(path):
                    volume.remove(os.path.join(path, file))
                volume.rmdir(path)
            except (OSError, NfsError) as error:
                raise file_fault(error, name)

        return self.start("DeleteDatastoreFile_Task", None, work)
