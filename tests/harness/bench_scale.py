"""`scripts/bench --scale`: many connections beside NFS-Ganesha, then many disks of one daemon."""
import json
import sys

from . import bench_rows
from .bench_rows import READ, Row, medians
from .bench_worker import Worker

DEPTH = 64  # calls in flight, whatever they are spread over
CONNECTIONS = [1, 8, 64]
DISKS = [1, 16, 100]
SERVERS = ["rekindle", "ganesha"]
LOADS = {"READ 4 KiB random": f"{READ} rand --bs 4096", "GETATTR": "--op getattr"}
ROWS = [Row(f"{name}, {count} connection{'s' * (count > 1)}", "read", f"{load} --conns {count} --qd {DEPTH // count}")
        for name, load in LOADS.items() for count in CONNECTIONS]


def run(given, folder):
    bench_rows.make_image(folder / "disk.raw", given.mib)
    rows = [row for row in ROWS if given.wants(row.name)]
    if rows:
        results = bench_rows.measure(rows, SERVERS, given, folder)
        bench_rows.report(results, rows, SERVERS, given)
    if given.wants("disks"):
        report(disks(given, folder), given)


def disks(given, folder):
    """For each number of disks, what was measured."""
    worker = Worker("disks", folder / "disks", folder / "disk.raw")
    try:
        return [of_disks(worker, count, given) for count in DISKS]
    finally:
        worker.end()


def of_disks(worker, count, given):
    """Reads by one client a disk, and to compare, by as many clients of one disk."""
    worker.ask("grow", count)
    measured = {"disks": count, "attached": worker.ask("memory")}
    worker.ask("measure", "disk0", bench_rows.WHOLE_FILE)
    arguments = f"{READ} rand --bs 4096 --qd {max(1, DEPTH // count)}"
    results = {}
    for number in range(given.rounds):
        for over in bench_rows.turned(sorted({count, 1}), number):
            result = worker.ask("spread", count, over, arguments, given.secs)
            if number or given.rounds == 1:
                results.setdefault(over, []).append(result)
    print(f"bench: {count} of {DISKS[-1]} disks done", file=sys.stderr, flush=True)
    keys = (*results[count][0],)
    measured |= {"over_all": medians(results[count], keys), "over_one": medians(results[1], keys), "read": worker.ask("memory")}
    return measured


def report(measured, given):
    print(f"\n{'READ 4 KiB random, one client a disk':38}{'clients x depth':>16}{'calls/s':>10}{'p50 us':>9}{'p99 us':>9}{'/s a core':>11}"
          f"{'of one disk/s':>15}{'p50 us':>9}{'p99 us':>9}{'RSS MiB':>9}{'read':>7}{'cache':>7}")
    for one in measured:
        every, single = one["over_all"], one["over_one"]
        name = f"{one['disks']} disk{'s' * (one['disks'] > 1)}"
        shape = f"{one['disks']} x {max(1, DEPTH // one['disks'])}"
        print(f"{name:38}{shape:>16}{every['iops']:>10,.0f}{every['p50_us']:>9,.0f}{every['p99_us']:>9,.0f}{every['calls_per_cpu_second']:>11,.0f}"
              f"{single['iops']:>15,.0f}{single['p50_us']:>9,.0f}{single['p99_us']:>9,.0f}"
              f"{one['attached']['rss_mib']:>9,}{one['read']['rss_mib']:>7,}{one['read']['cache_mib']:>7,}")
    print("of one disk: as many clients, all of them on the first disk; RSS: of the daemon, with the disks attached, and once they were read; "
          "cache: of that, cached blocks\n")
    for one in measured:
        print(json.dumps(one))
