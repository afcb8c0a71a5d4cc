"""ONC RPC over TCP, and its XDR."""
import argparse, random, socket, struct, threading, time

from faults import Fault

OPTIONS = argparse.Namespace(nfs_port=0, mount_port=0, apd_timeout=60.0)


def u32(n):
    return struct.pack(">I", n)


def u64(n):
    return struct.pack(">Q", n)


def opaque(data):
    data = data.encode() if isinstance(data, str) else data
    return u32(len(data)) + data + bytes(-len(data) % 4)


class Xdr:
    """Reads what a server answered; running over the end is an error."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def raw(self, n):
        if self.at + n > len(self.data):
            raise OSError(f"RPC reply ends early, at {self.at}")
        self.at += n
        return self.data[self.at - n:self.at]

    def u32(self):
        return struct.unpack(">I", self.raw(4))[0]

    def u64(self):
        return struct.unpack(">Q", self.raw(8))[0]

    def opaque(self):
        n = self.u32()
        data = self.raw(n)
        self.raw(-n % 4)
        return data


class Rpc:
    """Calls of one program over one connection. A server that is gone is called again, with the same xid, for
    as long as --apd-timeout says: then the call fails, as I/O does on a host when all paths are down."""

    def __init__(self, host, port, program, patient=True):
        self.address, self.program, self.patient = (host, port), program, patient
        self.sock, self.lock, self.calls = None, threading.Lock(), 0
        self.xid = random.getrandbits(32)

    def call(self, version, proc, args=b""):
        with self.lock:
            self.xid = (self.xid + 1) & 0xFFFFFFFF
            self.calls += 1
            cred = u32(0) + opaque(b"standin") + u32(0) + u32(0) + u32(0)
            head = u32(self.xid) + u32(0) + u32(2) + u32(self.program) + u32(version) + u32(proc)
            message = head + u32(1) + opaque(cred) + u32(0) + u32(0) + args
            end = time.monotonic() + OPTIONS.apd_timeout
            while True:
                try:
                    return self.exchange(message)
                except OSError:
                    self.close()
                    if not self.patient or time.monotonic() > end:
                        raise
                    time.sleep(0.2)

    def exchange(self, message):
        if self.sock is None:
            self.sock = connect(self.address)
        self.sock.sendall(u32(0x80000000 | len(message)) + message)
        while True:
            reply = Xdr(self.record())
            if reply.u32() != self.xid:
                continue  # the answer to a call that was given up
            kind, state = reply.u32(), reply.u32()
            if kind != 1 or state != 0:
                raise Fault("PlatformConfigFault", f"RPC call denied (state {state})")
            reply.u32(), reply.opaque()
            accepted = reply.u32()
            if accepted != 0:
                raise Fault("PlatformConfigFault", f"RPC program {self.program} answers {accepted}")
            return reply

    def record(self):
        out = b""
        while True:
            head = struct.unpack(">I", self.exactly(4))[0]
            out += self.exactly(head & 0x7FFFFFFF)
            if head & 0x80000000:
                return out

    def exactly(self, n):
        parts = []
        while n:
            part = self.sock.recv(min(n, 1 << 20))
            if not part:
                raise OSError("the NFS server closed the connection")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def close(self):
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def connect(address):
    """From a reserved port if that is allowed, as a host does."""
    for port in random.sample(range(600, 1023), 20) + [0]:
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(30)
        try:
            sock.bind(("", port))
            sock.connect(address)
            return sock
        except PermissionError:
            sock.close()
        except OSError as error:
            sock.close()
            if port == 0 or error.errno not in (98, 99):  # in use: the next one
                raise
    raise OSError("no port to call from")


def port_of(host, program, version):
    """Asks the server's portmapper, as a host does."""
    reply = Rpc(host, 111, 100000, patient=False).call(2, 3, u32(program) + u32(version) + u32(6) + u32(0))
    port = reply.u32()
    if not port:
        raise OSError(f"{host} has no program {program}")
    return port
