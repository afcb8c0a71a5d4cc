"""HTTP: the API, and the test's own door."""
import http.server, json, os, re, socket, ssl, sys, threading, time, traceback, urllib.parse
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

from faults import Fault, NfsError
from leases import download, upload


def strip(element):
    for e in element.iter():
        e.tag = e.tag.rpartition("}")[2]
    return element


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, api = "HTTP/1.1", None
    wbufsize, disable_nagle_algorithm = -1, True  # an answer is one packet: without, each takes 40 ms

    def log_message(self, *args):
        pass

    def reply(self, status, body, kind="text/xml; charset=utf-8", cookie=None):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if cookie:
            self.send_header("Set-Cookie", f'vmware_soap_session="{cookie}"; Path=/; HttpOnly')
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class Sdk(Handler):
    def do_PUT(self):
        self.do_GET(upload)

    def do_GET(self, answer=download):
        known = re.search(r'vmware_soap_session="?([^";]+)', self.headers.get("Cookie") or "")
        if not (known and known[1] in self.api.sessions):
            return self.reply(401, "log in first")
        with self.api.lock:
            name = f"{self.command} " + self.path.split("/")[1]
            self.api.calls[name] = self.api.calls.get(name, 0) + 1
        answer(self)

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_POST(self):
        api = self.api
        try:
            call = strip(ET.fromstring(self.body())).find("Body")[0]
            method = call.tag
        except (ET.ParseError, TypeError, IndexError):
            return self.reply(400, "not SOAP")
        with api.lock:
            api.calls[method] = api.calls.get(method, 0) + 1
            rule = api.rule(method, "call")
        if rule:
            time.sleep(rule.get("delay_ms", 0) / 1000)
            if rule.get("drop") is True:
                return self.hang_up()
            if rule.get("status"):
                return self.reply(rule["status"], "made to fail")
        cookie = None
        try:
            if rule and rule.get("fault"):
                raise Fault(rule["fault"], rule.get("message", ""))
            handler = getattr(api, method, None)
            if not method[:1].isupper() or handler is None:
                raise Fault("InvalidRequest", f"the stand-in has no {method}")
            known = re.search(r'vmware_soap_session="?([^";]+)', self.headers.get("Cookie") or "")
            if method not in ("RetrieveServiceContent", "Login") and not (known and known[1] in api.sessions):
                raise Fault("NotAuthenticated", "The session is not authenticated.")
            this = api.find(call.find("_this"))
            answer = f'<{method}Response xmlns="urn:vim25">{handler(this, call)}</{method}Response>'
            if method == "Login":
                cookie = os.urandom(16).hex()
                api.sessions.add(cookie)
            elif method == "Logout" and known:
                api.sessions.discard(known[1])
            status = 200
        except Fault as fault:
            status, answer = 500, (f"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{escape(fault.message)}</faultstring>"
                                   f'<detail><{fault.name}Fault xmlns="urn:vim25" xsi:type="{fault.name}">{fault.inner()}</{fault.name}Fault></detail></soapenv:Fault>')
        except Exception:
            traceback.print_exc()
            return self.reply(503, "the stand-in is broken")
        if rule and rule.get("drop") == "after":
            return self.hang_up()
        self.reply(status, '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
                   'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
                   f"<soapenv:Body>{answer}</soapenv:Body></soapenv:Envelope>", cookie=cookie)


class Admin(Handler):
    def do(self):
        api, url = self.api, urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        try:
            answer = getattr(self, self.command + url.path.replace("/", "_").replace("-", "_"))(api, query)
            self.reply(200, answer if answer is not None else b"", "application/octet-stream")
        except AttributeError:
            self.reply(404, "no such door", "text/plain")
        except (OSError, NfsError, Fault, KeyError, ValueError, IndexError) as error:
            self.reply(409, repr(error), "text/plain")

    do_GET = do_POST = do_PUT = do_DELETE = do

    def POST_fault(self, api, query):
        rule = json.loads(self.body())
        rule["method"]  # a rule wants at least that
        api.rules.append(rule)

    def DELETE_fault(self, api, query):
        api.rules.clear()

    def POST_sessions_drop(self, api, query):
        api.sessions.clear()

    def POST_copy_rate(self, api, query):
        api.copy_rate = int(query["mbps"])

    def POST_guests(self, api, query):
        api.deaf_guests = query["answer"] == "no"

    def POST_max_volumes(self, api, query):
        api.max_volumes = int(query["to"])

    def POST_others_move(self, api, query):
        vm = next(vm for vm in api.vms.links["childEntity"] if vm.name == query["vm"])
        api.start("RelocateVM_Task", vm, lambda task: time.sleep(float(query["seconds"])))

    def POST_files(self, api, query):
        api.whole_files = query["parts"] == "no"

    def POST_off_limits(self, api, query):
        vm = next(vm for vm in api.vms.links["childEntity"] if vm.name == query["vm"])
        vm.encrypted, vm.wants_consolidation = query.get("why") == "encrypted", query.get("why") == "consolidation"

    def disk(self, api, query):
        vm = next(vm for vm in api.vms.links["childEntity"] + [None] if vm is None or vm.name == query["vm"])
        if vm is None or not vm.on:
            raise ValueError(f"{query['vm']} does not run")
        return vm, vm.open_disks[int(query.get("disk", 0))]

    def GET_guest(self, api, query):
        vm, _ = self.disk(api, query)
        with vm.io:
            return self.disk(api, query)[1].read(int(query["offset"]), int(query["length"]))

    def PUT_guest(self, api, query):
        data, (vm, _) = self.body(), self.disk(api, query)
        with vm.io:
            self.disk(api, query)[1].write(int(query["offset"]), data)

    def GET_state(self, api, query):
        vms = [{"name": vm.name, "ref": vm.id, "tags": vm.extra_config, "power": "poweredOn" if vm.on else "poweredOff", "vmx": vm.vmx_path, "question": bool(vm.question),
                "networks": [nic.port or nic.network for nic in vm.nics],
                "disks": [f"[{vm.store(p).name}] {vm.place(p)[1]}" for p in vm.disks]} for vm in api.vms.links["childEntity"]]
        stores = []
        for d in api.host.links["datastore"]:
            more = {"dir": d.volume.root} if not d.nfs else {
                "nfs": f"{d.volume.host}:{d.volume.path}", "read": d.volume.bytes_read, "written": d.volume.bytes_written, "calls": d.volume.nfs.calls}
            stores.append({"name": d.name, "ref": d.id, "vms": sum(d in vm.stores() for vm in api.vms.links["childEntity"])} | more)
        held = {"snapshots": [s.name for vm in api.vms.links["childEntity"] for s in vm.snapshots],
                "stalled": api.stalled, "leases": [{"state": lease.state, "percent": lease.percent} for lease in api.leases()]}
        return json.dumps({"vms": vms, "datastores": stores, "calls": api.calls} | held)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up, or does not trust us, is no event."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def serve(address, handler, api, certificate=None):
    host, _, port = address.rpartition(":")
    server = Server((host, int(port)), type(handler.__name__, (handler,), {"api": api}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # The handshake belongs to the connection's own thread, not to the one that accepts.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "%s:%d" % server.server_address[:2]
