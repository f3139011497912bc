"""The cameras of `demo --loop`: clear images until fog comes, and the people who say later what was on them.

Each image has a trace id of its own. Its label is sent to its device as ground truth, as a user would, and written to a CSV file for
the runner (docs/how-to/send-ground-truth.md).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from edgefleet_cli.core.files import write_private
from edgefleet_cli.demo.demo_devices import Device, InferenceError, infer, infer_url_of
from edgefleet_cli.demo.example import MODEL, Images

VEIL: Final = 0.25
"""How much of the light is fog's: the model still reads three of four digits, so that its successor can agree with it."""
EVERY_S: Final = 0.22
"""A little slower than pictures are counted, four a second."""
_SEND_S: Final = 1.0
_STOP_S: Final = 10.0


@dataclass(slots=True)
class Tally:
    """Answers since a moment, and how many of them were right."""

    answers: int = 0
    right: int = 0

    @property
    def share(self) -> float:
        """The part that was right, 0 without answers."""
        return self.right / self.answers if self.answers else 0.0


class FoggyCameras:
    """Shows images to every device until `running` is left. Set `veil` for fog."""

    def __init__(self, devices: Sequence[Device], images: Images, labels: Path) -> None:
        """Wire the parts. labels: the file of ground truth."""
        self.veil = 0.0
        self._images = images
        self._file = labels
        self._lock = threading.Lock()
        self._rows: list[str] = ["device,trace_id,label"]
        self._tally = Tally()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._show, args=(device, at), name=f"camera-{device.name}", daemon=True)
            for at, device in enumerate(devices)
        ]
        self._threads.append(threading.Thread(target=self._write, name="labels", daemon=True))
        write_private(self._file, self._rows[0] + "\n")

    @contextmanager
    def running(self) -> Iterator[FoggyCameras]:
        """Show images until the block is left."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join(_STOP_S)

    def tally(self) -> Tally:
        """Return what was answered since the last call."""
        with self._lock:
            found, self._tally = self._tally, Tally()
        return found

    def _show(self, device: Device, first: int) -> None:
        at = 0
        http = httpx.Client(base_url=device.infer_url, timeout=10.0)
        waiting: list[dict[str, Any]] = []
        while not self._stopping.wait(EVERY_S):
            at += 1
            row = (at + first * 71) % len(self._images)  # no two devices see the same at once
            clear, label = self._images.pixels[row : row + 1], int(self._images.labels[row])
            trace = f"{device.name}-{at:06}"
            try:
                logits = infer(http, device, (clear * (1 - self.veil) + self.veil).astype("float32"), trace)
            except InferenceError:
                http.close()  # an agent that was started again has another port
                http = httpx.Client(base_url=infer_url_of(device), timeout=10.0)
                continue
            numbers = [float("-inf") if one is None else one for one in logits[0]]
            is_right = max(range(len(numbers)), key=numbers.__getitem__) == label
            with self._lock:
                self._tally.answers += 1
                self._tally.right += is_right
                self._rows.append(f"{device.id},{trace},{label}")
            waiting.append({"trace_id": trace, "label": label})
            if len(waiting) * EVERY_S >= _SEND_S:
                with contextlib.suppress(httpx.HTTPError):
                    http.post(f"/v2/models/{MODEL}/feedback", json=waiting)
                waiting = []
        http.close()

    def _write(self) -> None:
        while not self._stopping.wait(_SEND_S):
            with self._lock:
                text = "\n".join(self._rows) + "\n"
            with contextlib.suppress(OSError):
                write_private(self._file, text)
