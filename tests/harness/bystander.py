"""A well-behaved client that must notice nothing: when it is told to, it READs 4 KiB at a time, one after the other, and checks each.

It is a process of its own, so that what the story does meanwhile is not in its times.
"""
import contextlib
import multiprocessing
import random
import time

from . import nfs3, recovery

# Generous: this tells a server that hangs from a machine that is busy. A datastore whose heartbeat takes longer counts as slow to ESXi.
HANG_SECONDS = 5
PATIENCE_SECONDS = 20


class Bystander:
    """Reads blocks of the test disk `disk`, `blocks` of them from its beginning on, of the server at `port`. A context."""

    def __init__(self, recovered, disk, blocks, port=2049):
        self.pipe, theirs = multiprocessing.Pipe()
        work = (self.pipe, theirs, recovered, disk, blocks, port)
        self.process = multiprocessing.get_context("fork").Process(target=_read_on, args=work, daemon=True)
        self.process.start()
        theirs.close()
        self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def during(self, act):
        """Reads while `act` does what it does: that, and the seconds that each READ took, shortest first.

        Raises if one failed, hung or had a wrong byte.
        """
        self._tell("read")
        did = act()
        self._tell("rest")
        times = sorted(self._answer())
        if times and times[-1] > HANG_SECONDS:
            raise AssertionError(f"a READ took {times[-1]:.2f} s, more than the {HANG_SECONDS} s that a bystander may wait")
        return did, times

    def _tell(self, word):
        with contextlib.suppress(BrokenPipeError):  # it has ended, and told why
            self.pipe.send(word)

    def _answer(self):
        if not self.pipe.poll(PATIENCE_SECONDS):
            raise AssertionError(f"the bystander's READ is not answered in {PATIENCE_SECONDS} s")
        answer = self.pipe.recv()
        if isinstance(answer, str):
            raise AssertionError(f"the bystander is not served: {answer}")
        return answer


def at(times, percent):
    """A percentile of sorted times."""
    return times[min(len(times) * percent // 100, len(times) - 1)]


def _read_on(ours, pipe, recovered, disk, blocks, port):
    ours.close()
    try:
        with nfs3.Client(recovered.export, port) as client:
            handle = client.lookup(recovered.path())
            pipe.send([])
            _read_and_tell(pipe, lambda number: _timed(client, handle, disk, number), blocks)
    except (nfs3.Refused, nfs3.Lost, RuntimeError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _read_and_tell(pipe, read, blocks):
    chosen = random.Random(1)
    while pipe.recv():
        times = []
        while not (times and pipe.poll()):
            times.append(read(chosen.randrange(blocks)))
        pipe.recv()
        pipe.send(times)


def _timed(client, handle, disk, number):
    begun = time.perf_counter()
    found = client.read(handle, number * recovery.BLOCK, recovery.BLOCK)
    took = time.perf_counter() - begun
    if found != recovery.original(disk, number):
        raise RuntimeError(f"block {number} has wrong bytes: {found[:32]!r}")
    return took
