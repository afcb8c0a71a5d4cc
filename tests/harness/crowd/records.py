"""What is no record, no call, or has no end (RFC 5531)."""
import socket
import struct

from .. import nfs3
from ..nfs3 import MOUNT, NFS, PORTMAP, opaque
from ..stories import expect, until
from . import CLIENT, GETATTR, NFS_PORT, PORTMAP_PORT, READ, STRANGER, connect, must_be, must_hang_up, phase_time


def garbage(world):
    """Nonsense in good records, and good calls that are cut off or changed: each is answered as RPC has it, or hung up on."""
    good = [nfs3.message(7, NFS, GETATTR, opaque(world.handle)), nfs3.message(7, MOUNT, 1, opaque(b"/none")), nfs3.message(7, PORTMAP, 4),
            nfs3.message(7, NFS, READ, opaque(world.handle) + struct.pack(">QI", 0, 512))]
    before, sent, ended = world.daemon.metrics()["nfs_garbage"], 0, 0
    for _ in phase_time():
        connection = connect(world.random.choice([NFS_PORT, PORTMAP_PORT]), world.random.choice([CLIENT, STRANGER]))
        try:
            for _ in range(20):
                must_answer(connection, nonsense(world.random, good))
                sent += 1
        except nfs3.Silent:
            raise
        except nfs3.Lost:
            ended += 1
        finally:
            connection.close()
    datagrams(world)
    expect("records of garbage are counted", world.daemon.metrics()["nfs_garbage"] > before)
    return f"{sent} answered, {ended} connections ended"


def nonsense(chosen, good):
    kind, body = chosen.randrange(3), bytearray(chosen.choice(good))
    if kind == 0:
        return chosen.randbytes(chosen.randrange(1, 300))
    if kind == 1:
        return body[:chosen.randrange(len(body))]
    for _ in range(chosen.randrange(1, 4)):
        body[chosen.randrange(4, len(body))] ^= 1 << chosen.randrange(8)
    return body


def must_answer(connection, body):
    reply = connection.exchange(body)
    if reply[:4] != body[:4] or reply[4:8] != b"\0\0\0\1":
        raise AssertionError(f"{body.hex()} is answered by what is no reply to it: {reply[:32].hex()}")


def datagrams(world):
    """The same by UDP, where the portmapper is; then it must answer still."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((CLIENT, PORTMAP_PORT))
        udp.settimeout(0.1)
        for _ in range(200):
            udp.send(world.random.randbytes(world.random.randrange(1400)))
        reply = until("the portmapper answers by UDP", lambda: asked_by_udp(udp, 0x600D))
        must_be("GETPORT by UDP", struct.unpack(">I", reply[-4:])[0], NFS_PORT)


def asked_by_udp(udp, xid):
    """Asks for the port of NFS; the reply, if one comes soon. The call may be lost, as the kernel keeps only so many datagrams."""
    udp.send(nfs3.message(xid, PORTMAP, 3, struct.pack(">IIII", *NFS, 6, 0)))
    try:
        while (reply := udp.recv(1024))[:4] != struct.pack(">I", xid):
            pass
        return reply
    except TimeoutError:
        return None


def huge_records(world):
    """Announced with 2 GiB, in one fragment or as the first of more; from a stranger, with 8 KiB."""
    count = 0
    for _ in phase_time():
        for source, mark in [(CLIENT, 0xFFFFFFFF), (CLIENT, 0x7FFFFFFF), (CLIENT, 0x80500000), (STRANGER, 0x80002000)]:
            for port in [NFS_PORT, PORTMAP_PORT]:
                with connect(port, source).socket as wire:
                    wire.sendall(struct.pack(">I", mark) + bytes(256))
                    must_hang_up(wire, f"a record of mark {mark:#x}")
                count += 1
    return f"{count} records"


def endless_fragments(world):
    """A record of one fragment after the other and never the last: of no bytes, of one, of 4 KiB."""
    count = 0
    for _ in phase_time():
        for size in [0, 1, 4096]:
            with connect().socket as wire:
                try:
                    for _ in range(40):
                        wire.sendall(nfs3.record(bytes(size), last=False) * 100)
                except ConnectionError:
                    pass
                must_hang_up(wire, f"a record of more than 1024 fragments of {size} bytes")
            count += 1
    return f"{count} records"
