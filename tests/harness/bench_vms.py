"""`scripts/bench vms`: what guests see of boots and movers (N5, N8, N9 and N11 of the design). Run as a program inside tests/netns.

  boot    the sample VM booted off its export in QEMU, from a repository on S3 (ministack, on loopback, each answer 20 ms later than it
          comes): seconds from QEMU's start to the guest's first words, with nothing in the cache and no boot profile (cold), with nothing but
          the profile of the boots before (profile; N5), and with the cache as the last boot left it (warm)
  clones  that VM as so many live mounts, all booted together with nothing in the cache: bytes fetched from the repository, beside those
          of one (N11)
  mover   a live recovery's migration to a directory, from a local repository, beside `qemu-img convert` of the same image, each synced to
          the disk (N8: the copy; what it verifies afterwards is told beside it)
  beside  a guest's 4 KiB READs (../shared/rig/nfsbench, depth 4) of a disk that is in the cache, alone and while the mover migrates another
          VM's (N9)

Rounds are interleaved, the first is dropped, what is printed are medians, as a table and, one row a line, as JSON.
"""
import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import bench_repo, bench_rows, recovery, s3, sample_disk, stories
from .bench_repo import MIB
from .bench_servers import nfsbench
from .daemon import Daemon, binary
from .faulty_http import Proxy
from .sample_vm import Vm

PROXY_PORT = 9101
LATENCY = 0.02
CLONE_MEMORY = 192
CONFIG = """\
state_dir = "{state}"
[mover]
warm = false
[recovery]
reserve_min_bytes = 0
reserve_percent_of_vm = 0
[[repository]]
name = "backups"
{place}
"""


class Small(Vm):
    """The sample VM with less memory, so that many fit."""

    memory = CLONE_MEMORY


class Site:
    """A state directory and its configuration; the daemon is started anew for each measurement."""

    def __init__(self, folder, place):
        self.state, self.config = folder / "state", folder / "rekindle.toml"
        self.config.write_text(CONFIG.format(state=self.state, place=place))

    def daemon(self):
        return Daemon(self.state, config=self.config)

    def forget(self, *what):
        """`cache` alone leaves the boot profiles."""
        for name in what:
            shutil.rmtree(self.state / name, ignore_errors=True)


def repository_on_s3(folder, server):
    """The sample VM's backup in a bucket; the daemon comes to it through the proxy, the ingest does not."""
    where = f"s3://{s3.BUCKET}/vms"
    keys = ["--credentials-file", server.credentials]
    bench_repo.run(binary(), "repo", "add", where, "--endpoint", server.endpoint, *keys)
    text = f'bucket = "{s3.BUCKET}"\nprefix = "vms"\nendpoint = "{{}}"\ncredentials_file = "{server.credentials}"'
    ingest = folder / "ingest.toml"
    ingest.write_text(CONFIG.format(state=folder / "ingest", place=text.format(server.endpoint)))
    bench_repo.run(binary(), "ingest", sample_disk.make(folder / "backup"), "--config", ingest)
    return text.format(f"http://127.0.0.1:{PROXY_PORT}")


def fetched(daemon):
    found = daemon.metrics()
    return {name: found.get(f'repository_{name}{{repository="backups"}}', 0) for name in ("gets", "got_bytes")}


def boot(site):
    """Seconds to the guest's first words, and what was fetched for them since the disks were open."""
    with site.daemon() as daemon:
        recovered = recovery.recover(daemon, sample_disk.NAME, mode="live_mount")
        before = fetched(daemon)
        begun = time.monotonic()
        with Vm(recovered.url()) as vm:
            vm.until_up()
            seconds, after = time.monotonic() - begun, fetched(daemon)
            vm.off()
        daemon.command("finish", recovered.job, "discard", "--watch")
    return {"seconds": seconds, "gets": after["gets"] - before["gets"], "mib": (after["got_bytes"] - before["got_bytes"]) / MIB}


