"""A VM of the story `day`: a mixed load on its disk, by a client that waits for its server as a hard mount does, every byte compared."""
import hashlib
import random
import threading
import time

from . import nfs3
from .recovery import BLOCK

MIB = 64
BLOCKS = MIB << 8
HOT = 16 << 8
MOST = 16  # Blocks of one call.
JUKEBOX, NO_SPACE = 10008, 28
PATIENCE_SECONDS = 180


def noise(disk, number, generation):
    """What belongs at a block: in a backup (generation 0) every eighth MiB is a hole."""
    if not generation and (number >> 8) % 8 == 7:
        return bytes(BLOCK)
    return hashlib.shake_128(b"%d %d %d" % (disk, number, generation)).digest(BLOCK)


def write_image(path, disk):
    with open(path, "wb") as file:
        for number in range(BLOCKS):
            file.write(noise(disk, number, 0))
    return path


class Guest(threading.Thread):
    """Reads and writes until it is told to stop. Who holds its `lock` has its disk at rest.

    `backup` is the disk that its backup is of; clones of a template have one.
    """

    def __init__(self, number, backup, seed):
        super().__init__(daemon=True)
        self.number, self.backup = number, backup
        self.random = random.Random(f"{seed}-{number}")
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.error = None
        self.calls = self.writes = self.refused = self.reconnects = 0
        self.generation = 0
        self.client = None

    def attach(self, recovered, written=None):
        """Goes on with that job's disk, on which `written` was written: generations by block."""
        self.recovered = recovered
        self.written = dict(written or {})
        self.client = nfs3.Client(recovered.export)
        self.handle = self.client.lookup(recovered.path())
        self.keeps = 0

    def detach(self):
        self.client.close()

    def run(self):
        try:
            while not self.over.is_set():
                with self.lock:
                    self.once()
        except Exception as error:
            self.error = error

    def stop(self):
        self.over.set()
        self.join()
        if self.error:
            raise self.error

    def once(self):
        """One thing that a guest does: mostly small reads of what it read before."""
        kind = self.random.random()
        if kind < 0.55:
            self.check(*self.somewhere(HOT))
        elif kind < 0.70:
            self.check(*self.somewhere(BLOCKS))
        elif kind < 0.95:
            self.put(*self.somewhere(BLOCKS))
        elif kind < 0.98:
            start = self.random.randrange(MIB - 8) << 8
            for first in range(start, start + (8 << 8), 64):
                self.check(first, 64)
        else:
            start = self.random.randrange(MIB) << 8
            for first in range(start, start + 256, MOST):
                self.put(first, MOST)

    def somewhere(self, below):
        count = self.random.randint(1, MOST)
        return self.random.randrange(below - count), count

    def wanted(self, first, count):
        pieces = []
        for number in range(first, first + count):
            generation = self.written.get(number, 0)
            pieces.append(noise(self.number if generation else self.backup, number, generation))
        return b"".join(pieces)

    def check(self, first, count):
        found = self.patiently(lambda: self.client.read(self.handle, first * BLOCK, count * BLOCK))
        if found != self.wanted(first, count):
            raise AssertionError(f"VM {self.number}: wrong bytes in the {count} blocks from {first} on")

    def check_all(self):
        for first in range(0, BLOCKS, 64):
            self.check(first, 64)

    def put(self, first, count):
        """Writes. What is refused because there is no space was not written, unless it was sent before without an answer."""
        self.generation += 1
        data = b"".join(noise(self.number, number, self.generation) for number in range(first, first + count))
        again = False
        while True:
            try:
                self.patiently(lambda: self.client.write(self.handle, first * BLOCK, data))
                break
            except nfs3.Refused as error:
                if error.status != NO_SPACE:
                    raise
                self.refused += 1
                again = again or self.lost
                if not again:
                    self.check(first, count)
                    return
                self.over.wait(0.1)
        self.writes += 1
        for number in range(first, first + count):
            self.written[number] = self.generation

    def patiently(self, call):
        """As a hard mount: again over a new connection where the old one broke, and later where the server says so."""
        until = time.monotonic() + PATIENCE_SECONDS
        self.lost = False
        while True:
            try:
                answer = call()
                self.calls += 1
                return answer
            except nfs3.Refused as error:
                if error.status != JUKEBOX or time.monotonic() > until:
                    raise
            except nfs3.Lost:
                if time.monotonic() > until:
                    raise
                self.lost = True
                self.reconnect()
            self.over.wait(0.05)

    def reconnect(self):
        self.client.close()
        try:
            self.client.connect()
            self.reconnects += 1
        except nfs3.Lost:
            pass
