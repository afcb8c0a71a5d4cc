"""A small Linux with the kernel's NFS client: Debian's cloud kernel, busybox and fio in an initramfs.

It reaches what listens on the host's 127.0.0.1:PORT at 10.0.2.2:PORT.
"""
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from . import cache, cpio, debian
from .qemu import QUIET, Machine

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


def run(script, arguments=(), environment=None, hooks=None, timeout=300, echo=None, memory=1024):
    """Runs a shell script in the guest and returns its exit status.

    `echo` gets each line it prints (default: to stdout). In the script, `hook NAME ARG...` calls `hooks[NAME](ARG...)`
    here; what that returns (an exit status, None is 0) is the status there.
    """
    echo = echo or (lambda text: print(text, flush=True))
    result = {}

    def control(text):
        word, *rest = shlex.split(text)
        if word == "exit":
            result["status"] = int(rest[0])
        elif word == "hook":
            threading.Thread(target=call, args=rest, daemon=True).start()

    def call(name, *rest):
        try:
            status = int((hooks or {})[name](*rest) or 0)
        except Exception as error:  # the guest must get an answer, whatever went wrong here
            print(f"hook {name}: {error!r}", file=sys.stderr, flush=True)
            status = 125
        machine.send(str(status), "control")

    base = folder()
    with tempfile.TemporaryDirectory() as scratch:
        initrd = Path(scratch) / "initrd"
        with open(initrd, "wb") as out:
            with open(base / "initrd", "rb") as made:
                shutil.copyfileobj(made, out, 1 << 20)
            added = cpio.Archive(out)  # the kernel unpacks archives that follow each other
            exports = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in (environment or {}).items())
            added.data("job", (exports + "set -- " + shlex.join(arguments) + "\n").encode())
            added.file("script", script, 0o755)
            added.close()
        machine = Machine(["-kernel", f"{base}/vmlinuz", "-initrd", str(initrd), "-append", QUIET,
                           "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
                           "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
                          memory=memory, ports={"control": control, "output": echo})
        with machine:
            machine.wait(timeout)
            if "status" not in result:
                raise RuntimeError(f"the guest ended without a status\n{machine.tail()}")
    return result["status"]
