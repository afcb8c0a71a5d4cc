"""A crowd of hostile clients, kind by kind: what `hostile-clients` lets loose on a daemon.

    records   what is no record, or never ends
    peers     connections without end, that say little, that read nothing
    calls     handles that are not theirs, names that reach out, calls that come again, offsets beyond all files

Each kind is a function of the `World`, goes on for PHASE_SECONDS, raises at an answer that is not the right one, and returns what it did.
"""
import random
import struct
import time

from .. import nfs3
from ..nfs3 import NFS, opaque

CLIENT, OTHER_CLIENT, STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.9"
NFS_PORT, PORTMAP_PORT = 2049, 111
PHASE_SECONDS = 1.5
MIB = 1 << 20
GETATTR, SETATTR, LOOKUP, READ, WRITE, CREATE, MKDIR, REMOVE, RMDIR, RENAME = 1, 2, 3, 6, 7, 8, 9, 12, 13, 14
UNSET = bytes(24)  # sattr3 that sets nothing


class World:
    """What the crowd attacks, and a client of its own to look with."""

    def __init__(self, daemon, recovered, other, seed):
        self.daemon, self.recovered = daemon, recovered
        with nfs3.Client(other.export, source=OTHER_CLIENT) as theirs:
            self.foreign = theirs.root
        self.random = random.Random(seed)
        self.client = nfs3.Client(recovered.export)
        self.handle = self.client.lookup(recovered.path())
        self.slow = None
        self.names = 0

    def status(self, procedure, arguments, handle=None):
        """What an NFS call is answered by: an nfsstat3."""
        answer = self.client.connection.call(NFS, procedure, opaque(self.client.root if handle is None else handle) + arguments)
        return answer.number()

    def name(self):
        self.names += 1
        return f"hostile-{self.names}".encode()

    def create(self, name):
        """Makes a file and returns its handle."""
        answer = self.client.connection.call(NFS, CREATE, opaque(self.client.root) + opaque(name) + struct.pack(">I", 1) + UNSET)
        answer.status(f"create {name}")
        answer.skip(4)
        return answer.opaque()

    def own_connections(self):
        """Those of the bystander, of `client`, and of the slow ones that are left."""
        return 2 + (self.slow.left() if self.slow else 0)

    def is_quiet(self):
        found = self.daemon.metrics()
        return found["nfs_connections"] == self.own_connections() and not found["nfs_waiting_calls"]


def phase_time():
    """Rounds for the length of a phase, at least one."""
    end = time.monotonic() + PHASE_SECONDS
    yield
    while time.monotonic() < end:
        yield


def connect(port=NFS_PORT, source=CLIENT):
    """A connection on which nothing is waited for longer than 10 s."""
    return nfs3.Connection(port, source=source, timeout=10)


def must_be(what, found, *wanted):
    if found not in wanted:
        raise AssertionError(f"{what} is answered by {found}, expected {' or '.join(map(str, wanted))}")


def must_hang_up(wire, what):
    """The server must end the connection, without a word."""
    try:
        if wire.recv(1):
            raise AssertionError(f"{what} is answered, expected the connection to be ended")
    except TimeoutError:
        raise AssertionError(f"{what} is waited for, expected the connection to be ended") from None
    except ConnectionError:
        pass
