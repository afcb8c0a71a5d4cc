"""What scripts/bench measures: Rekindle, NFS-Ganesha, a minimal nfsserve server, and loopback TCP by itself.

Each is a context that serves while it lasts. Run as a program by bench_worker, inside tests/netns.
"""
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from . import bench_worker, recovery
from .daemon import Daemon

RIG = bench_worker.ROOT.parent / "shared" / "rig"
MIB = 1 << 20
# What clients that are started together may take until all of them have mounted.
LEAD_SECONDS = 1


def cpu_seconds(pid):
    """What all threads of the process have used, in user mode and in the kernel. In steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bytes_copied(before, after):
    """How often each byte was copied that READs were answered with, between two looks at the daemon's metrics; None without hits.

    A RAM hit goes from the cached block to the socket: one copy. A ring hit goes from the page cache to a buffer, and from there to the
    socket: two. All hits of a row are of one length, so that they can be counted instead of their bytes.
    """
    ram, ring = (after[hits] - before[hits] for hits in ["cache_ram_hits", "cache_ring_hits"])
    return round((ram + 2 * ring) / (ram + ring), 3) if ram + ring else None


def nfsbench(url, arguments):
    return [os.environ["NFSBENCH"], url, *arguments.split()]


class Server:
    """`urls` are by what the file is for, `pid` is the process that serves."""

    def __init__(self, folder):
        self.image = folder / "disk.raw"
        self.urls, self.pid = {}, None

    def counters(self):
        """The server's own, if it has any."""
        return None

    def measure(self, file, arguments):
        """What nfsbench says, with `calls_per_cpu_second`, and what the server's counters tell of READs."""
        before, used = self.counters(), cpu_seconds(self.pid)
        done = subprocess.run(nfsbench(self.urls[file], arguments), check=True, stdout=subprocess.PIPE, text=True)
        used = cpu_seconds(self.pid) - used
        result = json.loads(done.stdout)
        result["calls_per_cpu_second"] = round(result["iops"] * result["secs"] / max(used, 0.01))
        if before and result["op"] == "read":
            after = self.counters()
            result["bytes_copied"] = bytes_copied(before, after)
            result["misses"] = after["cache_misses"] - before["cache_misses"]
        return result


class Rekindle(Server):
    AT_START = ["read", "write"]

    def __init__(self, folder, config=None):
        super().__init__(folder)
        self.daemon = Daemon(folder / "state", config)

    def __enter__(self):
        self.daemon.ingest(self.image, "--name", "bench")
        self.daemon.start()
        self.pid = self.daemon.process.pid
        for name in self.AT_START:
            self.attach(name)

    def attach(self, name, **more):
        self.urls[name] = recovery.recover(self.daemon, "bench", name=name, **more).url() + "?nfsport=2049&mountport=2049"

    def counters(self):
        return self.daemon.metrics()

    def __exit__(self, *failure):
        self.daemon.__exit__(*failure)


class Disks(Rekindle):
    """Rekindle with live mounts of one point: `disk0`, `disk1` and so on."""

    AT_START = []

    def __init__(self, folder):
        config = folder / "rekindle.toml"
        state = f'state_dir = "{folder / "state"}"\n'
        config.write_text(state + "[recovery]\nmax_active = 200\nreserve_min_bytes = 0\nreserve_percent_of_vm = 0\n")
        super().__init__(folder, config)

    def grow(self, count):
        """Attaches disks until there are `count`."""
        for number in range(len(self.urls), count):
            self.attach(f"disk{number}", mode="live_mount")

    def memory(self):
        """Resident bytes of the daemon, and how many of them are cached blocks, in MiB."""
        cached = self.counters()["cache_ram_bytes"]
        return {"rss_mib": round(self.daemon.memory() / MIB), "cache_mib": round(cached / MIB)}

    def spread(self, clients, disks, arguments, seconds):
        """So many nfsbench at once, over so many disks.

        The rate is the daemon's own count of calls while all of them run; latencies are the middle one of the clients'.
        """
        whole = f"{arguments} --secs {seconds + 2 * LEAD_SECONDS}"
        each = [nfsbench(self.urls[f"disk{number % disks}"], f"{whole} --seed {1000 + number}") for number in range(clients)]
        running = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in each]
        time.sleep(LEAD_SECONDS)
        before = self.look()
        time.sleep(seconds)
        after = self.look()
        if any(one.poll() is not None for one in running):
            raise RuntimeError("a client ended too early")
        results = [json.loads(one.communicate()[0]) for one in running]
        if any(one.returncode or result["errors"] for one, result in zip(running, results)):
            raise RuntimeError("a client met errors")
        now, calls, used = (b - a for a, b in zip(before, after))
        return {
            "iops": round(calls / now),
            "calls_per_cpu_second": round(calls / max(used, 0.01)),
            "p50_us": statistics.median(one["p50_us"] for one in results),
            "p99_us": statistics.median(one["p99_us"] for one in results),
            "p99_us_of_the_slowest": max(one["p99_us"] for one in results),
        }

    def look(self):
        """Time, calls so far, CPU seconds so far."""
        return time.monotonic(), self.counters()["nfs_calls"], cpu_seconds(self.pid)


class OfFolder(Server):
    """A server of a folder with the two files in it, that says "ready"."""

    def __init__(self, folder):
        super().__init__(folder)
        self.export = folder / "export"

    def __enter__(self):
        self.export.mkdir()
        for what in ["read", "write"]:
            subprocess.run(["cp", "--reflink=never", "--sparse=never", self.image, self.export / what], check=True)
        os.sync()
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, text=True)
        while "ready" not in (line := self.process.stdout.readline()):
            if not line:
                raise RuntimeError(f"{type(self).__name__} did not start")
        self.urls = {what: self.url(what) for what in ["read", "write"]}
        self.pid = self.serving()

    def serving(self):
        return self.process.pid

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Ganesha(OfFolder):
    def command(self):
        return [RIG / "serve-ganesha", self.export, "2049", "2050"]

    def url(self, what):
        return f"nfs://127.0.0.1/export/{what}?nfsport=2049&mountport=2050"

    def serving(self):
        return int((self.export.with_name("export.ganesha") / "pid").read_text())


class Nfsserve(OfFolder):
    def command(self):
        return [os.environ["NFSSERVE_BASELINE"], self.export, "2049"]

    def url(self, what):
        return f"nfs://127.0.0.1/export/{what}?nfsport=2049&mountport=2049"


class Loopback:
    """TCP over this machine's loopback with nothing behind: what any server of it is bounded by."""

    def __init__(self, _):
        pass

    def __enter__(self):
        self.process = subprocess.Popen(["iperf3", "--server", "--forceflush"], stdout=subprocess.PIPE, text=True)
        while "listening" not in (line := self.process.stdout.readline()):
            if not line:
                raise RuntimeError("iperf3 did not start")

    def measure(self, seconds):
        """One stream."""
        command = ["iperf3", "--client", "127.0.0.1", "--time", str(math.ceil(seconds)), "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return {"mib_s": round(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8 / MIB)}

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


KINDS = {"rekindle": Rekindle, "disks": Disks, "ganesha": Ganesha, "nfsserve": Nfsserve, "loopback": Loopback}

if __name__ == "__main__":
    bench_worker.obey(KINDS[sys.argv[1]](Path(sys.argv[2])))
