"""A server to be measured, in a process and a network of its own, which takes orders: one line of JSON each way."""
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Worker:
    """The side that gives orders. `kind` names a class of bench_servers; an order is a method of it."""

    def __init__(self, kind, folder, image=None):
        folder.mkdir()
        if image:
            os.link(image, folder / "disk.raw")
        self.kind = kind
        command = [ROOT / "tests" / "netns", sys.executable, "-m", "harness.bench_servers", kind, folder]
        self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()  # it serves

    def ask(self, order, *arguments):
        self.process.stdin.write(json.dumps([order, arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind} could not be measured: see above")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        if self.process.wait(60):
            print(f"bench: {self.kind} did not end well: see above", file=sys.stderr)


def obey(server):
    """The side that has the server (a context): carries orders out until there are no more."""
    with server:
        print("{}", flush=True)
        for line in sys.stdin:
            order, arguments = json.loads(line)
            print(json.dumps(getattr(server, order)(*arguments)), flush=True)
