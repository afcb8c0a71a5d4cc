"""A small Linux with the kernel's NFS client, which runs a script.

It reaches what listens on the host's 127.0.0.1:PORT at 10.0.2.2:PORT.
"""
import shlex
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from . import cpio, guest_image
from .qemu import QUIET, Machine


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

    base = guest_image.folder()
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
