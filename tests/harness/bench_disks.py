"""`scripts/bench disks`: large disks, many disks and long chains (N6, N7 and N12 of the design). Run as a program inside tests/netns.

  start     POST of a live recovery to the call that powers the VM on, against the stand-in for vSphere (whose own share is in it), with a
            disk of 10 GiB and one of 10 TiB, in turn (N6)
  attached  so many live mounts of 1 TiB, of a point each: the daemon's resident memory with none, with all attached, and once all of them
            were read in 64 places (N7); then a client each (../shared/rig/nfsbench, 4 KiB READs one at a time): the p99 of the slowest disk
            beside that of the middle one
  chain     POST of a live mount to its first READ answered, with nothing in the cache: a point with so many incremental predecessors, and a
            full one of the same content, in turn (N12)

What is printed are medians (of `start` also the 95th of 100) without the first round, as a table and, one row a line, as JSON.
"""
import argparse
import datetime
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import bench_repo, recovery, stories, vsphere_story
from .bench_servers import nfsbench
from .bench_vms import report
from .daemon import Daemon, binary
from .nfs3 import Client

GIB, TIB = 1 << 30, 1 << 40
BLOCK = 64 << 10
DENSE = 8 << 20  # At the start of each attached disk: what its client reads.
PLACES = 64
CHAIN = 64 << 20
LIMITS = """
[recovery]
max_active = 400
reserve_min_bytes = 0
reserve_percent_of_vm = 0
"""
PASSWORD = "standin-pass"
STANDIN = Path(__file__).resolve().parent.parent / "vsphere-standin" / "vsphere-standin"


