"""The real `rekindle` as a process: started, waited for, killed, and its log read."""
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path


BAD = re.compile(r'"level":"(WARN|ERROR)"|panicked at')  # JSON lines, as they are written to a file
READY_SECONDS = 60


def target_dir():
    return Path(os.environ.get("CARGO_TARGET_DIR") or Path.home() / ".cache" / "rekindle-target")


def binary():
    """The daemon's path: REKINDLE_BINARY, or what scripts/demo and scripts/test build."""
    if given := os.environ.get("REKINDLE_BINARY"):
        return Path(given)
    return target_dir() / "debug" / "rekindle"


class CommandFailed(Exception):
    def __init__(self, arguments, status, stderr):
        super().__init__(f"rekindle {' '.join(map(str, arguments))}: status {status}: {stderr.strip()}")
        self.status, self.stderr = status, stderr


class Daemon:
    """`rekindle serve` over a state directory. A context: ended by SIGTERM, then its log must hold no WARN or ERROR.

    `allowed` are patterns of log lines that the story expects.
    """

    def __init__(self, state_dir, config=None, allowed=(), console=("127.0.0.1", 8480)):
        self.state_dir = Path(state_dir)
        self.config, self.allowed, self.console = config, list(allowed), console
        self.log = self.state_dir.with_name(self.state_dir.name + ".log")
        self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if self.process and self.process.poll() is None:
            status = self.stop()
            if kind is None and status:
                raise RuntimeError(f"rekindle ended with status {status}\n{self.tail()}")
        if kind is None:
            self.check_log()

    def start(self):
        """Starts it and returns once /readyz says yes."""
        where = ["--config", self.config] if self.config else ["--state-dir", self.state_dir]
        with open(self.log, "ab") as log:
            # It ends with tests/netns at the latest. (PDEATHSIG would not do: it is sent when the *thread* that started it ends.)
            self.process = subprocess.Popen([binary(), "serve", *where], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + READY_SECONDS
        while not self.ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"rekindle ended with status {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > until:
                raise RuntimeError(f"rekindle not ready after {READY_SECONDS} s\n{self.tail()}")
            time.sleep(0.01)
        return self

    def kill(self):
        """SIGKILL: no goodbye, as a crash. The state directory stays as it is at that moment."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=60):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._request("GET", "/readyz")[0] == 200
        return False

    def api(self, method, path, body=None):
        """A call of the API; raises unless the answer is 2xx."""
        status, text = self._request(method, f"/api/v1/{path}", body)
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: {status} {text}")
        return json.loads(text) if text else None

    def _request(self, method, path, body=None):
        connection = http.client.HTTPConnection(*self.console, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self.token()}"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def token(self):
        return (self.state_dir / "admin-token").read_text().strip()

    def cli(self, *arguments):
        """Runs `rekindle ARG...` against this daemon with --json; what it printed, parsed."""
        return json.loads(self.command(*arguments, "--json"))

    def ingest(self, source, *arguments):
        """Reads a VM into the daemon's repository, as a command of its own; the report."""
        where = ["--config", self.config] if self.config else ["--state-dir", self.state_dir]
        return self.cli("ingest", source, *where, *arguments)

    def command(self, *arguments):
        """Runs `rekindle ARG...` and returns its output; raises CommandFailed with a non-zero status."""
        environment = dict(os.environ, REKINDLE_URL=f"http://{self.console[0]}:{self.console[1]}")
        with contextlib.suppress(OSError):
            environment["REKINDLE_TOKEN"] = self.token()
        done = subprocess.run([binary(), *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise CommandFailed(arguments, done.returncode, done.stderr)
        return done.stdout

    def metrics(self):
        """What /metrics says: the values by the names, labels and all, without `rekindle_` and a counter's `_total`."""
        status, text = self._request("GET", "/metrics")
        if status != 200:
            raise RuntimeError(f"GET /metrics: {status} {text}")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {re.sub(r"^rekindle_|_total(?=\{|$)|\{\}$", "", name): float(value) for name, _, value in lines}

    def job(self, job_id):
        return self.api("GET", f"jobs/{job_id}")

    def until_state(self, job_id, *states, timeout=300):
        """Waits until the job is in one of the states; raises at once if it ends in another."""
        until = time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if job["state"] in states:
                return job
            if job["state"] in ("completed", "cancelled", "failed", "stuck") or time.monotonic() > until:
                raise RuntimeError(f"job {job_id} is {job['state']}, wanted {' or '.join(states)}: {json.dumps(job.get('error'))}\n{self.tail()}")
            time.sleep(0.05)

    def lines(self):
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def tail(self, count=15):
        return "\n".join(f"  | {line}" for line in self.lines()[-count:])

    def check_log(self):
        """The log is an output: raises on a WARN or ERROR line that the story did not list."""
        bad = [line for line in self.lines() if BAD.search(line) and not any(re.search(allowed, line) for allowed in self.allowed)]
        if bad:
            raise RuntimeError("lines in the log that were not expected:\n" + "\n".join(f"  | {line}" for line in bad[:20]))

    def descriptors(self):
        """What the process's file descriptors are."""
        held = []
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.append(os.readlink(entry))
        return held

    def open_files(self):
        """What the process holds open below the state directory, for the check that nothing is left."""
        return [path for path in self.descriptors() if path.startswith(str(self.state_dir))]

    def memory(self, what="VmRSS"):
        """A line of /proc/PID/status, in bytes: VmRSS is what it takes now, VmHWM the most that was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE).group(1)) << 10
