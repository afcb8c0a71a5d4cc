"""A file system of its own size, so that it can be filled without harm: ext4 in a file. It is mounted inside tests/netns, and goes with it."""
import os
import subprocess
from pathlib import Path


class FileSystem:
    """A context: `path` is where it is mounted."""

    def __init__(self, path, size):
        self.path, self.size = Path(path), size
        self.image = self.path.with_name(self.path.name + ".ext4")
        self.ballast = self.path / "ballast"

    def __enter__(self):
        if "REKINDLE_NETNS" not in os.environ:
            raise RuntimeError("run it inside tests/netns: what it mounts goes with that")
        self.path.mkdir()
        with open(self.image, "xb") as image:
            image.truncate(self.size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.path], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.path], check=True)
        self.path.rmdir()
        self.image.unlink()

    def free(self):
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave):
        """Takes what is free now but for `leave` bytes, beside what it took before."""
        more = self.free() - leave
        if more > 0:
            with open(self.ballast, "ab") as ballast:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), more)
                except OSError:
                    pass  # Another took it meanwhile: it is full, as it is to be.

    def empty(self):
        """Gives all of it back."""
        self.ballast.unlink(missing_ok=True)
