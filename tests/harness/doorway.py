"""A TCP door before a server, which a test can close: calls under way are cut off, and new ones are refused."""
import contextlib
import socket
import threading


class Doorway:
    """Listens on a port of its own while it is open, and carries bytes both ways."""

    def __init__(self, host, port):
        self.behind = (host, port)
        self.carried, self.lock = set(), threading.Lock()
        self.listener = None
        self.port = 0
        self.open()

    def open(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def close(self):
        """Nothing gets through any more."""
        # The thread in accept would keep the socket open.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for one in self.carried:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(self.behind)
                except OSError:
                    near.close()
                    continue
                with self.lock:
                    self.carried |= {near, far}
                for ends in [(near, far), (far, near)]:
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in [source, sink]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self.lock:
            self.carried -= {source, sink}
