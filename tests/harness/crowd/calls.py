"""Calls that ask for what must not be: each is answered by its status, and changes nothing."""
import os
import struct
from pathlib import Path

from .. import nfs3
from ..nfs3 import NFS, STALE, opaque
from ..recovery import BLOCK
from ..stories import expect
from . import CREATE, GETATTR, LOOKUP, MKDIR, READ, REMOVE, RENAME, RMDIR, SETATTR, UNSET, WRITE, connect, must_be, phase_time

NOENT, ACCES, EXIST, INVAL, FBIG, NAMETOOLONG, BADHANDLE = 2, 13, 17, 22, 27, 63, 10001
GARBAGE = 4  # accept_stat: the arguments cannot be read


def handles(world):
    """Of another export, with flipped bits, of other lengths, of a removed file."""
    theirs, count = world.foreign, 0
    spliced = world.handle[:16] + theirs[16:]
    for _ in phase_time():
        for procedure, more in [(GETATTR, b""), (LOOKUP, opaque(b"x")), (READ, bytes(12)), (WRITE, bytes(16) + opaque(b""))]:
            must_be("a handle of another export", world.status(procedure, more, theirs), ACCES)
            must_be("a handle of two halves", world.status(procedure, more, spliced), BADHANDLE)
        for bit in range(len(world.handle) * 8):
            forged = bytearray(world.handle)
            forged[bit // 8] ^= 1 << bit % 8
            must_be(f"a handle with bit {bit} flipped", world.status(READ, bytes(12), bytes(forged)), BADHANDLE)
        for length in [0, 1, 31, 33, 64]:
            must_be(f"a handle of {length} bytes", world.status(GETATTR, b"", bytes(length)), BADHANDLE)
        removed_file(world)
        count += 1
    try:
        must_be("a handle of 65 bytes", world.status(GETATTR, b"", bytes(65)), "nothing")
    except nfs3.Refused as error:
        must_be("a handle of 65 bytes", error.status, GARBAGE)
    return f"{count} rounds"


def removed_file(world):
    name = world.name()
    handle = world.create(name)
    must_be("a WRITE to a new file", world.client.write(handle, 0, b"gone")[0], 4)
    must_be("REMOVE", world.status(REMOVE, opaque(name)), 0)
    for what, procedure, more in [("GETATTR", GETATTR, b""), ("READ", READ, struct.pack(">QI", 0, 4)),
                                  ("WRITE", WRITE, struct.pack(">QII", 0, 4, 2) + opaque(b"back"))]:
        must_be(f"{what} of a removed file", world.status(procedure, more, handle), STALE)


def names(world):
    """Names that reach out of the folder, or that no file system takes."""
    escape = f"rekindle-escape-{os.getpid()}".encode()
    bad = {b"": [INVAL], b".": [INVAL, EXIST], b"..": [INVAL, EXIST], b"../" + escape: [INVAL], b"/tmp/" + escape: [INVAL],
           b"../" * 20 + b"tmp/" + escape: [INVAL], escape + b"/x": [INVAL], escape + b"\0x": [INVAL], b"n" * 256: [NAMETOOLONG]}
    fine, count = world.name(), 0
    world.create(fine)
    folder = opaque(world.client.root)
    for _ in phase_time():
        for name, wanted in bad.items():
            wire = opaque(name)
            for what, procedure, arguments in [("CREATE", CREATE, wire + struct.pack(">I", 0) + UNSET), ("MKDIR", MKDIR, wire + UNSET),
                                               ("REMOVE", REMOVE, wire), ("RMDIR", RMDIR, wire),
                                               ("RENAME from", RENAME, wire + folder + opaque(fine)),
                                               ("RENAME to", RENAME, opaque(fine) + folder + wire)]:
                must_be(f"{what} {name[:40]!r}", world.status(procedure, arguments), *wanted)
                count += 1
            known = {b".": 0, b"..": 0, b"n" * 256: NAMETOOLONG}
            must_be(f"LOOKUP {name[:40]!r}", world.status(LOOKUP, wire), known.get(name, NOENT))
    expect("the root's parent is the root", world.client.lookup("..") == world.client.root)
    must_be("REMOVE of the file that had a good name", world.status(REMOVE, opaque(fine)), 0)
    mount_paths(world)
    reach = [path for top in [world.daemon.state_dir.parent, Path("/tmp")] for path in top.rglob(f"*{escape.decode()}*")]
    expect("nothing was made anywhere", not reach and not Path("/", escape.decode()).exists())
    return f"{count} calls"


def mount_paths(world):
    for path in [f"{world.recovered.export}/..", f"{world.recovered.export}/../..", "/", "", "/etc", "/.."]:
        try:
            nfs3.Client(path)
        except nfs3.Refused as error:
            must_be(f"MOUNT {path!r}", error.status, NOENT)
            continue
        raise AssertionError(f"MOUNT {path!r} is granted, expected {NOENT}")


def replays(world):
    """A call that comes again gets its first reply, to the byte, over its connection or another, and is not done again."""
    before, count = world.daemon.metrics()["nfs_replayed"], 0
    for _ in phase_time():
        name, xid = world.name(), world.random.randrange(1 << 31, 1 << 32)
        root = opaque(world.client.root)
        create = nfs3.message(xid, NFS, CREATE, root + opaque(name) + struct.pack(">I", 2) + world.random.randbytes(8))
        remove = nfs3.message(xid + 1, NFS, REMOVE, root + opaque(name))
        made = must_replay(world, create, "CREATE")
        must_be("the exclusive CREATE", status_of(made), 0)
        gone = must_replay(world, remove, "REMOVE")
        must_be("REMOVE", status_of(gone), 0)
        must_be("REMOVE by another call", world.status(REMOVE, opaque(name)), NOENT)
        if world.client.connection.exchange(create) != made:
            raise AssertionError("CREATE came again after the REMOVE and got another reply, expected its first")
        must_be("LOOKUP after that", world.status(LOOKUP, opaque(name)), NOENT)
        count += 1
    replayed = world.daemon.metrics()["nfs_replayed"] - before
    expect(f"{replayed:.0f} calls were answered from what was kept, {5 * count} expected", replayed == 5 * count)
    return f"{count} files"


def must_replay(world, body, what):
    first = world.client.connection.exchange(body)
    later = connect()
    for how, connection in [("its connection", world.client.connection), ("another connection", later)]:
        if (found := connection.exchange(body)) != first:
            raise AssertionError(f"{what} over {how} again has another reply: {found.hex()}, expected {first.hex()}")
    later.close()
    return first


def status_of(reply):
    return struct.unpack_from(">I", reply, 24)[0]


def offsets(world):
    """READs, WRITEs and sizes at and beyond 2^63, of a disk and of a plain file."""
    name, count = world.name(), 0
    plain = world.create(name)
    world.client.write(plain, 0, b"a few bytes")
    sizes = {handle: world.client.size(handle) for handle in [world.handle, plain]}
    for _ in phase_time():
        for handle, size in sizes.items():
            for offset in [1 << 63, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - BLOCK]:
                for length in [0, 1, BLOCK, (1 << 32) - 1]:
                    must_be(f"READ of {length} at {offset}", read_at(world, handle, offset, length), (0, 0, 1, b""))
                for data in [b"x", bytes(BLOCK)]:
                    arguments = struct.pack(">QII", offset, len(data), 2) + opaque(data)
                    must_be(f"WRITE of {len(data)} at {offset}", world.status(WRITE, arguments, handle), FBIG)
                resize = struct.pack(">IIIIQIII", 0, 0, 0, 1, offset, 0, 0, 0)
                must_be(f"SETATTR of size {offset}", world.status(SETATTR, resize, handle), FBIG, INVAL)
            must_be("the size after that", world.client.size(handle), size)
            count += 1
    must_be("REMOVE", world.status(REMOVE, opaque(name)), 0)
    return f"{count} rounds"


def read_at(world, handle, offset, length):
    """Status, count, eof and the data of a READ."""
    answer = world.client.connection.call(NFS, READ, opaque(handle) + struct.pack(">QI", offset, length))
    status = answer.number()
    answer.attributes()
    return status, *((answer.number(), answer.number(), answer.opaque()) if not status else ())
