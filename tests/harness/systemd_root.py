"""A Debian with systemd as a tar file, for `machine`."""
import subprocess
from pathlib import Path

from . import cache, debian

INCLUDE = "systemd-sysv,init-system-helpers,libstdc++6,ca-certificates,iproute2"
HERE = Path(__file__).resolve().parent


def archive():
    """The cached system as a tar file; made when it is not there (half a minute)."""
    return cache.keyed("systemd-root", [__file__, HERE / "debian.py"], _make) / "root.tar"


def _make(into):
    cache.say("making a Debian with systemd (once)")
    log = into / "log"
    with open(log, "wb") as out:
        done = subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={INCLUDE}", debian.codename(),
                               into / "root.tar", "-"], input=debian.sources().encode(), stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap failed:\n{log.read_text()[-1500:]}")
