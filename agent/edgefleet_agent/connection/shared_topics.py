"""Subscribes: to the device's own topics, and to hold and head where `edgefleet_protocol.shards` says (ADR 0171)."""

import logging
from pathlib import Path

from edgefleet_agent.connection.mqtt import Answered, MqttLink, Received
from edgefleet_agent.core.durable import write_file
from edgefleet_agent.core.loop import Loop
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.shards import HEAD_S, Act, At, Shards, Step
from edgefleet_protocol.topics import Topics

log = logging.getLogger(__name__)


class SharedTopics:
    """Where this device hears them."""

    def __init__(self, link: MqttLink, topics: Topics, device: DeviceId, loop: Loop, path: Path) -> None:
        self._link = link
        self._later, self._now = loop.call_later, loop.monotonic_s
        self._path = path
        mine = topics.device_subscriptions(device)
        self._own, self._shared, self._shards = mine[:-2], mine[-2:], topics.shard_subscriptions(device)
        self._asked = self._leaves = 0
        self._state = Shards(path.exists() and path.read_bytes() == b"1")

    def connected(self) -> None:
        """The connection is new."""
        self._go(self._state.connected(self._now()), self._own)
        if self._state.at is At.SHARDED:
            self._later(HEAD_S, lambda: self._go(self._state.looked(self._now())))

    def answered(self, item: Answered) -> None:
        """The broker answered."""
        if item.mid == self._asked:
            self._go(self._state.granted(item.is_granted, self._now()))
        elif item.mid == self._leaves:
            self._go(self._state.left())

    def is_hold(self, topic: str) -> bool:
        """Say whether it is one of a hold."""
        return topic in {self._shared[1][0], self._shards[1][0]}

    def took_head(self, topic: str) -> bool:
        """Say whether it is one of a head."""
        if topic == self._shards[0][0]:
            self._go(self._state.heard_head(self._now()))
        return topic in {self._shared[0][0], self._shards[0][0]}

    def acked(self, shards: int) -> None:
        """The server acknowledged something."""
        self._go(self._state.acked(shards, self._now()))

    def took_document(self, item: Received, *, is_known: bool) -> None:
        """A desired document came."""
        if is_known and not item.is_retained:
            self._go(self._state.heard_again(self._now()))

    def _go(self, step: Step, first: tuple[tuple[str, int], ...] = ()) -> None:
        was, (self._state, acts) = self._state.is_kept, step
        for act in acts:
            log.info("hold and head", extra={"act": act.name.lower()})
            if act is Act.SUBSCRIBE_SHARED:
                self._link.subscribe((*first, *self._shared))
            elif act is Act.SUBSCRIBE_SHARDS:
                self._asked = self._link.subscribe((*first, *self._shards))
            else:
                self._leaves = self._link.unsubscribe([topic for topic, _ in self._shared])
        if self._state.is_kept is not was:
            try:
                write_file(self._path, b"1" if self._state.is_kept else b"")
            except OSError as error:
                log.warning("shards.ok not written", extra={"reason": str(error)})
