"""What most stories begin with: a repository, a backup in it, and a live recovery of it for clients of this machine."""
from dataclasses import dataclass

from .daemon import Daemon

REPOSITORY = "backups"
BLOCK = 4096
CONFIG = """\
state_dir = "{folder}/state"
[recovery]
reserve_min_bytes = 100000000
[[repository]]
name = "backups"
path = "{folder}/backups"
"""


def modest(folder, more="", **daemon):
    """A daemon, not started yet, with a repository, and recoveries that ask for little space; `more` of its configuration."""
    config = folder / "rekindle.toml"
    config.write_text(CONFIG.format(folder=folder) + more)
    daemon = Daemon(folder / "state", config, **daemon)
    daemon.command("repo", "add", folder / REPOSITORY)
    return daemon


@dataclass
class Recovered:
    """A job that serves, and where its VM is."""
    job: str
    export: str
    folder: str
    extents: list

    def path(self, index=0):
        """The disk's path below the export."""
        return f"{self.folder}/{self.extents[index]}"

    def url(self, index=0, address="127.0.0.1"):
        return f"nfs://{address}{self.export}/{self.path(index)}"


def recover(daemon, point, clients=("127.0.0.1",), **more):
    """Starts a live recovery to an export and waits until it serves."""
    answer = daemon.api("POST", "recoveries", {"point": point, "target": {"kind": "export", "clients": list(clients)}, **more})
    job = daemon.until_state(answer["id"], "serving")
    return recovered(job)


def recovered(job):
    export = job["export"]
    extents = [file["name"] for file in export["files"] if file["kind"] == "extent"]
    return Recovered(job["id"], export["path"], export["folder"], extents)


def block(disk, number):
    """The 4 KiB that belong at block `number` of the test disk `disk`: no two are alike, and none needs a copy to check."""
    word = (number * 0x9E3779B97F4A7C15 ^ disk * 0xC2B2AE3D27D4EB4F ^ 0x5851F42D4C957F2D) & (1 << 64) - 1
    return (b"%016x" % word + b"%08x" % number + b"%08x" % disk) * (BLOCK // 32)


def write_image(path, disk, mebibytes):
    """A raw image whose every block is `block(disk, number)`, but for a hole in each sixteenth MiB."""
    with open(path, "wb") as file:
        for mib in range(mebibytes):
            if mib % 16 != 15:
                file.seek(mib << 20)
                file.write(b"".join(block(disk, (mib << 8) + n) for n in range(256)))
        file.truncate(mebibytes << 20)
    return path


def original(disk, number):
    """What `write_image` put at a block."""
    return bytes(BLOCK) if (number >> 8) % 16 == 15 else block(disk, number)
