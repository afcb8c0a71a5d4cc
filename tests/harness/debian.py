"""Debian packages that are used without being installed, from wherever this machine's apt gets its own."""
import os
import re
import subprocess
import tempfile
from pathlib import Path


def offline():
    """Whether this runs in tests/netns, where nothing can be fetched."""
    return bool(os.environ.get("REKINDLE_NETNS"))


def codename():
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise RuntimeError("no VERSION_CODENAME in /etc/os-release: this needs Debian")


def sources():
    """apt's own lines for Debian's main archive of this release, as text of a sources.list."""
    line = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(RELEASE) $(COMPONENT)"
    out = _apt("apt-get", "indextargets", "--format", line, "Created-By: Packages", "Origin: Debian")
    wanted = re.compile(rf" {codename()}(-updates|-security)? main$")
    return "".join(sorted({text + "\n" for text in out.splitlines() if wanted.search(text)}))


def unpack(package, into):
    """Downloads a package and unpacks its files into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        _apt("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=scratch)
        (deb,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", deb, into], check=True)


def cloud_kernel(into):
    """Unpacks the release's newest cloud kernel, indexes its modules, and returns its version."""
    _apt("apt-get", "-qq", "update")
    depends = _apt("apt-cache", "depends", "linux-image-cloud-amd64")
    package = re.search(r"Depends: (linux-image-\d\S+)", depends).group(1)
    unpack(package, into)
    version = package.removeprefix("linux-image-")
    subprocess.run(["depmod", "-b", into, version], check=True)
    return version


def _apt(*command, cwd=None):
    if offline():
        raise RuntimeError("nothing can be fetched inside tests/netns: make this once outside")
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr.strip()[-400:]}")
    return done.stdout
