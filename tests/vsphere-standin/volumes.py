"""Where a datastore's files are: an NFS export, by an NFSv3 client as strict as ESXi's, or a directory."""
import argparse, os, random, shutil

from faults import Fault, NfsError
from rpc import OPTIONS, Rpc, opaque, port_of, u32, u64

CHUNK = 256 << 10


class Attr:
    def __init__(self, xdr):
        self.kind = xdr.u32()
        xdr.raw(16)
        self.size, _ = xdr.u64(), xdr.raw(16)
        self.fsid, self.fileid = xdr.u64(), xdr.u64()
        xdr.raw(24)


def post_op(xdr):
    return Attr(xdr) if xdr.u32() else None


def wcc(xdr):
    if xdr.u32():
        xdr.raw(24)
    return post_op(xdr)


class NfsVolume:
    """An export over NFSv3. Paths are relative to its root; handles are looked up afresh, and kept by callers
    that have a file open."""

    def __init__(self, host, path):
        self.host, self.path = host, path
        self.mountd = Rpc(host, OPTIONS.mount_port or port_of(host, 100005, 3), 100005, patient=False)
        reply = self.mountd.call(3, 1, opaque(path))
        status = reply.u32()
        if status:
            raise NfsError(status, f"MNT {path}")
        self.root = reply.opaque()
        self.nfs = Rpc(host, OPTIONS.nfs_port or port_of(host, 100003, 3), 100003)
        self.bytes_read = self.bytes_written = 0
        self.rtmax, self.wtmax = self.fsinfo()

    def do(self, proc, args, what):
        """One call, up to its status."""
        reply = self.nfs.call(3, proc, args)
        status = reply.u32()
        if status:
            raise NfsError(status, what)
        return reply

    def fsinfo(self):
        reply = self.do(19, opaque(self.root), "FSINFO")
        post_op(reply)
        rtmax, _, _, wtmax = (reply.u32() for _ in range(4))
        return rtmax, wtmax

    def space(self):
        reply = self.do(18, opaque(self.root), "FSSTAT")
        post_op(reply)
        total, _, available = reply.u64(), reply.u64(), reply.u64()
        return total, available

    def unmount(self):
        self.mountd.call(3, 3, opaque(self.path))
        self.mountd.close()
        self.nfs.close()

    def walk(self, path):
        handle = self.root
        for name in filter(None, path.split("/")):
            handle = self.do(3, opaque(handle) + opaque(name), f"LOOKUP {path}").opaque()
        return handle

    def where(self, path):
        """A directory's handle and a name in it, as arguments."""
        parent, _, name = path.strip("/").rpartition("/")
        return opaque(self.walk(parent)) + opaque(name)

    def open(self, path):
        return NfsFile(self, path, self.walk(path))

    def create(self, path, exclusive=False):
        how = u32(2) + random.randbytes(8) if exclusive else u32(0) + u32(1) + u32(0o600) + bytes(20)
        reply = self.do(8, self.where(path) + how, f"CREATE {path}")
        return NfsFile(self, path, reply.opaque() if reply.u32() else self.walk(path))

    def mkdir(self, path):
        self.do(9, self.where(path) + u32(1) + u32(0o755) + bytes(20), f"MKDIR {path}")

    def remove(self, path):
        self.do(12, self.where(path), f"REMOVE {path}")

    def rmdir(self, path):
        self.do(13, self.where(path), f"RMDIR {path}")

    def rename(self, old, new):
        self.do(14, self.where(old) + self.where(new), f"RENAME {old}")

    def list(self, path):
        """Names of what is in a directory, READDIRPLUS by READDIRPLUS until the end."""
        handle, cookie, verifier, names = opaque(self.walk(path)), 0, bytes(8), []
        while True:
            args = handle + u64(cookie) + verifier + u32(8192) + u32(32768)
            reply = self.do(17, args, f"READDIRPLUS {path}")
            post_op(reply)
            verifier = reply.raw(8)
            while reply.u32():
                reply.u64()
                name, cookie = reply.opaque().decode(), reply.u64()
                post_op(reply)
                if reply.u32():
                    reply.opaque()
                if name not in (".", ".."):
                    names.append(name)
            if reply.u32():
                return names


