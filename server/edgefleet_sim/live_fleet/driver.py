"""Drives the devices of one process: connects them, lets each speak when it is due, breaks links as the profile says.

One heap holds what is due for all devices; asyncio looks only at sockets. All that is drawn comes from one seed.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from edgefleet_protocol.clock import Clock
from edgefleet_sim.live_fleet import mqtt_packets as packets
from edgefleet_sim.live_fleet.connection import Link, Way
from edgefleet_sim.live_fleet.figures import Meter
from edgefleet_sim.live_fleet.link_profiles import delay_s
from edgefleet_sim.live_fleet.wire_device import Said, SimulatedDevice

LOOK_S: Final = 10.0
"""How often a device looks for what has no acknowledgement, and for whether it has to ping."""
CONNECT_LIMIT_S: Final = 30.0
CONNECTS_A_TURN: Final = 32
"""So many connections begin before sockets are looked at again."""
TURN_S: Final = 0.05


class _Due(NamedTuple):
    at_s: float
    order: int
    act: Callable[[int], None]
    device: int


class Driver:
    """All devices of one process. Not thread-safe; lives in its event loop."""

    def __init__(
        self, devices: Sequence[SimulatedDevice], way: Way, interval_s: float, draw: random.Random, clock: Clock
    ) -> None:
        """Wire it; nothing connects before `want`. interval_s: how long a telemetry window lasts."""
        self._devices = devices
        self._way = way
        self._interval_s = interval_s
        self._draw = draw
        self._clock = clock
        self._links: list[Link | None] = [None] * len(devices)
        self._heap: list[_Due] = []
        self._order = itertools.count()
        self._began: int = 0
        self._is_quiet = self._is_leaving = False
        self.meter = Meter()

    # ---- what edgectl asks for

    def want(self, count: int, per_s: float) -> None:
        """Let so many devices in all take part; new ones begin at this rate."""
        now = self._now()
        for number in range(self._began, min(count, len(self._devices))):
            at = now + (number - self._began) / per_s
            self._later(at, self._connect, number)
            self._later(at + self._draw.uniform(0.25, 1.0) * self._interval_s, self._close_window, number)
            self._later(at + LOOK_S * self._draw.uniform(0.5, 1.5), self._look, number)
            if self._devices[number].behaviour.drops_per_hour:
                self._later(at + self._next_drop_s(number), self._drop, number)
        self._began = max(self._began, min(count, len(self._devices)))
        self.meter.figures.wanted = self._began

    def cut(self) -> None:
        """Break all links at this moment, without a goodbye."""
        for link in [one for one in self._links if one is not None]:
            link.end("cut")

    def quiet(self) -> None:
        """Let nobody say anything new; what was said is still acknowledged."""
        self._is_quiet = True

    def leave(self) -> None:
        """Let all devices say that they go, and end their connections."""
        self._is_leaving = True
        for link in [one for one in self._links if one is not None]:
            if link.is_up:
                link.say(link.device.goes(self._unix_s()))
            link.goodbye()

    def line(self) -> dict[str, Any]:
        """Return what was counted so far, for `edgectl`; latencies since the line before."""
        said, links = self.meter.line(), [one for one in self._links if one is not None]
        said["bytes_in"] += sum(one.bytes_in for one in links)
        said["sharded"] = sum(device.shards.is_kept for device in self._devices)
        said["bytes_out"] += sum(one.bytes_out for one in links)
        return said

    def last_states(self) -> dict[str, list[str | int]]:
        """Return what each device that is connected and not in an install said last of its state, by id."""
        ready = zip(self._devices, self._links, strict=True)
        return {
            device.id: device.last_state()
            for device, link in ready
            if link is not None and link.is_up and not device.is_installing
        }

    async def run(self, stopped: asyncio.Event) -> None:
        """Do what is due until `stopped` is set."""
        while not stopped.is_set():
            self._turn()
            next_s = self._heap[0].at_s - self._now() if self._heap else TURN_S
            await asyncio.sleep(min(TURN_S, max(0.0, next_s)))

    # ---- what links say

    def came_up(self, link: Link) -> None:
        """Say who is there, and what the server has not acknowledged."""
        device, figures = link.device, self.meter.figures
        device.failures = 0
        figures.connected += 1
        figures.connects += 1
        self.meter.connects.add(self._now() - link.began_s)
        self._say(link, device.came_up(self._unix_s()))
        self._say(link, device.overdue(self._now(), is_new_link=True, meter=self.meter))

    def heard(self, link: Link, message: packets.Arrived) -> None:
        """Take an acknowledgement or a document; all else is nothing to a simulated device."""
        device, figures = link.device, self.meter.figures
        figures.messages_in += 1
        late_s = self._late_s(device)
        if message.mid:
            self._after(late_s, lambda: link.acknowledge(message.mid))
        if message.topic.endswith("/dn/meta"):
            if device.acked(message.payload, self._now(), self.meter):
                link.go(device.shards.acked(device.server_shards, self._now()))
        elif "/stage/head-" in message.topic:
            link.go(device.shards.heard_head(self._now()))
        elif message.topic.endswith("/dn/desired"):
            was_installing = device.is_installing
            if device.desired(message.payload, self._draw, self.meter):
                self._after(late_s, lambda: self._report(self._place(device)))
            elif not message.is_retained:
                link.go(device.shards.heard_again(self._now()))
            if device.is_installing and not was_installing:
                self._later(self._now() + late_s + self._step_s(device), self._step, self._place(device))

    def ended(self, link: Link, reason: str) -> None:
        """Count it, and come back when the device's rule says so."""
        device, figures = link.device, self.meter.figures
        place = self._place(device)
        if self._links[place] is not link:
            return
        self._links[place] = None
        figures.bytes_in += link.bytes_in
        figures.bytes_out += link.bytes_out
        if link.was_up:
            figures.connected -= 1
            figures.lost += bool(reason)
        elif "refused the connection: code" in reason:
            figures.refused += 1
        else:
            figures.failed += 1
        if self._is_leaving:
            return
        device.failures += 1
        wait_s = delay_s(device.failures, self._draw.random(), is_patient=device.behaviour.is_patient)
        if reason == "dropped":
            wait_s += self._draw.uniform(0.0, device.behaviour.away_s)
        self._later(self._now() + wait_s, self._connect, place)

    # ---- what is due

    def _turn(self) -> None:
        now, connects = self._now(), 0
        while self._heap and self._heap[0].at_s <= now:
            due = heapq.heappop(self._heap)
            due.act(due.device)
            connects += due.act == self._connect
            if connects >= CONNECTS_A_TURN:
                return

    def _connect(self, place: int) -> None:
        if self._links[place] is not None or self._is_leaving:
            return
        device = self._devices[place]
        link = self._links[place] = Link(device, self._way, self)
        link.open(device.will(f"{self._draw.getrandbits(48):012x}", self._unix_s()))

    def _close_window(self, place: int) -> None:
        device, link = self._devices[place], self._links[place]
        self._later(self._now() + self._interval_s * device.stretch, self._close_window, place)
        if self._is_quiet:
            return
        length_s = max(1, int(self._interval_s * device.stretch))
        was_drifting = device.is_drifting
        late_s = self._late_s(device)  # the device's own, so no part of what its acknowledgement took
        said = device.window(self._unix_s(), self._now() + late_s, length_s, self.meter)
        self.meter.figures.drifting += device.is_drifting and not was_drifting
        if link is not None and link.is_up:
            self._after(late_s, lambda: self._say(link, said))

    def _look(self, place: int) -> None:
        device, link = self._devices[place], self._links[place]
        self._later(self._now() + LOOK_S, self._look, place)
        if link is None:
            return
        if not link.is_up:
            if self._now() - link.began_s > CONNECT_LIMIT_S:
                link.end("no answer in time")
            return
        link.go(device.shards.looked(self._now()))
        self._say(link, device.overdue(self._now(), is_new_link=False, meter=self.meter))
        if self._now() - link.last_s > 0.75 * self._way.keepalive_s - LOOK_S:
            link.ping()

    def _step(self, place: int) -> None:
        device, link = self._devices[place], self._links[place]
        said, has_more = device.next_step(self._unix_s(), self._now(), self.meter)
        if link is not None and link.is_up:
            self._say(link, said)
        if has_more:
            self._later(self._now() + self._step_s(device), self._step, place)

    def _report(self, place: int) -> None:
        """Say a device's state on the link that it has now; without one, its next connection says it first."""
        link = self._links[place]
        if link is not None and link.is_up:
            self._say(link, [self._devices[place].state(self._unix_s())])

    def _drop(self, place: int) -> None:
        link = self._links[place]
        if link is not None and link.is_up:
            link.end("dropped")
        self._later(self._now() + self._next_drop_s(place), self._drop, place)

    # ---- within

    def _say(self, link: Link, said: Sequence[Said]) -> None:
        for one in said:
            link.say(one)

    def _after(self, late_s: float, act: Callable[[], None]) -> None:
        if late_s <= 0.0:
            act()
        else:
            self._way.loop.call_later(late_s, act)

    def _later(self, at_s: float, act: Callable[[int], None], place: int) -> None:
        heapq.heappush(self._heap, _Due(at_s, next(self._order), act, place))

    def _place(self, device: SimulatedDevice) -> int:
        return device.number - self._devices[0].number

    def _late_s(self, device: SimulatedDevice) -> float:
        return self._draw.uniform(0.0, device.behaviour.late_s) if device.behaviour.late_s else 0.0

    def _step_s(self, device: SimulatedDevice) -> float:
        return self._draw.uniform(0.5, 1.5) * device.behaviour.steps_s

    def _next_drop_s(self, place: int) -> float:
        return self._draw.expovariate(self._devices[place].behaviour.drops_per_hour / 3600.0)

    def _now(self) -> float:
        return self._way.loop.time()

    def _unix_s(self) -> float:
        return self._clock.now().timestamp()
