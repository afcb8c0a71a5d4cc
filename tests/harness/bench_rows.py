"""Rows of scripts/bench: one load on one file, measured on each server in turn."""
import json
import os
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass

from .bench_worker import Worker


@dataclass
class Row:
    name: str
    file: str
    arguments: str  # nfsbench's
    reach: float | None = None  # ratio to Ganesha (DESIGN section 7)


READ, WRITE = "--op read --pattern", "--stable file --op write --pattern"
ROWS = [
    Row("N1 READ 4 KiB random, depth 64", "read", f"{READ} rand --bs 4096 --qd 64", 2.0),
    Row("N1 READ 64 KiB sequential, depth 32", "read", f"{READ} seq --bs 65536 --qd 32", 1.5),
    Row("N1 READ 1 MiB sequential, depth 8", "read", f"{READ} seq --bs 1048576 --qd 8", 1.3),
    Row("N2 READ 4 KiB random, depth 1", "read", f"{READ} rand --bs 4096 --qd 1", 1.0),
    Row("N2 GETATTR, depth 64", "read", "--op getattr --qd 64", 2.0),
    Row("N3 WRITE 4 KiB random, depth 32", "write", f"{WRITE} rand --bs 4096 --qd 32", 3.0),
    Row("N3 WRITE 4 KiB random, depth 1", "write", f"{WRITE} rand --bs 4096 --qd 1", 1.0),
    Row("N3 WRITE 64 KiB sequential, depth 16", "write", f"{WRITE} seq --bs 65536 --qd 16", 1.5),
]
WHOLE_FILE = f"{READ} seq --bs 1048576 --qd 8 --once"


def make_image(path, mib):
    with open("/dev/urandom", "rb") as random, open(path, "wb") as file:
        for _ in range(mib):
            file.write(random.read(1 << 20))
        os.fsync(file.fileno())


def measure(rows, servers, given, folder):
    """All measurements: {(server, row's name): [result of each kept round]}, and those of "loopback" if it is among the servers."""
    with ExitStack() as ending:
        workers = {}
        for server in servers:
            workers[server] = Worker(server, folder / server, folder / "disk.raw")
            ending.callback(workers[server].end)
        loopback = workers.pop("loopback", None)
        for worker in workers.values():
            worker.ask("measure", "read", WHOLE_FILE)
        results = {}
        for number in range(given.rounds):
            kept = results if number or given.rounds == 1 else {}
            if loopback:
                kept.setdefault("loopback", []).append(loopback.ask("measure", given.secs))
            for row in rows:
                for server in turned(list(workers), number):
                    result = workers[server].ask("measure", row.file, f"{row.arguments} --secs {given.secs} --seed {number + 1}")
                    kept.setdefault((server, row.name), []).append(result)
            print(f"bench: round {number + 1} of {given.rounds} done", file=sys.stderr, flush=True)
        return results


def turned(servers, number):
    """Each round begins with another server."""
    at = number % len(servers)
    return servers[at:] + servers[:at]


def medians(results, keys=("iops", "p50_us", "p99_us", "calls_per_cpu_second")):
    return {key: statistics.median(one[key] for one in results) for key in keys}


def report(results, rows, servers, given):
    """Two tables, then one line of JSON for each row."""
    entries = [entry(results, row, servers) for row in rows]
    rounds = f"medians of {max(given.rounds - 1, 1)} round{'s' * (given.rounds > 2)}"
    beside = servers[1:]
    print(f"{rounds:38}" + "".join(f"{server + ' /s':>13}{'p50 us':>9}{'p99 us':>9}" for server in servers)
          + "".join(f"{'/ ' + server:>11}" for server in beside) + f"{'reach':>7}")
    for one in entries:
        line = f"{one['row']:38}"
        line += "".join(f"{one[server]['iops']:>13,.0f}{one[server]['p50_us']:>9,.0f}{one[server]['p99_us']:>9,.0f}" for server in servers)
        line += "".join(f"{one['ratio'][server]:>11.2f}" for server in beside)
        print(line + (f"{one['reach']:>7.1f}" if one["reach"] else ""))
    print(f"\n{'calls per second and core':38}" + "".join(f"{server:>13}" for server in servers) + f"{'bytes copied per byte served':>30}")
    for one in entries:
        copied = "" if one["bytes_copied"] is None else f"{one['bytes_copied']:>30.2f}"
        copied += f", but for {one['misses']:,} misses" if one["misses"] else ""
        print(f"{one['row']:38}" + "".join(f"{one[server]['calls_per_cpu_second']:>13,.0f}" for server in servers) + copied)
    print()
    if loopback := results.get("loopback"):
        print(f"loopback TCP, one stream (iperf3): {statistics.median(one['mib_s'] for one in loopback):,.0f} MiB/s\n")
        entries.append({"row": "loopback TCP", "mib_s_of_each_round": [one["mib_s"] for one in loopback]})
    for one in entries:
        print(json.dumps(one))


def entry(results, row, servers):
    """What is told of a row."""
    told = {"row": row.name, "reach": row.reach}
    for server in servers:
        kept = results[server, row.name]
        told[server] = {**medians(kept), "mib_s": statistics.median(one["mib_s"] for one in kept),
                        "iops_of_each_round": [one["iops"] for one in kept]}
    ours = servers[0]
    told["ratio"] = {server: round(told[ours]["iops"] / told[server]["iops"], 2) for server in servers[1:]}
    reads = [one for one in results[ours, row.name] if one.get("bytes_copied")]
    told["bytes_copied"] = statistics.median(one["bytes_copied"] for one in reads) if reads else None
    told["misses"] = sum(one["misses"] for one in reads)
    return told