class NfsFile:
    def __init__(self, volume, path, handle):
        self.volume, self.path, self.handle = volume, path, handle

    def attr(self):
        return Attr(self.volume.do(1, opaque(self.handle), f"GETATTR {self.path}"))

    def size(self):
        return self.attr().size

    def truncate(self, size):
        args = opaque(self.handle) + u32(0) * 3 + u32(1) + u64(size) + u32(0) * 3
        self.volume.do(2, args, f"SETATTR {self.path}")

    def read(self, offset, count):
        """Exactly these bytes. Less than asked for is an error, and so is an end that is not told."""
        out, size = [], self.size()
        while count:
            want = min(count, self.volume.rtmax, CHUNK)
            reply = self.volume.do(6, opaque(self.handle) + u64(offset) + u32(want), f"READ {self.path}")
            post_op(reply)
            got, eof, data = reply.u32(), reply.u32(), reply.opaque()
            if got != len(data) or got < want and not eof or bool(eof) != (offset + got >= size):
                raise OSError(f"short read of {self.path} at {offset}: asked {want}, got {got}, eof {eof}")
            out.append(data)
            self.volume.bytes_read += got
            offset, count = offset + got, count - got
            if eof and count:
                raise OSError(f"{self.path} ends at {offset}, {count} bytes early")
        return b"".join(out)

    def write(self, offset, data):
        while data:
            part = data[:min(self.volume.wtmax, CHUNK)]
            args = opaque(self.handle) + u64(offset) + u32(len(part)) + u32(2) + opaque(part)
            reply = self.volume.do(7, args, f"WRITE {self.path}")
            wcc(reply)
            done, committed = reply.u32(), reply.u32()
            if not 0 < done <= len(part) or committed != 2:
                raise OSError(f"WRITE {self.path}: wrote {done} of {len(part)}, committed {committed}")
            self.volume.bytes_written += done
            offset, data = offset + done, data[done:]

    def close(self):
        pass


class DirVolume:
    """A local datastore."""

    def __init__(self, root):
        self.root = os.path.realpath(root)

    def real(self, path):
        full = os.path.normpath(os.path.join(self.root, path.strip("/")))
        if full != self.root and not full.startswith(self.root + "/"):
            raise OSError(f"{path} leads out of the datastore")
        return full

    def space(self):
        usage = shutil.disk_usage(self.root)
        return usage.total, usage.free

    def unmount(self):
        raise Fault("HostConfigFault", "the datastore is the host's own")

    def open(self, path):
        return DirFile(self.real(path), os.O_RDWR)

    def create(self, path, exclusive=False):
        return DirFile(self.real(path), os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0))

    def mkdir(self, path):
        os.mkdir(self.real(path))

    def remove(self, path):
        os.remove(self.real(path))

    def rmdir(self, path):
        os.rmdir(self.real(path))

    def rename(self, old, new):
        os.replace(self.real(old), self.real(new))

    def list(self, path):
        return os.listdir(self.real(path))


class DirFile:
    def __init__(self, path, flags):
        self.path, self.fd = path, os.open(path, flags, 0o600)

    def attr(self):
        return argparse.Namespace(size=self.size(), fileid=os.fstat(self.fd).st_ino)

    def size(self):
        return os.fstat(self.fd).st_size

    def truncate(self, size):
        os.ftruncate(self.fd, size)

    def read(self, offset, count):
        data = os.pread(self.fd, count, offset)
        if len(data) != count:
            raise OSError(f"{self.path} ends early")
        return data

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def close(self):
        os.close(self.fd)


def read_all(volume, path, most=1 << 20):
    file = volume.open(path)
    try:
        size = file.size()
        if size > most:
            raise OSError(f"{path} has {size} bytes")
        return file.read(0, size)
    finally:
        file.close()


def write_all(volume, path, data):
    """As a host rewrites a .vmx: a new file beside it, then renamed over it."""
    file = volume.create(path + "~")
    file.truncate(0)
    file.write(0, data)
    file.close()
    volume.rename(path + "~", path)
