"""`scripts/bench repo`: repositories beside restic and qemu-img convert, over one image. Run as a program inside tests/netns.

What is measured, each in every round, local and on S3 (Ceph's RADOS Gateway over an OSD in memory, on loopback; --server ministack
where that is not installed, which is the bottleneck then: it sums each part in Python and copies an object for each range of it):
  ingest         a first backup into an empty repository
  again          a second one of the same, unchanged image: all of it is read, hashed and found
  check          everything read back and verified
  read back      the whole image written to a file: `recover --full`, `restic dump`, `qemu-img convert`
  cold read      one random 4 KiB READ of a fresh recovery over NFS with an empty cache (Rekindle only): time, GETs, bytes

MB/s are of the image's size, MB of 10^6 bytes. CPU seconds are of all processes that took part but the S3 server. The page cache
has the image. Of the rounds the first is dropped, what is printed are medians, as a table and, one row a line, as JSON.
"""
import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import ceph, nfs3, recovery, s3, stories
from .daemon import Daemon, binary
from .stories import secret

MIB = 1 << 20
COLD_READS = 64
TEXT = b"The quick brown fox jumps over the lazy dog, again and again; nothing of it is worth keeping. "
CONFIG = """\
state_dir = "{state}"
[cache]
ram_bytes = 67108864
[mover]
warm = false
[recovery]
reserve_min_bytes = 0
reserve_percent_of_vm = 0
[[repository]]
name = "backups"
{place}
"""


def make_image(path, mib):
    """A quarter noise, a half like text and programs, a quarter holes, in runs of 1 to 8 MiB. A function of its size."""
    chance = random.Random(mib)
    with open(path, "wb") as file:
        at = 0
        while at < mib:
            run = min(chance.randint(1, 8), mib - at)
            kind = chance.choice(["noise", "text", "text", "hole"])
            if kind != "hole":
                file.seek(at * MIB)
                file.write(chance.randbytes(run * MIB) if kind == "noise" else like_text(chance, run * MIB))
            at += run
        file.truncate(mib * MIB)
    return path


def like_text(chance, size):
    """Compresses about threefold, and no two blocks are alike."""
    pieces = bytearray()
    while len(pieces) < size:
        pieces += TEXT[:chance.randint(20, len(TEXT))] + chance.randbytes(24)
    return bytes(pieces[:size])


def timed(work):
    """Seconds, CPU seconds of the children that ended meanwhile, and what it returned."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": time.monotonic() - begun, "cpu_seconds": cpu}, result


def run(*command, env=None, stdout=subprocess.DEVNULL):
    done = subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL, stdout=stdout, text=stdout == subprocess.PIPE,
                          env={**os.environ, **(env or {})})
    return done.stdout


def stored(folder):
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


class Rekindle:
    """`place` is a directory, or a server of S3."""

    def __init__(self, folder, place):
        self.folder, self.place = folder, place
        folder.mkdir()
        self.number = 0

    def prepare(self):
        """A new repository, empty, and a state directory."""
        self.number += 1
        self.state = self.folder / f"state{self.number}"
        if isinstance(self.place, Path):
            self.where = self.place / f"rekindle{self.number}"
            run(binary(), "repo", "add", self.where)
            text = f'path = "{self.where}"'
        else:
            prefix = f"rekindle{self.number}"
            run(binary(), "repo", "add", f"s3://{self.place.bucket}/{prefix}", "--endpoint", self.place.endpoint, "--credentials-file", self.place.credentials)
            text = f'bucket = "{self.place.bucket}"\nprefix = "{prefix}"\nendpoint = "{self.place.endpoint}"\ncredentials_file = "{self.place.credentials}"'
        self.config = self.folder / f"rekindle{self.number}.toml"
        self.config.write_text(CONFIG.format(state=self.state, place=text))

    def ingest(self, image):
        report = json.loads(run(binary(), "ingest", image, "--config", self.config, "--json", stdout=subprocess.PIPE))
        self.point = report["point"]
        return report

    again = ingest

    def check(self):
        run(binary(), "repo", "check", "backups", "--config", self.config)

    def read_back(self, to):
        """By the daemon: its own CPU is added when it ends."""
        with Daemon(self.state, config=self.config) as daemon:
            begun = time.monotonic()
            daemon.command("recover", self.point, "--full", "--to-directory", to)
            until_ended(daemon)
            seconds = time.monotonic() - begun
        return seconds

    def cold_reads(self, image, mib):
        """Medians of single READs of blocks far from each other, each of which nobody has read before."""
        shutil.rmtree(self.state, ignore_errors=True)
        chance = random.Random(7)
        places = chance.sample(range(mib), min(COLD_READS, mib // 2))
        with Daemon(self.state, config=self.config) as daemon, open(image, "rb") as file:
            recovered = recovery.recover(daemon, self.point, mode="live_mount")
            client = nfs3.Client(recovered.export)
            handle = client.lookup(recovered.path())
            before, took = daemon.metrics(), []
            for place in places:
                begun = time.perf_counter()
                found = client.read(handle, place * MIB, recovery.BLOCK)
                took.append(time.perf_counter() - begun)
                file.seek(place * MIB)
                if found != file.read(recovery.BLOCK):
                    raise AssertionError(f"wrong bytes at {place} MiB")
            after = daemon.metrics()
            client.close()
        misses = after["cache_misses"] - before["cache_misses"]
        result = {"p50_ms": statistics.median(took) * 1000, "misses": misses, "reads": len(places)}
        key = lambda name: f'repository_{name}{{repository="backups"}}'
        if key("gets") in after and misses:
            result["gets_per_miss"] = (after[key("gets")] - before[key("gets")]) / misses
            result["kib_per_miss"] = (after[key("got_bytes")] - before[key("got_bytes")]) / misses / 1024
        return result


def until_ended(daemon):
    jobs = daemon.api("GET", "jobs")["jobs"]
    daemon.until_state(jobs[0]["id"], "completed", timeout=3600)


class Restic:
    def __init__(self, folder, place):
        self.folder, self.place, self.number = folder, place, 0
        folder.mkdir()
        self.env = {"RESTIC_PASSWORD_FILE": str(secret(folder / "password", "bench password\n")), "RESTIC_CACHE_DIR": str(folder / "cache")}

    def prepare(self):
        self.number += 1
        if isinstance(self.place, Path):
            self.where = str(self.place / f"restic{self.number}")
        else:
            keys = dict(line.split(" = ") for line in self.place.credentials.read_text().splitlines() if " = " in line)
            self.env |= {name.upper(): value for name, value in keys.items()}
            self.where = f"s3:{self.place.endpoint}/{self.place.bucket}/restic{self.number}"
        self("init")

    def __call__(self, *arguments, stdout=subprocess.DEVNULL):
        return run("restic", "--quiet", "--repo", self.where, *arguments, env=self.env, stdout=stdout)

    def ingest(self, image):
        self("backup", image)

    def again(self, image):
        """Without what it knows of the file's time, so that it reads it."""
        self("backup", "--force", image)

    def check(self):
        self("check", "--read-data")

    def read_back(self, image, to):
        with open(to, "wb") as file:
            self("dump", "latest", str(image), stdout=file)


