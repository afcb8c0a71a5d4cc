"""A Debian with systemd as its first process, in namespaces: packages are installed and services run as on a machine of their own.

It shares the network of who starts it, which tests/netns has made. Its processes have a control group of their own and end with it.
"""
import os
import subprocess
import time
from pathlib import Path

from . import systemd_root
from .stories import until

# What systemd expects of a container's manager (https://systemd.io/CONTAINER_INTERFACE).
START = """
set -e
# A root of its own, not a chroot: services get mount namespaces of theirs, which are made of a mounted root.
mount --bind "$1" "$1"
cd "$1"
mount -t proc -o nosuid,noexec,nodev proc proc
mount -t sysfs -o nosuid,noexec,nodev sysfs sys
mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do
    : >"dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 shm dev/shm
mkdir -p old
pivot_root . old
umount -l old
rmdir old
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=rekindle LANG=C.UTF-8 /lib/systemd/systemd --log-target=journal --show-status=no
"""


class Machine:
    """A running system in `root`. As a context it is ended at the end, with all that runs in it."""

    def __init__(self, folder):
        self.root = Path(folder) / "machine"
        self.root.mkdir()
        subprocess.run(["tar", "--extract", "--file", systemd_root.archive(), "--directory", self.root], check=True)
        # Nothing of the machine's own is started: no consoles, no clock, no swap.
        for unit in ["getty.target", "systemd-timesyncd.service", "systemd-resolved.service", "systemd-networkd.service", "systemd-udevd.service"]:
            (self.root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        self.groups = Path(folder) / "cgroup"
        self.manager = None

    def __enter__(self):
        self.groups.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", self.groups], check=True)
        self.group = self.groups / f"rekindle-test-{os.getpid()}-{time.monotonic_ns()}"
        self.group.mkdir()
        # It joins its group before it gets the namespace of groups, so that this is the root of what it sees.
        inner = 'echo $$ >"$1/cgroup.procs"; exec unshare --mount --propagation private --uts --ipc --pid --cgroup --fork --kill-child sh -c "$2" start "$3"'
        self.manager = subprocess.Popen(["sh", "-c", inner, "join", self.group, START, self.root], stdin=subprocess.DEVNULL)
        until("the manager is there", self._find, 20)
        until("the system is up", lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"), 60)
        return self

    def __exit__(self, *_):
        self.manager.kill()  # --kill-child takes the first process with it, and that all others
        self.manager.wait()
        until("the group is empty", self._remove_group, 20)
        subprocess.run(["umount", self.groups], check=True)

    def _find(self):
        children = Path(f"/proc/{self.manager.pid}/task/{self.manager.pid}/children").read_text().split()
        if self.manager.poll() is not None or not children:
            return False
        self.first = int(children[0])
        return (Path(f"/proc/{self.first}/root") / "run/systemd/private").exists()

    def _remove_group(self):
        try:
            for group in sorted((path for path in self.group.rglob("*") if path.is_dir()), reverse=True):
                group.rmdir()
            self.group.rmdir()
        except OSError:
            return False
        return True

    def run(self, *command, check=True, stdin=None):
        """Runs it in the machine; its status, output and errors."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wdns=/", "--"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        done = subprocess.run([*inside, *clean, *map(str, command)], input=stdin, stdin=None if stdin else subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def property(self, unit, name):
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def journal(self, unit):
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout.splitlines()
