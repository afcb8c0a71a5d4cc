"""Connections: too many, that say a byte now and then, that read nothing."""
import select
import socket
import struct
import threading
import time
from pathlib import Path

from .. import nfs3
from ..nfs3 import NFS, opaque
from ..stories import expect, until
from . import CLIENT, MIB, NFS_PORT, READ, WRITE, connect, phase_time

CONNECTIONS = 10_000
# Of crates/nfs: `Limits` and `server/clients.rs`.
OF_CLIENT, OF_STRANGERS, RECORD_SECONDS, TICK_SECONDS = 256, 256, 30, 5
REPLY_BYTES, ALL_UNSENT, LEAST_UNSENT, MOST_UNSENT = 512 << 10, 64 << 20, 128 << 10, 2 << 20
# What the kernel takes beyond that: one more piece of at most 64 KiB, and what the peer's window let out.
UNSENT_MORE = 192 << 10
SLOW_EACH, DEAF, ASKED = 40, 200, 500


class Slow(threading.Thread):
    """Slowloris: connections that send a byte of a call now and then. The server must end each in the time that a call may take."""

    PAUSE_SECONDS = 0.3

    def __init__(self, sources):
        super().__init__(daemon=True)
        # At that pace this call takes five minutes.
        self.bytes = nfs3.record(nfs3.message(1, NFS, WRITE, bytes(1000)))
        self.open = {connect(source=source).socket: 0 for source in sources}
        for wire in self.open:
            wire.setblocking(False)
        self.begun, self.ages = time.monotonic(), []

    def left(self):
        return len(self.open)

    def run(self):
        pause = threading.Event()
        while self.open:
            for wire in [wire for wire in list(self.open) if self.is_over(wire)]:
                self.ages.append(time.monotonic() - self.begun)
                del self.open[wire]
                wire.close()
            pause.wait(self.PAUSE_SECONDS)

    def is_over(self, wire):
        try:
            wire.send(self.bytes[self.open[wire]:][:1])
            self.open[wire] += 1
            return wire.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


def slowloris(world):
    """They come once, go on beside all that follows, and are looked at again in the end."""
    if not world.slow:
        world.slow = Slow([CLIENT] * SLOW_EACH + [f"127.9.0.{n % 4 + 1}" for n in range(SLOW_EACH)])
        world.slow.start()
    for _ in phase_time():
        time.sleep(0.1)
    expect("none of them is ended early", world.slow.left() == 2 * SLOW_EACH)
    return f"{2 * SLOW_EACH} connections"


def slow_ones_are_ended(world):
    longest = RECORD_SECONDS + TICK_SECONDS + 5
    until("the server ends the slow connections", lambda: not world.slow.left(), longest)
    ages = world.slow.ages
    expect(f"slow calls were ended after {min(ages):.0f} to {max(ages):.0f} s, {RECORD_SECONDS} to {longest} expected",
           RECORD_SECONDS - 1 <= min(ages) and max(ages) <= longest)


def many_connections(world):
    """The half from strangers, then the other half from the client's own address: bounded, and strangers keep no client out."""
    wires, before = [], world.own_connections()
    try:
        wires += [connect(source=f"127.1.{n % 50}.{n % 100 + 1}").socket for n in range(CONNECTIONS // 2)]
        until_refused(wires, len(wires) - OF_STRANGERS)
        with nfs3.Client(world.recovered.export) as newcomer:
            newcomer.size(world.handle)
        wires += (own := [connect().socket for _ in range(CONNECTIONS // 2)])
        until_refused(own, len(own) - OF_CLIENT)
        found = world.daemon.metrics()["nfs_connections"]
        expect(f"of {len(wires)} connections {found - before:.0f} are kept, {OF_CLIENT + OF_STRANGERS} expected at most with all others",
               found <= OF_CLIENT + OF_STRANGERS)
    finally:
        for wire in wires:
            wire.close()
    return f"{len(wires)} connections"


def until_refused(wires, least):
    """Waits until the server has ended at least so many of them."""
    poll, ended = select.poll(), 0
    for wire in wires:
        poll.register(wire, select.POLLIN)
    end = time.monotonic() + 20
    while ended < least:
        ready = poll.poll(max(0, end - time.monotonic()) * 1000)
        if not ready:
            raise AssertionError(f"{ended} of {len(wires)} connections were refused, expected {least} at least")
        for number, _ in ready:
            poll.unregister(number)
        ended += len(ready)


def deaf_peers(world):
    """Peers that ask for 1 MiB at a time and never read: a window of zero. Each costs the server no more than its bound.

    That holds for the kernel as well, which by itself would take megabytes for each. The server ends them after `send_seconds`, 120,
    which is not waited for.
    """
    mebibytes = world.client.size(world.handle) // MIB
    ask = b"".join(nfs3.record(nfs3.message(n, NFS, READ, opaque(world.handle) + struct.pack(">QI", n % mebibytes * MIB, MIB)))
                   for n in range(ASKED))
    before, most = world.daemon.memory(), 0
    wires = [deaf_peer(ask) for _ in range(DEAF)]
    until(f"replies wait for all of {DEAF} peers", lambda: len(unsent()) >= DEAF)
    for _ in phase_time():
        most = max(most, world.daemon.memory())
        time.sleep(0.05)
    expect("they are held back, not ended", world.daemon.metrics()["nfs_connections"] == world.own_connections() + DEAF)
    # Replies are queued up to REPLY_BYTES, and one more; those of READs refer to the cache's blocks, which may be gone from there.
    bound = DEAF * (REPLY_BYTES + MIB)
    expect(f"they cost {(most - before) / MIB:.0f} MiB, {bound / MIB:.0f} expected at most", most - before <= bound)
    parked = unsent()
    most = sum(max(LEAST_UNSENT, min(MOST_UNSENT, ALL_UNSENT // (n + 1))) + UNSENT_MORE for n in range(DEAF))
    expect(f"the kernel keeps {sum(parked) / MIB:.0f} MiB for them, {most / MIB:.0f} expected at most", sum(parked) <= most)
    for wire in wires:
        wire.close()
    return f"{DEAF} connections, {DEAF * ASKED} READs asked for, {sum(parked) / MIB:.0f} MiB waited in the kernel"


def unsent():
    """How many bytes wait in the kernel for each peer of the NFS port that takes none now (/proc/net/tcp)."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [int(row[4].split(":")[0], 16) for row in rows if int(row[1].split(":")[1], 16) == NFS_PORT]
    return [queue for queue in queues if queue >= LEAST_UNSENT]


def deaf_peer(ask):
    """It sends as much of this as is taken at once."""
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.connect((CLIENT, NFS_PORT))
    wire.setblocking(False)
    try:
        wire.send(ask)
    except BlockingIOError:
        pass
    return wire
