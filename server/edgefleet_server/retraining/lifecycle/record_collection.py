"""Asks devices for captured records of a retraining, those that drift first, and says when enough of them have answered.

What comes is sealed, and only data: it decides nothing here. A device that cannot be asked is left out. While no record has come at all and
a device may still answer, the wait goes on past its time: a server or a network that was away must not end in a training on nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.retraining.model import Collected, DataWanted
from edgefleet_server.retraining.tables import RetrainingRun
from edgefleet_server.telemetry.errors import NoCaptureKeyError
from edgefleet_server.telemetry.model import CaptureFetch

ASKED: Final = "asked"
ANY: Final = ("",)
_PATIENCE: Final = 10
"""How many times as long the first record is waited for."""
_LEAST: Final = timedelta(hours=1)


class Capturing(Protocol):
    """What is needed of captured records."""

    def ask(self, device_id: str, *, model: str, reason: str, limit: int, by: str) -> CaptureFetch:
        """Ask a device for its newest records."""
        ...

    def fetch(self, device_id: str, fetch_id: str) -> CaptureFetch:
        """Return how a fetch stands."""
        ...


class Devices(Protocol):
    """Knows where a release runs."""

    def running(self, release: str, limit: int) -> Sequence[str]:
        """Return devices that run a release, by id."""
        ...


def begin(session: Session, row: RetrainingRun, captures: Capturing, devices: Devices) -> str:
    """Ask devices for records in the caller's transaction, and write down which; return what it waits for, "" for nothing."""
    wanted = DataWanted(**row.plan["data"])
    named = list(dict.fromkeys([*row.cause.get("devices", ()), *devices.running(row.parent, wanted.devices)]))
    chosen, reasons = named[: wanted.devices], [*wanted.reasons] or [*ANY]
    limit = max(1, wanted.most // max(1, len(chosen) * len(reasons)))
    asked: list[dict[str, Any]] = []
    for device in chosen:
        for reason in reasons:
            if len(asked) >= wanted.most:
                break
            try:
                with session.begin_nested():
                    made = captures.ask(
                        device, model=row.model, reason=reason, limit=min(limit, 10_000), by=f"retraining {row.id}"
                    )
            except NoCaptureKeyError:
                row.collected = asdict(Collected())
                return ""
            except EdgefleetError:  # it was revoked, or has too much to do: others answer
                continue
            asked.append({"device": device, "fetch": made.id})
    row.fetches = asked
    row.collected = asdict(Collected(asked=len({one["device"] for one in asked})))
    return f"{row.collected['asked']} devices were asked for records" if asked else ""


class Look(StrEnum):
    """How a collection stands: it goes on, goes on for its first record alone, is over, or ended without one."""

    WAITS = "waits"
    WAITS_FOR_FIRST = "waits for the first"
    OVER = "over"
    NOTHING_CAME = "nothing came"


def look(row: RetrainingRun, captures: Capturing, now: datetime) -> tuple[Collected, Look]:
    """Return what has come, and how it stands. It is over when all have answered, or when the time for it is up."""
    left: set[str] = set()
    records = 0
    for one in row.fetches:
        try:
            fetch = captures.fetch(one["device"], one["fetch"])
        except EdgefleetError:  # it was pruned, or its device is gone
            continue
        records += fetch.received
        if fetch.state == ASKED:
            left.add(one["device"])
    devices = {one["device"] for one in row.fetches}
    wait = timedelta(seconds=row.plan["data"]["wait_s"])
    passed, came = now - row.state_since, Collected(len(devices), len(devices - left), records)
    if not left or not wait or (records and passed >= wait):
        return came, Look.OVER
    if passed < wait:
        return came, Look.WAITS
    return came, Look.NOTHING_CAME if passed >= max(_PATIENCE * wait, _LEAST) else Look.WAITS_FOR_FIRST
