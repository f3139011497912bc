"""What an install asks the server for: small files, and leaves of bundles within the day's bytes."""

from collections.abc import Callable
from typing import Protocol

from edgefleet_agent.connection.budget import Bucket, daily
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import MetaRequest, encode
from edgefleet_protocol.topics import Topics


class Publish(Protocol):
    """How the link takes a message."""

    def __call__(self, topic: str, payload: bytes, qos: int) -> int | None:
        """Take a message; its mid, or None."""
        ...


class InstallRequests:
    """Sends requests, and counts what comes: while the day's bytes are used up no leaf is asked for."""

    def __init__(
        self, topics: Topics, device: DeviceId, publish: Publish, daily_bytes: int, monotonic_s: Callable[[], float]
    ) -> None:
        self._meta_topic = topics.up_meta(device)
        self._block_topic = topics.up_blk(device)
        self._publish = publish
        self._now = monotonic_s
        self._budget: Bucket | None = daily(daily_bytes, monotonic_s())

    def send_meta(self, request: MetaRequest) -> None:
        """Ask for a small file; without a connection the child asks again when there is one."""
        self._publish(self._meta_topic, encode(request), 1)

    def send_blocks(self, request: bytes) -> None:
        """Ask for leaves, unless the day's bytes are used up; the child asks again."""
        if self._budget is None or self._budget.now(self._now()).level > 0:
            self._publish(self._block_topic, request, 0)

    def took(self, size_bytes: int) -> None:
        """Count what came."""
        if self._budget is not None:
            self._budget = self._budget.now(self._now()).less(size_bytes)