def boots(site, rounds):
    """A round: everything forgotten, then the cache alone, then nothing."""
    kinds = {"cold": ("cache", "db", "overlay", "exports"), "profile": ("cache",), "warm": ()}
    results = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind, forgotten in kinds.items():
            site.forget(*forgotten)
            results[kind].append(boot(site))
        print(f"bench: boot: round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return {f"boot, {kind}": bench_rows.medians(every[kept(rounds)], every[0].keys()) for kind, every in results.items()}


def clones(site, count):
    """Bytes fetched until all of them are up, with nothing in the cache before."""
    site.forget("cache", "db", "overlay", "exports")
    with site.daemon() as daemon:
        before = fetched(daemon)
        recovered = [recovery.recover(daemon, sample_disk.NAME, mode="live_mount") for _ in range(count)]
        vms = [Small(one.url()) for one in recovered]
        try:
            for vm in vms:
                vm.until_up(timeout=900)
            after = fetched(daemon)
        finally:
            for vm in vms:
                vm.kill()
        for one in recovered:
            daemon.command("finish", one.job, "discard", "--watch")
    return {"mib": (after["got_bytes"] - before["got_bytes"]) / MIB, "gets": after["gets"] - before["gets"]}


def local_site(folder, mib):
    """Two images of one size, `moved` and `read`, which share nothing."""
    repository, site = folder / "repository", None
    bench_repo.run(binary(), "repo", "add", repository)
    site = Site(folder, f'path = "{repository}"')
    images = {"moved": bench_repo.make_image(folder / "moved.raw", mib), "read": bench_repo.make_image(folder / "read.raw", mib - 8)}
    for image in images.values():
        bench_repo.run(binary(), "ingest", image, "--config", site.config)
    return site, images


def step_seconds(job, name):
    step = next(step for step in job["steps"] if step["name"] == name)
    begun, ended = (datetime.datetime.fromisoformat(step[key].replace("Z", "+00:00")) for key in ("started_at", "finished_at"))
    return (ended - begun).total_seconds()


def migrate(daemon, job, into, meanwhile=lambda: None):
    """Migrates, and does `meanwhile` again and again until it is over; the ended job and what `meanwhile` returned."""
    daemon.command("finish", job, "migrate", "--to-directory", into)
    seen = []
    while daemon.job(job)["state"] != "completed":
        seen.append(meanwhile())
    shutil.rmtree(into)
    return daemon.until_state(job, "completed"), seen


def mover(site, images, folder, rounds):
    ours, verify, theirs = [], [], []
    with site.daemon() as daemon:
        for number in range(rounds):
            recovered = recovery.recover(daemon, "moved")
            job, _ = migrate(daemon, recovered.job, folder / "out", lambda: time.sleep(0.05))
            ours.append(step_seconds(job, "copy"))
            verify.append(step_seconds(job, "verify"))
            begun = time.monotonic()
            bench_repo.run("qemu-img", "convert", "-O", "raw", images["moved"], folder / "converted")
            with open(folder / "converted", "rb") as file:
                os.fdatasync(file.fileno())
            theirs.append(time.monotonic() - begun)
            (folder / "converted").unlink()
            print(f"bench: mover: round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    chosen = kept(rounds)
    return {"mover, copy": {"seconds": statistics.median(ours[chosen]), "verify_seconds": statistics.median(verify[chosen])},
            "mover, qemu-img": {"seconds": statistics.median(theirs[chosen])}}


def beside(site, folder, rounds):
    """A guest's reads alone, then beside the mover, in turn."""
    alone, moved = [], []
    with site.daemon() as daemon:
        guest = recovery.recover(daemon, "read")

        def reads(arguments):
            done = subprocess.run(nfsbench(guest.url(), arguments), check=True, stdout=subprocess.PIPE, text=True)
            return json.loads(done.stdout)

        reads(bench_rows.WHOLE_FILE)
        load = f"{bench_rows.READ} rand --bs 4096 --qd 4 --secs 1"
        for number in range(rounds):
            alone.append(reads(load))
            recovered = recovery.recover(daemon, "moved")
            _, seen = migrate(daemon, recovered.job, folder / "out", lambda: reads(load))
            # The last may have gone on after the end.
            moved.append(bench_rows.medians(seen[:-1] or seen, ("iops", "p50_us", "p99_us")))
            print(f"bench: beside: round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    keys, chosen = ("iops", "p50_us", "p99_us"), kept(rounds)
    return {"guest alone": bench_rows.medians(alone[chosen], keys), "guest beside mover": bench_rows.medians(moved[chosen], keys)}


def kept(rounds):
    return slice(1 if rounds > 1 else 0, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="the first is dropped (6)")
    parser.add_argument("--mib", type=int, default=2048, help="size of the images that are moved and read (2048)")
    parser.add_argument("--clones", type=int, default=20, help="VMs of one template (20)")
    parser.add_argument("--only", choices=["boot", "clones", "mover", "beside"], action="append")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rekindle-bench.", dir=stories.scratch_parent()))
    try:
        rows = measure(folder, given)
        report(rows, ratios(rows))
    finally:
        shutil.rmtree(folder)


def measure(folder, given):
    wanted, rows = given.only or ["boot", "clones", "mover", "beside"], {}
    if {"boot", "clones"} & set(wanted):
        with s3.Ministack(folder) as server, Proxy(PROXY_PORT, ("127.0.0.1", server.port), latency=LATENCY):
            site = Site(folder, repository_on_s3(folder, server))
            if "boot" in wanted:
                rows |= boots(site, given.rounds)
            if "clones" in wanted:
                rows |= {f"clones, {count}": clones(site, count) for count in (1, given.clones)}
    if {"mover", "beside"} & set(wanted):
        local = folder / "local"
        local.mkdir()
        site, images = local_site(local, given.mib)
        if "mover" in wanted:
            rows |= mover(site, images, local, given.rounds)
        if "beside" in wanted and os.environ.get("NFSBENCH"):
            rows |= beside(site, local, given.rounds)
        elif "beside" in wanted:
            print("bench: NOTE: no ../shared/rig beside the checkout: a guest beside the mover is left out", file=sys.stderr)
    return rows


def ratios(rows):
    """Of the design's numbers, those that were measured."""
    found = {}
    if "boot, profile" in rows:
        found["N5: boot with a profile to a warm one (1.5 at most)"] = rows["boot, profile"]["seconds"] / rows["boot, warm"]["seconds"]
    if many := [row for name, row in rows.items() if name.startswith("clones, ") and name != "clones, 1"]:
        found["N11: bytes fetched for all clones to those for one (1.1 at most)"] = many[0]["mib"] / rows["clones, 1"]["mib"]
    if "mover, copy" in rows:
        found["N8: the mover's copy, times as fast as qemu-img convert (1.5 at least)"] = rows["mover, qemu-img"]["seconds"] / rows["mover, copy"]["seconds"]
    if "guest alone" in rows:
        found["N9: a guest's p99 beside the mover to that alone (2 at most)"] = rows["guest beside mover"]["p99_us"] / rows["guest alone"]["p99_us"]
    return found


def report(rows, found):
    """The rows as a table, what was found in them beside the design's numbers, and the rows as JSON."""
    print()
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"{value:>12,.2f} {key}" for key, value in row.items()))
    print()
    for name, number in found.items():
        print(f"{name}: {number:.2f}")
    print()
    for name, row in rows.items():
        print(json.dumps({"row": name, **{key: round(value, 4) for key, value in row.items()}}))


if __name__ == "__main__":
    main()
