"""A headless Chromium that is driven through its debugging pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
SECONDS = 60


class Page:
    """One tab: commands of the DevTools protocol, and all events that it has told."""

    def __init__(self, to_browser, from_browser):
        self.to_browser, self.from_browser = to_browser, from_browser
        self.waiting, self.events, self.sent, self.session = b"", [], 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.sent:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self):
        until = time.monotonic() + SECONDS
        while b"\0" not in self.waiting:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, until - time.monotonic()))
            received = os.read(self.from_browser, 1 << 20) if ready else b""
            if not received:
                raise RuntimeError("Chromium does not answer")
            self.waiting += received
        message, _, self.waiting = self.waiting.partition(b"\0")
        return json.loads(message)

    def open(self, path, width, scheme):
        """Load a file at a width in pixels under a colour scheme; the events are of this page alone."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        until = time.monotonic() + SECONDS
        while self.run("location.protocol + document.readyState") != "file:complete":
            assert time.monotonic() < until, "the page does not load"
            time.sleep(0.02)

    def run(self, script):
        """The value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def told(self, method):
        """The parameters of all events of a kind."""
        self.run("new Promise(done => setTimeout(done, 50))")
        return [event["params"] for event in self.events if event.get("method") == method]

    def picture(self, path):
        """Write the whole page as a PNG file."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def chromium(profile):
    """A `Page` of a browser that ends with the block."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    # the pipe is file descriptors 3 and 4
    command = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", CHROMIUM, *flags]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        with process.stdin, process.stdout:
            yield Page(process.stdin.fileno(), process.stdout.fileno())
        process.wait(10)
    finally:
        process.kill()
        process.wait()
