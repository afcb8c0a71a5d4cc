"""One QEMU machine: its serial console read line by line, and the accelerator that works here."""
import ctypes
import hashlib
import os
import platform
import re
import signal
import socket
import subprocess
import threading
import time

from . import cache

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # firmware and GRUB move the cursor
TCG = "tcg,thread=multi"
QUIET = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on no_timer_check"


class Ended(Exception):
    """The machine stopped, or did not do in time what was expected of it."""


def die_with_parent():
    """For a child's start: it is killed when the thread that starts it ends, so that must be the main thread."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Line:
    """One byte stream of the machine, cut into lines by a thread, with someone to call for each."""

    def __init__(self, on_line):
        self.ours, self.theirs = socket.socketpair()
        self.on_line = on_line
        self.thread = threading.Thread(target=self._read, daemon=True)

    def argument(self, name):
        return f"socket,id={name},fd={self.theirs.fileno()}"

    def _read(self):
        rest = b""
        while data := self._receive():
            *lines, rest = (rest + data).replace(b"\r", b"").split(b"\n")
            for line in lines:
                self.on_line(line.decode("utf-8", "replace"))
        if rest:
            self.on_line(rest.decode("utf-8", "replace"))

    def _receive(self):
        try:
            return self.ours.recv(65536)
        except OSError:
            return b""


class Machine:
    """A running QEMU. Use as a context: it is killed at the end if it has not ended by itself."""

    def __init__(self, arguments, accel=None, memory=512, on_console=None, ports=None):
        self.accel = accel or accelerator()
        self.started = time.monotonic()
        self.changed = threading.Condition()
        self.console = []  # (seconds since start, text)
        self.seen = 0
        self.on_console = on_console
        lines = {"console": Line(self._console)}
        lines.update({name: Line(on_line) for name, on_line in (ports or {}).items()})
        self.lines = lines
        command = [os.environ.get("REKINDLE_QEMU", "qemu-system-x86_64"), "-accel", self.accel, "-m", str(memory), "-smp", "2",
                   "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-chardev", lines["console"].argument("console"), "-serial", "chardev:console"]
        if ports:
            command += ["-device", "virtio-serial-pci"]
        for number, name in enumerate(ports or {}, 1):
            command += ["-chardev", lines[name].argument(name), "-device", f"virtserialport,nr={number},chardev={name},name={name}"]
        self.process = subprocess.Popen(command + arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        pass_fds=[line.theirs.fileno() for line in lines.values()], preexec_fn=die_with_parent)
        self.errors = []
        threading.Thread(target=self._errors, daemon=True).start()
        for line in lines.values():
            line.theirs.close()
            line.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def _console(self, text):
        text = ESCAPES.sub("", text)
        at = time.monotonic() - self.started
        with self.changed:
            self.console.append((at, text))
            self.changed.notify_all()
        if self.on_console:
            self.on_console(at, text)

    def _errors(self):
        for line in self.process.stdout:
            self.errors.append(line.decode("utf-8", "replace").rstrip())
        with self.changed:
            self.changed.notify_all()

    def send(self, text, line="console"):
        self.lines[line].ours.sendall(text.encode() + b"\n")

    def expect(self, pattern, timeout):
        """The next console line that matches, as a match. Each line is looked at once."""
        wanted, until = re.compile(pattern), time.monotonic() + timeout
        with self.changed:
            while True:
                while self.seen < len(self.console):
                    self.seen += 1
                    if match := wanted.search(self.console[self.seen - 1][1]):
                        return match
                if self.process.poll() is not None and not self.lines["console"].thread.is_alive():
                    raise Ended(f"the machine ended before {pattern!r}\n{self.tail()}")
                left = until - time.monotonic()
                if left <= 0:
                    raise Ended(f"no {pattern!r} within {timeout} s\n{self.tail()}")
                self.changed.wait(min(left, 0.5))

    def wait(self, timeout):
        """Waits for QEMU to end, and for all that it said."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Ended(f"still running after {timeout} s\n{self.tail()}") from None
        for line in self.lines.values():
            line.thread.join(10)
        return status

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for line in self.lines.values():
            line.ours.close()

    def tail(self, count=15):
        return "\n".join(f"  | {text}" for text in self.errors[-5:] + [text for _, text in self.console[-count:]])


def accelerator():
    """KVM where a guest comes up under it, else multi-threaded TCG. REKINDLE_ACCEL overrides it.

    That /dev/kvm opens proves nothing: under some hypervisors a guest then hangs in its first instructions.
    So it is tried once for each kernel and CPU, and the verdict is kept in the cache.
    """
    if forced := os.environ.get("REKINDLE_ACCEL"):
        return forced
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    with open("/proc/cpuinfo") as info:
        cpu = next((line for line in info if line.startswith("model name")), "")
    place = hashlib.sha256((platform.release() + cpu).encode()).hexdigest()[:12]
    verdict = cache.ROOT / f"accelerator-{place}"
    if not verdict.exists():
        works = _kvm_works()
        cache.say(f"KVM {'works' if works else 'does not work'} here (kept in {verdict})")
        verdict.write_text("kvm" if works else TCG)
    return verdict.read_text()


def _kvm_works():
    from . import guest_image
    made = guest_image.folder()
    boot = ["-kernel", f"{made}/vmlinuz", "-initrd", f"{made}/initrd", "-append", QUIET]
    try:
        with Machine(boot, accel="kvm") as machine:
            machine.expect("^GUEST up", 10)
        return True
    except Ended:
        return False
