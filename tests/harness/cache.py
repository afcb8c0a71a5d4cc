"""Things that take long to make are made once, and are named after the sources that made them."""
import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(os.environ.get("REKINDLE_CACHE") or Path.home() / ".cache" / "rekindle")


def say(text):
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def keyed(name, sources, make):
    """The folder `name-KEY` of the cache, where KEY is the hash of the `sources` (files).

    `make(folder)` fills it when it is not there; one maker at a time, and half a folder is never seen.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(Path(source).read_bytes())
    made = ROOT / f"{name}-{digest.hexdigest()[:12]}"
    if made.exists():
        return made
    ROOT.mkdir(parents=True, exist_ok=True)
    with open(ROOT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = made.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(made)
    return made
