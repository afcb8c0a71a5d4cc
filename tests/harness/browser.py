"""Headless Chromium, steered over the pipe of its DevTools protocol: what a story needs of it and no more."""
import base64
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

WAIT_SECONDS = 30
ANSWER_SECONDS = 60
MESSAGE_MAX = 64 << 20
# What a person with a keyboard presses, as the protocol wants it: key, code, virtual key code, text.
KEYS = {"Tab": ("Tab", "Tab", 9, ""), "Enter": ("Enter", "Enter", 13, "\r"), "Escape": ("Escape", "Escape", 27, "")}


def axe_source():
    """axe-core's one file, where scripts/setup put it; None without it."""
    path = Path.home() / ".cache" / "rekindle-axe" / "node_modules" / "axe-core" / "axe.min.js"
    return path.read_text() if path.is_file() else None


class Browser:
    """A context: one page of a fresh profile. Everything that the page's console logs as an error is kept."""

    def __init__(self, folder, pictures):
        self.folder, self.pictures = Path(folder), Path(pictures)
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.errors, self.buffer, self.number = [], b"", 0

    def __enter__(self):
        to_read, self.to_browser = os.pipe()
        self.from_browser, to_write = os.pipe()

        def wire():
            # The protocol's pipe is descriptors 3 and 4, whatever these are now.
            os.dup2(to_read, 13)
            os.dup2(to_write, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                   "--no-first-run", "--disable-background-networking", "--lang=en-GB", "--window-size=1280,900",
                   f"--user-data-dir={self.folder}/profile", "about:blank"]
        environment = dict(os.environ, TZ="Europe/Berlin", HOME=str(self.folder))
        self.process = subprocess.Popen(command, preexec_fn=wire, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.picture("failed")
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.to_browser)
        os.close(self.from_browser)

    def call(self, method, parameters=None):
        return self._call(method, parameters or {}, self.session)

    def _call(self, method, parameters, session=None):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._event(answer)

    def _message(self):
        until = time.monotonic() + ANSWER_SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, until - time.monotonic()))
            if not ready or len(self.buffer) > MESSAGE_MAX:
                raise RuntimeError("the browser does not answer")
            piece = os.read(self.from_browser, 1 << 20)
            if not piece:
                raise RuntimeError("the browser has ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def _event(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"])[:600])
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def open(self, url):
        self.call("Page.navigate", {"url": url})

    def evaluate(self, expression):
        """The value of a JavaScript expression, awaited."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression[:200]}: {json.dumps(answer['exceptionDetails'])[:600]}")
        return answer["result"].get("value")

    def until(self, what, expression, seconds=WAIT_SECONDS):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while self.evaluate(f"!!({expression})") is not True:
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds} s; the page says: {self.evaluate('document.body.innerText')[:1500]}")
            time.sleep(0.05)
        print(f"ok {what}", flush=True)

    def click(self, label, within="document"):
        """A real click of the mouse on the middle of the button or link with this text or accessible name."""
        find = (f"[...{within}.querySelectorAll('button, a, label.choice, summary')].find((one) => one.offsetParent !== null && !one.disabled && "
                f"(one.innerText.trim() === {json.dumps(label)} || one.getAttribute('aria-label') === {json.dumps(label)}))")
        self.until(f"{label!r} is there to be clicked", find)
        self.evaluate(f"{find}.scrollIntoView({{block: 'center'}})")
        box = json.loads(self.evaluate(f"JSON.stringify({find}.getBoundingClientRect())"))
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, **where})

    def type(self, element, text):
        """Text from the keyboard into the element with this id, in place of what is there."""
        self.evaluate(f"(() => {{ const one = document.getElementById({json.dumps(element)}); one.focus(); one.select?.(); }})()")
        self.call("Input.insertText", {"text": text})

    def press(self, name):
        key, code, number, text = KEYS[name]
        parameters = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown" if text else "rawKeyDown", "text": text, **parameters})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **parameters})

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})

    def scheme(self, name):
        """`dark` or `light`, as the viewer's system says."""
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})

    def picture(self, name):
        picture = self.call("Page.captureScreenshot", {"format": "png"})["data"]
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(picture))

    def violations(self, source):
        """What axe-core finds against WCAG 2.1 A and AA on the page as it is: rule and elements."""
        if self.evaluate("typeof axe") != "object":
            self.evaluate(f"{source}; 1")
        rules = json.dumps({"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
        found = self.evaluate(f"axe.run(document, {rules}).then((all) => JSON.stringify(all.violations.map((one) => "
                              "[one.id, one.help, one.nodes.map((node) => node.html.slice(0, 160))])))")
        return json.loads(found)

    def is_too_wide(self):
        """Whether the page scrolls sideways."""
        return self.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
