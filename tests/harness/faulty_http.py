"""A proxy in front of an HTTP server that loses, delays, cuts and falsifies answers, by a seed; and counts what passes."""
import asyncio
import random
import threading
from collections import Counter

STALL_SECONDS = 2
# Of a thousand answers to GETs: so many are hurt so. Half of what may hit other requests, which have no body to hurt.
EVERY_KIND = {"error": 50, "reset": 10, "slow_down": 10, "stall": 5, "truncate": 10, "flip": 10}
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy:
    """A context. `faults` may be set at any time; `seen` counts requests and their bytes by method, those of packs also apart, and faults by kind."""

    def __init__(self, port, upstream, faults=(), seed=1, latency=0.0):
        self.port, self.upstream = port, upstream
        self.faults, self.latency = dict(faults), latency
        self.down = False
        # Kinds that the next GETs of objects get, one each, before chance goes on.
        self.owed = []
        self.seen = Counter()
        self.random = random.Random(seed)
        # A loop holds its tasks weakly.
        self.serving = set()

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        if not started.wait(10):
            raise RuntimeError(f"the proxy does not listen on {self.port}")
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(10)

    def _run(self, started):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._listen(started))
        self.loop.close()

    async def _listen(self, started):
        """Until the context ends; then those who are served are cut off."""
        self.stopping = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
        started.set()
        await self.stopping.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        server = None
        self.serving.add(asyncio.current_task())
        try:
            while head := await _head(reader):
                body = await _body(reader, head)
                method = head.split(b" ", 1)[0].decode()
                self.seen[method] += 1
                self.seen[f"bytes of {method}s"] += len(body)
                if b"/packs/" in head.split(b"\r\n", 1)[0]:
                    self.seen[f"{method} of packs"] += 1
                if self.down:
                    self.seen["refused"] += 1
                    break
                if server is None:
                    server = await asyncio.open_connection(*self.upstream, limit=1 << 20)
                server[1].write(head + body)
                answer = await _head(server[0])
                if not answer:
                    break
                data = b"" if method == "HEAD" else await _body(server[0], answer)
                await asyncio.sleep(self.latency)
                if not await self._answer(writer, method, answer, data):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.serving.discard(asyncio.current_task())
            for one in (writer, server and server[1]):
                if one:
                    one.close()

    async def _answer(self, writer, method, answer, data):
        """Whether the connection goes on."""
        # A listing has no checksum of its own: nobody could tell that it was hurt, but for TLS.
        hurtable = method == "GET" and data and not data.lstrip().startswith(b"<?xml")
        fault = self.owed.pop(0) if self.owed and hurtable else self._fault(method)
        if fault == "flip" and not hurtable:
            fault = None
        if fault:
            self.seen[fault] += 1
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "error":
            answer, data = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", b""
        if fault == "slow_down":
            answer, data = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(SLOW_DOWN), SLOW_DOWN
        if fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
        if fault == "flip" and data:
            at = self.random.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1:]
        if fault == "truncate" and data:
            writer.write(answer + data[:len(data) // 2])
            await writer.drain()
            return False
        writer.write(answer + data)
        await writer.drain()
        return True

    def _fault(self, method):
        number = self.random.randrange(1000)
        for kind, share in self.faults.items():
            # A write's answer that is lost is as good as a reset: what its body says nobody reads.
            if method != "GET" and kind in ("truncate", "flip"):
                continue
            if number < share:
                return kind
            number -= share
        return None


async def _head(reader):
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def _body(reader, head):
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return await _chunks(reader)
    return await reader.readexactly(int(fields.get(b"content-length", 0)))


async def _chunks(reader):
    """The body as it stands on the wire."""
    whole = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        length = int(size.split(b";")[0], 16)
        whole += size + await reader.readexactly(length + 2)
        if length == 0:
            return whole
