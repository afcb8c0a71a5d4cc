"""The "newc" archive that the kernel unpacks as an initramfs (Documentation/driver-api/early-userspace/buffer-format)."""
import os
import stat

TRAILER = "TRAILER!!!"


class Archive:
    """Writes members to a binary file. Everything belongs to root; parents are made as they are needed."""

    def __init__(self, out):
        self.out = out
        self.inode = 0
        self.names = set()

    def folder(self, name):
        parent = os.path.dirname(name)
        if parent:
            self.folder(parent)
        self._member(name, stat.S_IFDIR | 0o755, b"")

    def link(self, name, target):
        self._parent(name)
        self._member(name, stat.S_IFLNK | 0o777, target.encode())

    def data(self, name, content, mode=0o644):
        self._parent(name)
        self._member(name, stat.S_IFREG | mode, content)

    def file(self, name, source, mode=None):
        with open(source, "rb") as file:
            executable = os.fstat(file.fileno()).st_mode & 0o111
            self.data(name, file.read(), mode or (0o755 if executable else 0o644))

    def close(self):
        self._member(TRAILER, 0, b"")

    def _parent(self, name):
        if os.path.dirname(name):
            self.folder(os.path.dirname(name))

    def _member(self, name, mode, content):
        if name in self.names:
            return
        self.names.add(name)
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0]
        self._aligned(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self._aligned(content)

    def _aligned(self, piece):
        # Header with name, and content, each end on a multiple of four bytes.
        self.out.write(piece + bytes(-len(piece) % 4))