def rounds_of(tool, image, mib, given, out):
    """Medians by row."""
    results = {}
    for number in range(given.rounds):
        tool.prepare()
        for row, work in {"ingest": lambda: tool.ingest(image), "again": lambda: tool.again(image), "check": tool.check}.items():
            results.setdefault(row, []).append(timed(work)[0])
        to = out / "back"
        if isinstance(tool, Rekindle):
            to.mkdir()
            whole, seconds = timed(lambda: tool.read_back(to))
            results.setdefault("read back", []).append({**whole, "seconds": seconds})
            shutil.rmtree(to)
            results.setdefault("cold read", []).append(tool.cold_reads(image, mib))
        else:
            results.setdefault("read back", []).append(timed(lambda: tool.read_back(image, to))[0])
            to.unlink()
        print(f"bench: {type(tool).__name__.lower()}: round {number + 1} of {given.rounds} done", file=sys.stderr, flush=True)
    kept = slice(1 if given.rounds > 1 else 0, None)
    return {row: {key: statistics.median(one[key] for one in every[kept]) for key in every[0]} for row, every in results.items()}


def convert(image, given, out):
    results = []
    for _ in range(given.rounds):
        results.append(timed(lambda: run("qemu-img", "convert", "-O", "raw", image, out / "converted"))[0])
        (out / "converted").unlink()
    kept = results[1 if given.rounds > 1 else 0:]
    return {"read back": {key: statistics.median(one[key] for one in kept) for key in kept[0]}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--server", choices=["ceph", "ministack"], default="ceph" if ceph.is_installed() else "ministack")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rekindle-bench.", dir=stories.scratch_parent()))
    try:
        measure(folder, given)
    finally:
        shutil.rmtree(folder)


def measure(folder, given):
    image, out, local = make_image(folder / "disk.raw", given.mib), folder / "out", folder / "local"
    out.mkdir()
    local.mkdir()
    rows = {}
    with (ceph.Ceph if given.server == "ceph" else s3.Ministack)(folder) as server:
        for name, place in (("local", local), ("S3", server)):
            rows[f"rekindle, {name}"] = rounds_of(Rekindle(folder / f"rekindle-{name}", place), image, given.mib, given, out)
            if shutil.which("restic"):
                rows[f"restic, {name}"] = rounds_of(Restic(folder / f"restic-{name}", place), image, given.mib, given, out)
    if not shutil.which("restic"):
        print("bench: NOTE: restic is not installed (scripts/setup installs it); it is left out", file=sys.stderr)
    rows["qemu-img convert"] = convert(image, given, out)
    report(rows, image, local, given)


def report(rows, image, local, given):
    size = given.mib * MIB
    data = image.stat().st_blocks * 512
    print(f"\n{'':22}{'row':12}{'seconds':>9}{'MB/s':>9}{'CPU s':>9}{'MB a CPU s':>12}")
    for name, measured in rows.items():
        for row, one in measured.items():
            if "p50_ms" in one:
                gets = f", {one['gets_per_miss']:.2f} GETs and {one['kib_per_miss']:.0f} KiB a miss" if "gets_per_miss" in one else ""
                print(f"{name:22}{row:12}{one['p50_ms']:>9.1f} ms p50, {one['misses']:.0f} misses in {one['reads']:.0f} reads{gets}")
            else:
                print(f"{name:22}{row:12}{one['seconds']:>9.2f}{size / 1e6 / one['seconds']:>9.0f}{one['cpu_seconds']:>9.2f}{size / 1e6 / max(one['cpu_seconds'], 0.01):>12.0f}")
    kept = {tool: stored(local / f"{tool}1") for tool in ("rekindle", "restic") if (local / f"{tool}1").exists()}
    told = ", ".join(f"{tool} {count / MIB:,.0f} MiB ({data / count:.2f} to 1)" for tool, count in kept.items())
    print(f"\nof {given.mib} MiB, {data / MIB:,.0f} MiB are no holes; two backups of them take: {told}\n")
    for name, measured in rows.items():
        for row, one in measured.items():
            print(json.dumps({"what": name, "row": row, **{key: round(value, 4) for key, value in one.items()}}))
    print(json.dumps({"what": "stored", "data_bytes": data, **kept}))


if __name__ == "__main__":
    main()
