"""Those who are told what happens: a webhook's server, a mail server, a syslog socket. Each keeps what it got."""
import base64
import contextlib
import email
import email.policy
import hashlib
import hmac
import http.server
import json
import os
import socket
import socketserver
import ssl
import threading
import time


def tls(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class Serving:
    """A server on a thread of its own, as a context."""

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Hook(Serving):
    """A webhook's server. Checks each signature by itself; says no while `refuses` is a status, and where to go while that is 3xx."""

    def __init__(self, port, secret, context=None):
        self.secret, self.refuses = secret, None
        self.taken, self.refused, self.wrong, self.strayed = [], [], [], []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = hook.take(self.path, self.headers, body)
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "5")
                self.end_headers()
                self.wfile.write(b"taken" if status == 200 else b"sorry")

            def do_GET(self):
                hook.strayed.append(self.path)
                self.send_error(404)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def take(self, path, headers, body):
        event = json.loads(body)
        if not self.is_signed(headers, body) or headers["webhook-id"] != event["id"]:
            self.wrong.append(event)
            return 401
        if path != "/in":
            self.strayed.append(path)
            return 404
        (self.refused if self.refuses else self.taken).append(event)
        return self.refuses or 200

    def is_signed(self, headers, body):
        """As a receiver that follows Standard Webhooks does it."""
        at = headers["webhook-timestamp"]
        signed = f"{headers['webhook-id']}.{at}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.digest(self.secret.encode(), signed, hashlib.sha256)).decode()
        return hmac.compare_digest(expected, headers["webhook-signature"]) and abs(time.time() - int(at)) < 300


class MailServer(Serving):
    """An SMTP server that speaks after STARTTLS and a log-in only."""

    def __init__(self, port, context, user, password):
        self.mails, self.in_the_clear = [], []
        login = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    self.talk()

            def say(self, text):
                self.wfile.write(text.encode() + b"\r\n")

            def talk(self):
                secure = known = False
                self.say("220 sink")
                while line := self.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "EHLO":
                        self.say("250-sink\r\n250 AUTH PLAIN" if secure else "250-sink\r\n250 STARTTLS")
                    elif verb == "STARTTLS":
                        self.say("220 go")
                        self.request = context.wrap_socket(self.request, server_side=True)
                        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
                        secure = True
                    elif verb == "AUTH":
                        if not secure:
                            sink.in_the_clear.append(line)
                        known = secure and line.split()[-1] == login
                        self.say("235 known" if known else "535 unknown")
                    elif verb == "QUIT":
                        self.say("221 bye")
                        return
                    elif not known:
                        self.say("530 log in")
                    elif verb == "DATA":
                        self.say("354 go")
                        self.say("250 queued as 7" if self.mail() else "451 later")
                    else:
                        self.say("250 ok")

            def mail(self):
                lines = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b".") else line)
                sink.mails.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
                return True

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server(("127.0.0.1", port), Handler)


class SyslogSocket:
    """A socket like /dev/log, as a context."""

    def __init__(self, path):
        self.path, self.lines = path, []

    def __enter__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.thread = threading.Thread(target=self.take, daemon=True)
        self.thread.start()
        return self

    def take(self):
        while line := self.socket.recv(8192):
            self.lines.append(line.decode())

    def __exit__(self, *_):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self.thread.join()
        self.socket.close()
        os.unlink(self.path)
