"""What goes wrong: a vim25 fault, and a status of NFS or MOUNT."""
from xml.sax.saxutils import escape


class Fault(Exception):
    """A vim25 fault: its type, a message, and XML of its own fields."""

    def __init__(self, name, message="", fields=""):
        super().__init__(f"{name}: {message}")
        self.name, self.message, self.fields = name, message or name, fields

    def inner(self):
        return f"<faultMessage><key>standin</key><message>{escape(self.message)}</message></faultMessage>{self.fields}"


class NfsError(Exception):
    """An NFS or MOUNT status that is not 0."""

    def __init__(self, status, what):
        super().__init__(f"{what}: status {status}")
        self.status = status


NOENT, EXIST, NOSPC = 2, 17, 28


def file_fault(error, name):
    """What a host says of a file that it cannot use."""
    status = error.status if isinstance(error, NfsError) else getattr(error, "errno", None)
    kinds = {NOENT: "FileNotFound", EXIST: "FileAlreadyExists", NOSPC: "NoDiskSpace"}
    return Fault(kinds.get(status, "CannotAccessFile"), f"{name}: {error}", f"<file>{escape(name)}</file>")
