"""What the demo's devices see: images at a steady pace through their local API, some of them through haze.

It runs while releases change, as a camera would. An answer that is not a number comes as null in JSON.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from edgefleet_cli.demo.demo_devices import Device, InferenceError, infer
from edgefleet_cli.demo.example import Images

_EVERY_S = 0.1
_STOP_S = 10.0


@dataclass(slots=True)
class Seen:
    """What came of it on one device. without_number: answers with a value that is not a number."""

    answers: int = 0
    without_number: int = 0
    unanswered: int = 0


class Feed:
    """Shows one image after another to every device. Use as a context manager; leaving it stops all threads."""

    def __init__(self, devices: Sequence[Device], images: Images, every_s: float = _EVERY_S) -> None:
        """Wire the parts. every_s: between two images of a device."""
        self.seen = {device.id: Seen() for device in devices}
        self._images = images
        self._every_s = every_s
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._show, args=(device, at), name=f"feed-{device.name}", daemon=True)
            for at, device in enumerate(devices)
        ]

    @contextmanager
    def running(self) -> Iterator[Feed]:
        """Show images until the block is left."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join(_STOP_S)

    @property
    def total(self) -> Seen:
        """The sum over all devices."""
        return Seen(
            answers=sum(one.answers for one in self.seen.values()),
            without_number=sum(one.without_number for one in self.seen.values()),
            unanswered=sum(one.unanswered for one in self.seen.values()),
        )

    def _show(self, device: Device, first: int) -> None:
        seen = self.seen[device.id]
        at = first
        with httpx.Client(base_url=device.infer_url, timeout=10.0) as http:
            while not self._stopping.wait(self._every_s):
                at = (at + 1) % len(self._images)
                try:
                    logits = infer(http, device, self._images.pixels[at : at + 1])
                except InferenceError:
                    seen.unanswered += 1
                    continue
                seen.answers += 1
                seen.without_number += any(value is None for row in logits for value in row)
