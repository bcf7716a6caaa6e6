"""A headless Chromium by its DevTools protocol over two pipes: what a page says, loads and looks like."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: What people and systems call it.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Events that tell of something wrong in a page.
COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


def chromium() -> str | None:
    """The program, where one is installed."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


#: The protocol wants to be spoken at descriptors 3 and 4, which may be those of the pipes, the other way round.
START = """
import fcntl, os, sys
high = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
os.dup2(high[0], 3), os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a browser that ends with the block."""

    def __init__(self, program: str, profile: Path, width: int = 1200, height: int = 900):
        self.width, self.height, self.seconds = width, height, 60.0
        down, up = os.pipe(), os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(down[0]), str(up[1]), program, *options],
            pass_fds=(down[0], up[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down[0]), os.close(up[1])
        self.out, self.into, self.rest = down[1], up[0], b""
        self.number, self.events = 0, list[dict[str, Any]]()
        self.session = ""

    def __enter__(self) -> Browser:
        (target,) = (one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=self.width,
            height=self.height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.out), os.close(self.into)
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; events that come meanwhile are kept."""
        self.number += 1
        body = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            body["sessionId"] = self.session
        os.write(self.out, json.dumps(body).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def open(self, page: Path) -> None:
        """Load a page with all that it needs."""
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def dark(self, wanted: bool) -> None:
        value = "dark" if wanted else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, or of what it promises."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[dict[str, Any]]:
        """What the page has written to the console, whoever wrote it there."""
        return [event for event in self.events if event.get("method") in COMPLAINTS]

    def requested(self) -> list[str]:
        """Addresses that the page has asked for, those within it left out."""
        found = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [address for address in found if not address.startswith("data:")]

    def picture(self, whole: bool = True) -> bytes:
        """A PNG of the page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        return base64.b64decode(shot["data"])

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        height = self.value("document.documentElement.scrollHeight")
        return {"clip": {"x": 0, "y": 0, "width": self.width, "height": height, "scale": 1}}

    def _message(self) -> dict[str, Any]:
        give_up = time.monotonic() + self.seconds
        while b"\0" not in self.rest:
            assert select.select([self.into], [], [], max(0.0, give_up - time.monotonic()))[0], "no answer"
            read = os.read(self.into, 2**20)
            assert read, f"the browser has ended: {self.process.poll()}"
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)
