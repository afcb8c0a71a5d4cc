"""The appliance's image as a machine: what an administrator sees and types on its serial console, and its API over TLS."""
import contextlib
import hashlib
import http.client
import json
import os
import re
import ssl
import subprocess
import time

from .daemon import Daemon
from .qemu import Machine

ADMINISTRATOR = "administrator"
BOOT_SECONDS = 600  # on an emulated processor that others want as well
STEP_SECONDS = 300


class Appliance(Machine):
    """It runs off `system` (qcow2), with `data` (raw) as its second disk and `more` of them (with their formats), on the hardware that
    the OVA asks vSphere for. What is on its console is kept beside `system`, as .console."""

    def __init__(self, system, data, network, more=()):
        copy = open(system.with_suffix(".console"), "a", buffering=1)
        disks = []
        for number, (path, kind) in enumerate([(system, "qcow2"), (data, "raw"), *more]):
            disks += ["-drive", f"file={path},format={kind},if=none,id=disk{number},cache=writeback,discard=unmap",
                      "-device", f"scsi-hd,drive=disk{number},bus=scsi.0,scsi-id={number}"]
        super().__init__(["-device", "pvscsi,id=scsi", *disks, "-netdev", f"{network[0]},id=net", "-device", "vmxnet3,netdev=net,romfile=", *network[1:]],
                         memory=2048, on_console=lambda at, text: copy.write(f"{at:7.1f}  {text}\n"))
        self.fingerprint = None

    def answer(self, question, text, timeout=STEP_SECONDS):
        """What is sent before a prompt is there is echoed in front of it, and the next question comes after the prompt, and after what of the
        echo stands there."""
        self.expect(rf"^[> ]*{question}", timeout)
        self.send(text)

    def first_boot(self, host_name, address, password):
        """Answers what first boot asks; a wrong address, a gateway elsewhere and a short password on the way."""
        self.answer("Host name", host_name, BOOT_SECONDS)
        self.answer("Address with prefix", "192.0.2.300/24")
        self.expect("There is no address 192.0.2.300", STEP_SECONDS)
        self.answer("Address with prefix", address)
        self.answer("Gateway", "198.51.100.1")
        self.expect("A gateway is another machine in the network", STEP_SECONDS)
        self.answer("Gateway", "-")
        self.answer("DNS servers", "-")
        self.answer("Password of the user", "short")
        self.expect("at least 12 characters", STEP_SECONDS)
        self.answer("Password of the user", password)
        self.answer("The same again", password)
        self.answer("Put this in place", "yes")
        return self

    def choose_new_password(self):
        """Presses the boot menu's key for it, once the menu is there."""
        self.expect("GNU GRUB", BOOT_SECONDS)
        self.lines["console"].ours.sendall(b"n")

    def until_up(self):
        """Waits for the state on the console with the service running; the address of the daemon's console."""
        url = None
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end:
            found = self.expect(r"^  (Console|Fingerprint|Service) +(\S+)", BOOT_SECONDS)
            if found[1] == "Console":
                url = found[2]
            elif found[1] == "Fingerprint":
                self.fingerprint = found[2]
            elif found[2] == "active":
                return url
        raise RuntimeError(f"the service was not running after {BOOT_SECONDS} s\n{self.tail()}")

    @contextlib.contextmanager
    def shell(self, password):
        """The shell that the console's menu opens, as root. A context: it gives a function that runs a command in it."""
        self.send("3")
        self.answer("Password of", password)
        self.expect("sudo -i", STEP_SECONDS)
        self.send("exec sudo -p $'PASSWORD?\\n' sh -c 'stty -echo; echo ROOT; exec bash --login --noediting'")
        self.answer(r"PASSWORD\?", password)
        self.expect("^ROOT$", STEP_SECONDS)
        self.send("PS1=")
        self._run("true")
        yield self._run
        self.send("exit")
        self.expect("^[> ]*1 change the address", STEP_SECONDS)

    def _run(self, command, timeout=STEP_SECONDS):
        """Its output; raises if it fails."""
        self.send(f"echo BEGIN-$((6 * 7)); {command}; echo END-$?")
        self.expect("BEGIN-42$", timeout)
        begun = self.seen
        status = self.expect(r"END-(\d+)$", timeout)[1]
        output = [text for _, text in self.console[begun:self.seen - 1]]
        if status != "0":
            raise RuntimeError(f"{command}: status {status}\n" + "\n".join(output))
        return output

    def power_off(self, password):
        self.send("5")
        self.answer("Password of", password)
        return self.wait(STEP_SECONDS)


class Api(Daemon):
    """The daemon in the appliance: over TLS, with the certificate that its console shows, as a user with a password."""

    def __init__(self, address, port, fingerprint, user, password):
        self.where, self.fingerprint = (address, port), fingerprint
        self.cookie = None
        status, text, headers = self._call("POST", "/api/v1/session", {"user": user, "password": password})
        if status != 204:
            raise RuntimeError(f"log in: {status} {text}")
        self.cookie = re.match(r"[^;]+", headers["set-cookie"])[0]

    def _request(self, method, path, body=None):
        return self._call(method, path, body)[:2]

    def _call(self, method, path, body):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is compared below, before anything is sent
        connection = http.client.HTTPSConnection(*self.where, timeout=60, context=context)
        try:
            connection.connect()
            shown = hashlib.sha256(connection.sock.getpeercert(binary_form=True)).hexdigest()
            if shown != self.fingerprint.replace(":", "").lower():
                raise RuntimeError(f"the certificate is {shown}, the console shows {self.fingerprint}")
            # As the console's own page does it.
            headers = {"x-rekindle-console": "1", "Origin": f"https://{self.where[0]}:{self.where[1]}", "Content-Type": "application/json",
                       **({"Cookie": self.cookie} if self.cookie else {})}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def tail(self, count=15):
        return "(its log is in the appliance)"


def tap(name, address):
    """A network card of this side, in tests/netns, that machines can be plugged into."""
    if "REKINDLE_NETNS" not in os.environ:
        raise RuntimeError("this story makes network cards: run it inside tests/netns")
    for command in [["tuntap", "add", "dev", name, "mode", "tap"], ["address", "add", address, "dev", name], ["link", "set", name, "up"]]:
        subprocess.run(["ip", *command], check=True)
    return f"tap,ifname={name},script=no,downscript=no"
