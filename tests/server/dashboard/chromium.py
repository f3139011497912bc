"""A real browser without a driver: Debian's Chromium, told what to do over its debugging pipe (Chrome DevTools Protocol)."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def binary() -> str | None:
    """Return the browser's path, None when there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """One browser with one page. `problems` collects what the page's console and its content policy complained about."""

    def __init__(self, profile: Path) -> None:
        program = binary()
        assert program is not None
        ours, theirs = _pipe(), _pipe()
        self._write, self._read = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(theirs[0], "rb", buffering=0)

        def give_pipes() -> None:
            os.dup2(ours[0], 3)
            os.dup2(theirs[1], 4)

        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=give_pipes,  # noqa: PLW1509 - the pipes must have these two numbers in the child
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._rest = b""
        self._last = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        target = next(one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._write.close()
        self._read.close()

    def open(self, url: str) -> None:
        """Load a page and wait until it is there."""
        self._loading(lambda: self._call("Page.navigate", url=url))

    def press(self, script: str) -> None:
        """Run a script that leads to another page and wait until that is there."""
        self._loading(lambda: self.run(script))

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; promises are waited for."""
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def look(self, *, width: int, height: int = 900, dark: bool = False, scripts: bool = True) -> None:
        """Set the size of the window, the colour scheme and whether scripts run."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def picture(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _loading(self, start: Callable[[], Any]) -> None:
        self._events.clear()
        start()
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._take()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        wanted = self._last
        body: dict[str, Any] = {"id": wanted, "method": method, "params": params}
        if self._session:
            body["sessionId"] = self._session
        self._write.write(json.dumps(body).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == wanted:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _take(self) -> dict[str, Any]:
        """Return the next message; events are kept."""
        while b"\0" not in self._rest:
            chunk = self._read.read(65536)
            if not chunk:
                raise RuntimeError("the browser went away")
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        if "method" in told:
            self._events.append(told)
            self._note(told)
        return told

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"])
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["params"]["exceptionDetails"])[:500])


def _pipe() -> tuple[int, int]:
    """Return a pipe whose numbers are out of the way of 3 and 4."""
    found = os.pipe()
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 20) for number in found]
    for number in found:
        os.close(number)
    return moved[0], moved[1]
