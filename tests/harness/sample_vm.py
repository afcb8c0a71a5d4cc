"""The sample VM once it runs: what its init (tests/vm/init) says on the serial console, and what it is told there."""
import re

from .qemu import Machine


class Vm(Machine):
    """The sample VM running off `disk`: a path or an nfs:// URL of a raw (flat) disk."""

    memory = 512  # MiB

    def __init__(self, disk, on_console=None):
        drive = f"file={str(disk).replace(',', ',,')},format=raw,if=virtio,cache=writeback"
        super().__init__(["-nic", "none", "-drive", drive], memory=self.memory, on_console=on_console)
        self.boots = self.acknowledged = None
        self.id = None

    def until_up(self, timeout=180):
        up = self.expect(r"^VM up boots=(\d+) id=(\S+) acknowledged=(\d+)", timeout)
        self.boots, self.id, self.acknowledged = int(up[1]), up[2], int(up[3])
        return self

    def until_written(self, more, timeout=120):
        """Waits until `more` records were written since the last one that was looked at."""
        for _ in range(more):
            self.acknowledged = int(self.expect(r"^VM wrote (\d+)", timeout)[1])
        return self.acknowledged

    def stop(self, timeout=120):
        self.send("stop")
        self.acknowledged = int(self.expect(r"^VM stopped at (\d+)", timeout)[1])
        return self.acknowledged

    def check(self, what, timeout=180):
        """`records` or `system`: has the VM read it from its disk again. The line that it answered; raises if it is bad."""
        self.send(f"check-{what}")
        answer = self.expect(rf"^VM {what} (good|bad).*", timeout)
        if answer[1] != "good":
            raise RuntimeError(answer[0])
        return answer[0].removeprefix("VM ")

    def off(self, timeout=60):
        self.send("off")
        self.wait(timeout)

    def seconds_to(self, pattern):
        return next(at for at, text in self.console if re.search(pattern, text))
