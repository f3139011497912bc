"""Bounded stores that replace amqtt's endless ones in a session."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

MAX_BACKLOG_MESSAGES = 4_096  # per client, read but not yet handed on; far above what a gateway sends when it connects


class CountedQueue(asyncio.Queue[Any]):
    """A queue that knows how many payload bytes it holds. Takes amqtt's messages and its broadcast records."""

    def __init__(self) -> None:
        self.payload_bytes = 0  # before the base class, whose constructor already calls `_init`
        super().__init__()

    def _put(self, item: Any) -> None:
        self.payload_bytes += _payload_bytes(item)
        super()._put(item)

    def _get(self) -> Any:
        item = super()._get()
        self.payload_bytes -= _payload_bytes(item)
        return item


class NoQos2(OrderedDict[int, Any]):
    """Where amqtt keeps QoS 2 messages until their release. Nothing here uses QoS 2, and a device could fill memory with it."""

    def __init__(self, cut: Callable[[], None]) -> None:
        super().__init__()
        self._cut = cut

    def __setitem__(self, key: int, value: Any) -> NoReturn:
        self._cut()
        # amqtt does this in a task that nobody awaits: any other exception would end as a traceback in the log
        raise asyncio.CancelledError


def _payload_bytes(item: Any) -> int:
    data = item["data"] if isinstance(item, dict) else item.data
    return len(data) if data else 0