def sparse(path, size, seed, dense=0):
    """A disk with `dense` bytes at its start and a block in each of PLACES places, that are no other's."""
    chance = random.Random(seed)
    with open(path, "wb") as file:
        file.write(chance.randbytes(dense))
        for number in range(PLACES):
            file.seek(number * (size // PLACES) // BLOCK * BLOCK + DENSE)
            file.write(chance.randbytes(BLOCK))
        file.truncate(size)
    return path


def backup(folder, name, size):
    """A VM with one such disk."""
    vm = folder / name
    vm.mkdir()
    sparse(vm / "disk-flat.vmdk", size, name)
    (vm / "web.vmdk").write_text(f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="vmfs"\n'
                                 f'RW {size // 512} VMFS "disk-flat.vmdk"\nddb.adapterType = "lsilogic"\n')
    (vm / "web.vmx").write_text(vsphere_story.VMX)
    return vm / "web.vmx"


def started(daemon, name):
    """Seconds from the POST to the call that powers the VM on."""
    begun = datetime.datetime.now(datetime.timezone.utc)
    job = daemon.api("POST", "recoveries", {"point": name, "target": {"kind": "vsphere", "name": "vcenter"}})["id"]
    step = next(step for step in daemon.until_state(job, "serving")["steps"] if step["name"] == "power_on")
    daemon.command("finish", job, "discard", "--watch")
    return (datetime.datetime.fromisoformat(step["started_at"].replace("Z", "+00:00")) - begun).total_seconds()


def start(folder, given):
    simulator = vsphere_story.Simulator([STANDIN, "--tls", "--dir", folder / "datastore", "--password", PASSWORD], folder / "standin.log", PASSWORD, "H0")
    config = vsphere_story.configured(folder, simulator)
    config.write_text(config.read_text() + LIMITS)
    sizes = {"10 GiB": 10 * GIB, "10 TiB": 10 * TIB}
    seconds = {size: [] for size in sizes}
    try:
        with Daemon(folder / "state", config=config) as daemon:
            for name, size in sizes.items():
                daemon.ingest(backup(folder, name, size), "--name", name)
            for _ in range(given.rounds + 1):
                for name, took in seconds.items():
                    took.append(started(daemon, name))
    finally:
        simulator.process.terminate()
        simulator.process.wait()
    return {f"start, {name}": {"seconds": statistics.median(took[1:]), "p95_seconds": sorted(took[1:])[given.rounds * 95 // 100]}
            for name, took in seconds.items()}


def attached(folder, given):
    config = folder / "rekindle.toml"
    config.write_text(f'state_dir = "{folder / "state"}"\n{LIMITS}')
    for number in range(given.disks):
        # Into the state directory's own repository, before the daemon has it.
        image = sparse(folder / f"disk{number}.raw", TIB, number, DENSE)
        bench_repo.run(binary(), "ingest", image, "--config", config, "--json")
        image.unlink()
    with Daemon(folder / "state", config=config) as daemon:
        none = daemon.memory()
        disks = [recovery.recover(daemon, f"disk{number}", mode="live_mount") for number in range(given.disks)]
        idle = daemon.memory()
        for disk in disks:
            with Client(disk.export) as client:
                handle = client.lookup(disk.path())
                for number in range(PLACES):
                    client.read(handle, number * (TIB // PLACES) // BLOCK * BLOCK + DENSE, 4096)
        row = {"none_mib": none / bench_repo.MIB, "idle_mib": idle / bench_repo.MIB, "read_mib": daemon.memory() / bench_repo.MIB,
               "each_idle_kib": (idle - none) / given.disks / 1024}
        rows = {f"attached, {given.disks} of 1 TiB": row}
        if os.environ.get("NFSBENCH"):
            rows["a client each"] = fairness(disks, given.secs)
        else:
            print("bench: NOTE: no ../shared/rig beside the checkout: clients of all disks are left out", file=sys.stderr)
        for disk in disks:
            daemon.command("finish", disk.job, "discard", "--watch")
    return rows


def fairness(disks, seconds):
    load = f"--op read --pattern rand --bs 4096 --qd 1 --span {DENSE} --secs {seconds}"
    running = [subprocess.Popen(nfsbench(disk.url() + "?nfsport=2049&mountport=2049", f"{load} --seed {number}"), stdout=subprocess.PIPE, text=True)
               for number, disk in enumerate(disks)]
    results = [json.loads(one.communicate()[0]) for one in running]
    if any(result["errors"] for result in results):
        raise RuntimeError("a client met errors")
    p99 = [result["p99_us"] for result in results]
    return {"iops": sum(result["iops"] for result in results), "p99_us": statistics.median(p99), "slowest_p99_us": max(p99)}


def chain(folder, given):
    """`chain` is its image after so many changes of a block each, told to each ingest; `full` is the same image at once."""
    image, changed = folder / "chain.raw", folder / "changed.json"
    chance = random.Random("chain")
    image.write_bytes(chance.randbytes(CHAIN))
    config = folder / "rekindle.toml"
    config.write_text(f'state_dir = "{folder / "state"}"\n{LIMITS}')

    def ingest(*more):
        command = [binary(), "ingest", image, "--config", config, "--json", *more]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["point"]

    points = {"chain": ingest("--name", "chain")}
    with open(image, "r+b", buffering=0) as file:
        for number in range(given.increments):
            at = number * BLOCK % CHAIN
            file.seek(at)
            file.write(chance.randbytes(4096))
            changed.write_text(json.dumps({"scsi0:0": [{"start": at, "length": 4096}]}))
            points["chain"] = ingest("--name", "chain", "--changed", changed, "--parent", points["chain"])
    points["full"] = ingest("--name", "full")
    seconds = {name: [] for name in points}
    for number in range(given.rounds + 1):
        for name, took in seconds.items():
            took.append(first_read(folder, config, points[name], BLOCK * number))
    return {f"{name}, first READ": {"seconds": statistics.median(took[1:])} for name, took in seconds.items()}


def first_read(folder, config, point, offset):
    shutil.rmtree(folder / "state" / "cache", ignore_errors=True)
    with Daemon(folder / "state", config=config) as daemon:
        begun = time.monotonic()
        disk = recovery.recover(daemon, point, mode="live_mount")
        with Client(disk.export) as client:
            client.read(client.lookup(disk.path()), offset, 4096)
        seconds = time.monotonic() - begun
        daemon.command("finish", disk.job, "discard", "--watch")
    return seconds


PARTS = {"start": start, "attached": attached, "chain": chain}


def ratios(rows):
    """Of the design's numbers, those that were measured."""
    found = {}
    if "start, 10 GiB" in rows:
        small, large = rows["start, 10 GiB"], rows["start, 10 TiB"]
        found["N6: p95 seconds from the POST to the power-on call (1 at most)"] = max(small["p95_seconds"], large["p95_seconds"])
        found["N6: with a disk of 10 TiB to one of 10 GiB (1.1 at most)"] = large["seconds"] / small["seconds"]
    for name, row in rows.items():
        if name.startswith("attached, "):
            found["N7: MiB a disk of 1 TiB that is attached (8 at most)"] = row["each_idle_kib"] / 1024
            found["N7: MiB of the process, all disks attached and read (1,024 at most)"] = row["read_mib"]
    if "a client each" in rows:
        found["the slowest disk's p99 to the middle one's (3 at most)"] = rows["a client each"]["slowest_p99_us"] / rows["a client each"]["p99_us"]
    if "chain, first READ" in rows:
        found["N12: with incremental predecessors to a full (1.1 at most)"] = rows["chain, first READ"]["seconds"] / rows["full, first READ"]["seconds"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of `start` and `chain`, one more that is dropped (20)")
    parser.add_argument("--disks", type=int, default=100, help="that are attached at once (100)")
    parser.add_argument("--secs", type=float, default=5, help="for which they are read by a client each (5)")
    parser.add_argument("--increments", type=int, default=1000, help="predecessors of the last point of the chain (1000)")
    parser.add_argument("--only", choices=PARTS, action="append")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rekindle-bench.", dir=stories.scratch_parent()))
    rows = {}
    try:
        for part in given.only or PARTS:
            (folder / part).mkdir()
            rows |= PARTS[part](folder / part, given)
            print(f"bench: {part} done", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    report(rows, ratios(rows))


if __name__ == "__main__":
    main()
