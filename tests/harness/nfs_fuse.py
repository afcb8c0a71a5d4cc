#!/usr/bin/python3
"""nfs_fuse EXPORT MOUNTPOINT: an export of 127.0.0.1 as a folder of this machine, for programs that know only files (Debian's python3-fusepy).

Nothing is cached: a look at the folder is a look at the export. It ends when it is unmounted.
"""
import errno
import struct
import sys
from pathlib import Path

from fusepy import FUSE, FuseOSError, Operations

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import nfs3  # noqa: E402
from harness.nfs3 import NFS, opaque  # noqa: E402

GETATTR, SETATTR, CREATE, MKDIR, REMOVE, RMDIR, RENAME, READDIR = 1, 2, 8, 9, 12, 13, 14, 16
FOLDER_MODE, FILE_MODE = 0o040000, 0o100000
FOLDER = 2
# The statuses that are no errno of Linux (RFC 1813, section 2.6).
ERRNO = {63: errno.ENAMETOOLONG, 66: errno.ENOTEMPTY, 69: errno.EDQUOT, 70: errno.ESTALE}
PIECE = 64 << 10


def attributes(mode=None, size=None):
    """sattr3: what is set of a file."""
    mode = struct.pack(">I", 0) if mode is None else struct.pack(">II", 1, mode & 0o7777)
    size = struct.pack(">I", 0) if size is None else struct.pack(">IQ", 1, size)
    return mode + struct.pack(">II", 0, 0) + size + struct.pack(">II", 0, 0)


class Export(Operations):
    def __init__(self, export):
        self.client = nfs3.Client(export)

    def __call__(self, operation, *arguments):
        try:
            return super().__call__(operation, *arguments)
        except nfs3.Refused as refused:
            raise FuseOSError(ERRNO.get(refused.status, refused.status if refused.status < 32 else errno.EIO)) from refused

    def ask(self, procedure, arguments):
        answer = self.client.connection.call(NFS, procedure, arguments)
        answer.status(f"procedure {procedure}")
        return answer

    def handle(self, path):
        return self.client.lookup(path) if path.strip("/") else self.client.root

    def place(self, path):
        """diropargs3: the folder's handle and the name in it."""
        folder, _, name = path.rpartition("/")
        return opaque(self.handle(folder)) + opaque(name.encode())

    def getattr(self, path, fh=None):
        answer = self.ask(GETATTR, opaque(self.handle(path)))
        kind, mode, links, user, group, size, used = struct.unpack_from(">IIIIIQQ", answer.data, answer.at)
        times = struct.unpack_from(">IIIIII", answer.data, answer.at + 60)
        return {"st_mode": mode | (FOLDER_MODE if kind == FOLDER else FILE_MODE), "st_nlink": links, "st_uid": user, "st_gid": group, "st_size": size,
                "st_blocks": used // 512, "st_atime": times[0], "st_mtime": times[2], "st_ctime": times[4]}

    def readdir(self, path, fh):
        handle, cookie, verifier, names = self.handle(path), 0, bytes(8), []
        while True:
            answer = self.ask(READDIR, opaque(handle) + struct.pack(">Q", cookie) + verifier + struct.pack(">I", PIECE))
            answer.attributes()
            verifier = answer.data[answer.at:answer.at + 8]
            answer.skip(8)
            while answer.number():
                answer.skip(8)
                names.append(answer.opaque().decode())
                (cookie,) = struct.unpack_from(">Q", answer.data, answer.at)
                answer.skip(8)
            if answer.number():
                return names

    def create(self, path, mode, fi=None):
        self.ask(CREATE, self.place(path) + struct.pack(">I", 0) + attributes(mode))
        return 0

    def mkdir(self, path, mode):
        self.ask(MKDIR, self.place(path) + attributes(mode))

    def read(self, path, size, offset, fh):
        return self.client.read(self.handle(path), offset, size)

    def write(self, path, data, offset, fh):
        self.client.write(self.handle(path), offset, data)
        return len(data)

    def truncate(self, path, length, fh=None):
        self.ask(SETATTR, opaque(self.handle(path)) + attributes(size=length) + struct.pack(">I", 0))

    def unlink(self, path):
        self.ask(REMOVE, self.place(path))

    def rmdir(self, path):
        self.ask(RMDIR, self.place(path))

    def rename(self, old, new):
        self.ask(RENAME, self.place(old) + self.place(new))


if __name__ == "__main__":
    FUSE(Export(sys.argv[1]), sys.argv[2], foreground=True, nothreads=True, direct_io=True, attr_timeout=0, entry_timeout=0, negative_timeout=0)
