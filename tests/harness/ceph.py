"""Ceph on loopback, of Debian's packages: a monitor, an OSD in memory and the RADOS Gateway, which speaks S3."""
import shutil
import subprocess
import uuid
from pathlib import Path

from .s3 import python
from .stories import secret, until

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common", "curl")
KEY, SECRET = "AKCEPH0000000000", "skceph00000000000000"
BUCKET = "backups"
MAKE_BUCKET = """\
import boto3, sys
where = dict(endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3])
boto3.client("s3", **where).create_bucket(Bucket=sys.argv[4])
"""
MONITOR = "[v2:127.0.0.1:26300/0,v1:127.0.0.1:26789/0]"
CONFIG = """\
[global]
fsid = {fsid}
mon host = {monitor}
mon initial members = a
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon data avail warn = 2
mon max pg per osd = 1000
run dir = {dir}/run
keyring = {dir}/$cluster.$name.keyring
admin socket = {dir}/run/$cluster-$name.asok
log file = {dir}/log/$name.log
crash dir = {dir}/log
log to stderr = false
[mon]
mon data = {dir}/mon/a
[osd]
osd data = {dir}/osd/0
osd objectstore = memstore
memstore device bytes = 3221225472
[client.rgw.a]
rgw data = {dir}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable usage log = false
rgw dns name = localhost
"""


def is_installed():
    return all(shutil.which(program) for program in ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "curl"))


class Ceph:
    """A context: a cluster of one with one bucket. `credentials` is a file in the format of ~/.aws/credentials."""

    bucket = BUCKET

    def __init__(self, folder, port=25010):
        self.dir, self.port, self.processes = Path(folder).resolve() / "ceph", port, {}
        self.endpoint = f"http://127.0.0.1:{port}"
        self.credentials = secret(Path(folder) / "s3-credentials", f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")

    def __enter__(self):
        for sub in ("mon/a", "osd/0", "run", "log", "rgw"):
            (self.dir / sub).mkdir(parents=True)
        self.config = self.dir / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self.config.write_text(CONFIG.format(fsid=self.fsid, monitor=MONITOR, dir=self.dir, port=self.port))
        try:
            self._make_monitor()
            self._make_osd()
            self._run("radosgw-admin", "user", "create", "--uid=rekindle", "--display-name=rekindle", f"--access-key={KEY}", f"--secret-key={SECRET}")
            self._grant("client.rgw.a", "mon", "allow rw", "osd", "allow rwx")
            self.start_gateway()
            subprocess.run([python(), "-c", MAKE_BUCKET, self.endpoint, KEY, SECRET, BUCKET], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()

    def start_gateway(self):
        keyring = self.dir / "ceph.client.rgw.a.keyring"
        self._start("radosgw", "-n", "client.rgw.a", "--keyring", keyring)
        until("the gateway answers", self._answers, seconds=120)

    def kill_gateway(self):
        gateway = self.processes.pop("radosgw")
        gateway.kill()
        gateway.wait()

    def _make_monitor(self):
        admin, monitor = self.dir / "ceph.client.admin.keyring", self.dir / "mon.keyring"
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", MONITOR, "--fsid", self.fsid, self.dir / "monmap", plain=True)
        self._run("ceph-authtool", "--create-keyring", monitor, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *", plain=True)
        every = [word for kind in ("mon", "osd", "mgr") for word in ("--cap", kind, "allow *")]
        self._run("ceph-authtool", "--create-keyring", admin, "--gen-key", "-n", "client.admin", *every, plain=True)
        self._run("ceph-authtool", monitor, "--import-keyring", admin, plain=True)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", self.dir / "monmap", "--keyring", monitor)
        self._start("ceph-mon", "-i", "a")
        self._run("ceph", "-s")

    def _make_osd(self):
        name = str(uuid.uuid4())
        self._run("ceph", "osd", "new", name)
        self._grant("osd.0", "mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)
        self._start("ceph-osd", "-i", "0")
        until("the OSD is up", lambda: " 1 up" in self._run("ceph", "osd", "stat"), seconds=60)

    def _grant(self, who, *may):
        self._run("ceph", "auth", "get-or-create", who, *may, "-o", self.dir / f"ceph.{who}.keyring")

    def _run(self, program, *arguments, plain=False):
        config = () if plain else ("-c", self.config)
        command = [program, *config, *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program} {arguments[0]}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _start(self, program, *arguments):
        with open(self.dir / "log" / f"{program}.out", "ab") as log:
            command = [program, "-c", self.config, *map(str, arguments), "-f"]
            self.processes[program] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self):
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        if ended:
            raise RuntimeError(f"{ended[0]} ended; see {self.dir / 'log'}")
        asked = subprocess.run(["curl", "--silent", "--output", "/dev/null", self.endpoint], check=False)
        return asked.returncode == 0
