"""An NFSv3 client of a few calls (RFC 1813, RFC 5531), for load and for bad input. One connection, one call at a time."""
import itertools
import random
import socket
import struct

PORTMAP, MOUNT, NFS = (100000, 2), (100005, 3), (100003, 3)
FILE_SYNC = 2
STALE = 70


class Refused(Exception):
    """The server answered with an error; `status` is the protocol's number."""

    def __init__(self, what, status):
        super().__init__(f"{what}: status {status}")
        self.status = status


class Lost(Exception):
    """The connection broke, or was never made."""


class Silent(Lost):
    """No answer came in time."""


def opaque(data):
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def message(xid, program, procedure, arguments=b""):
    """A call as root by AUTH_SYS, without its mark."""
    credentials = struct.pack(">II", 1, 24) + struct.pack(">IIIIII", 0, 4, 0x74657374, 0, 0, 0)  # AUTH_SYS, "test", root
    return struct.pack(">IIIIII", xid, 0, 2, *program, procedure) + credentials + struct.pack(">II", 0, 0) + arguments


def record(body, last=True):
    """One fragment: the mark (RFC 5531 section 11) and what it marks."""
    return struct.pack(">I", last << 31 | len(body)) + body


# Linux, ip(7): a port is chosen at connect, by its peer as well. Chosen at bind, after thousands of connections of before the kernel
# looks for it for milliseconds, at the cost of all that its core does.
IP_BIND_ADDRESS_NO_PORT = 24


def _connected(to, source, timeout):
    wire = socket.socket()
    try:
        wire.settimeout(timeout)
        if source:
            wire.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            wire.bind((source, 0))
        wire.connect(to)
    except BaseException:
        wire.close()
        raise
    return wire


class Connection:
    """Calls one program at one port. Raises Lost when the server goes away."""

    def __init__(self, port, address="127.0.0.1", source=None, timeout=20):
        # As clients do: one that begins at 1 each time seems to send its calls of before again.
        self.xids = itertools.count(random.randrange(1 << 31))
        try:
            self.socket = _connected((address, port), source, timeout)
        except OSError as error:
            raise Lost(str(error)) from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        self.socket.close()

    def call(self, program, procedure, arguments=b"", xid=None):
        """The result of a call that the server accepted, as an Answer. `xid` is given to send a call again."""
        xid = next(self.xids) if xid is None else xid
        answer = Answer(self.exchange(message(xid, program, procedure, arguments)))
        if answer.number() != xid:
            raise RuntimeError("an answer to another call")
        if answer.number() != 1 or answer.number() != 0:
            raise Refused("call denied", answer.number())
        answer.skip(8)  # verifier
        if accepted := answer.number():
            raise Refused("call not accepted", accepted)
        return answer

    def exchange(self, body):
        """The record that answers this one, whatever they are."""
        try:
            self.socket.sendall(record(body))
            return self._record()
        except TimeoutError as error:
            raise Silent(f"no answer in {self.socket.gettimeout()} s") from error
        except OSError as error:
            raise Lost(str(error)) from error

    def _record(self):
        whole, last = b"", False
        while not last:
            (mark,) = struct.unpack(">I", self._exactly(4))
            last, length = mark >> 31, mark & 0x7FFFFFFF
            whole += self._exactly(length)
        return whole

    def _exactly(self, length):
        data = bytearray()
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise Lost("closed by the server")
            data += piece
        return bytes(data)


class Answer:
    """XDR, read from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def skip(self, length):
        self.at += length

    def number(self):
        (value,) = struct.unpack_from(">I", self.data, self.at)
        self.at += 4
        return value

    def opaque(self):
        length = self.number()
        value = self.data[self.at:self.at + length]
        self.at += length + -length % 4
        return value

    def status(self, what):
        if status := self.number():
            raise Refused(what, status)

    def attributes(self):
        """post_op_attr: the size, or None."""
        if not self.number():
            return None
        at = self.at
        self.at += 84
        return struct.unpack_from(">Q", self.data, at + 20)[0]

    def wcc(self):
        if self.number():
            self.skip(24)
        self.attributes()


class Client:
    """Mounts an export and works on files by path or handle."""

    def __init__(self, export, port=2049, mount_port=None, address="127.0.0.1", source=None):
        self.port, self.address, self.source = port, address, source
        mount = Connection(mount_port or port, address, source)
        try:
            answer = mount.call(MOUNT, 1, opaque(export.encode()))
            answer.status(f"mount {export}")
            self.root = answer.opaque()
        finally:
            mount.close()
        self.connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.connection.close()

    def connect(self):
        """A new connection; handles stay what they were."""
        self.connection = Connection(self.port, self.address, self.source)

    def lookup(self, path):
        handle = self.root
        for name in path.strip("/").split("/"):
            answer = self.connection.call(NFS, 3, opaque(handle) + opaque(name.encode()))
            answer.status(f"look up {path}")
            handle = answer.opaque()
        return handle

    def size(self, handle):
        answer = self.connection.call(NFS, 1, opaque(handle))
        answer.status("getattr")
        return struct.unpack_from(">Q", answer.data, answer.at + 20)[0]

    def read(self, handle, offset, count):
        answer = self.connection.call(NFS, 6, opaque(handle) + struct.pack(">QI", offset, count))
        answer.status(f"read {count} at {offset}")
        answer.attributes()
        answer.skip(8)  # count, eof
        return answer.opaque()

    def write(self, handle, offset, data, stable=FILE_SYNC):
        """Returns how many bytes were committed how: (count, committed, verifier)."""
        arguments = opaque(handle) + struct.pack(">QII", offset, len(data), stable) + opaque(data)
        answer = self.connection.call(NFS, 7, arguments)
        answer.status(f"write {len(data)} at {offset}")
        answer.wcc()
        count, committed = answer.number(), answer.number()
        return count, committed, answer.data[answer.at:answer.at + 8]
