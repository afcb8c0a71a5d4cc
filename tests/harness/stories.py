"""How a story is run as a program: a scratch folder that is kept when it fails, one line at the end, an exit status."""
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path


def scratch_parent():
    """Where scratch folders go: on a disk, not in memory (REKINDLE_SCRATCH, else /var/tmp)."""
    return os.environ.get("REKINDLE_SCRATCH") or "/var/tmp"


def main(story):
    """Runs `story(folder)` and exits: 0 when it returns, 1 when it raises."""
    name = Path(sys.argv[0]).name
    folder = Path(tempfile.mkdtemp(prefix=f"rekindle-{name}.", dir=scratch_parent()))
    try:
        story(folder)
    except Exception:
        traceback.print_exc()
        print(f"{name}: FAILED; what it left is in {folder}", file=sys.stderr, flush=True)
        sys.exit(1)
    shutil.rmtree(folder)
    print(f"{name}: ok", flush=True)
    sys.exit(0)


def secret(path, text):
    """A file that only its owner may read, as the daemon demands of secrets."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def expect(what, condition):
    """A check of a story: says it when it holds, raises when it does not."""
    if not condition:
        raise AssertionError(what)
    print(f"ok {what}", flush=True)


def until(what, condition, seconds=10):
    """Waits for a condition, which is to come true within the seconds; returns what it then is."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return found
