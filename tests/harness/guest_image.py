"""The small Linux of `guest` on disk: Debian's cloud kernel, and an initramfs of busybox, fio and the NFS client's modules."""
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import cache, cpio, debian

HERE = Path(__file__).resolve().parent
INIT = HERE.parent / "guest" / "init"
HOOK = HERE.parent / "guest" / "hook"
MODULES = ["virtio_pci", "virtio_net", "virtio_console", "virtio_rng", "nfs", "nfsv3"]


def folder():
    """The cached folder that holds `vmlinuz` and `initrd`; made when it is not there."""
    return cache.keyed("guest", [INIT, HOOK, __file__, HERE / "cpio.py", HERE / "debian.py"], _make)


def _make(into):
    cache.say("making the guest (once)")
    with tempfile.TemporaryDirectory() as scratch, open(into / "initrd", "wb") as out:
        version = debian.cloud_kernel(scratch)
        archive = cpio.Archive(out)
        _add_base(archive)
        _add_modules(archive, Path(scratch), version)
        _add_program(archive, shutil.which("fio"))
        archive.close()
        shutil.copy(f"{scratch}/boot/vmlinuz-{version}", into / "vmlinuz")


def _add_base(archive):
    for name in ["dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"]:
        archive.folder(name)
    for name in ["bin", "lib", "lib64", "sbin"]:
        archive.link(name, f"usr/{name}")
    archive.file("usr/bin/busybox", "/bin/busybox", 0o755)
    for applet in subprocess.run(["/bin/busybox", "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split():
        archive.link(f"usr/bin/{applet}", "busybox")
    archive.data("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.data("etc/group", b"root:x:0:\n")
    archive.file("init", INIT, 0o755)
    archive.file("usr/bin/hook", HOOK, 0o755)


def _add_modules(archive, kernel, version):
    """The modules with what they depend on, and the index that modprobe reads."""
    base = kernel / "lib/modules" / version
    needs = dict(line.split(":", 1) for line in (base / "modules.dep").read_text().splitlines())
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    todo, taken = [by_name[name] for name in MODULES if name in by_name], {}
    while todo:
        path = todo.pop()
        taken[path] = needs[path]
        todo += [other for other in needs[path].split() if other not in taken]
    for path in taken:
        archive.file(f"usr/lib/modules/{version}/{path}", base / path)
    index = "".join(f"{path}:{rest}\n" for path, rest in sorted(taken.items()))
    archive.data(f"usr/lib/modules/{version}/modules.dep", index.encode())
    for name in ["modules.builtin", "modules.alias", "modules.symbols"]:
        archive.file(f"usr/lib/modules/{version}/{name}", base / name)


def _add_program(archive, program):
    """A dynamic program with the libraries that it names."""
    archive.file(f"usr/bin/{Path(program).name}", program, 0o755)
    listing = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    for library in (word for word in listing.split() if word.startswith("/")):
        name = library.lstrip("/")
        archive.file(name if name.startswith("usr/") else f"usr/{name}", Path(library).resolve(), 0o755)
