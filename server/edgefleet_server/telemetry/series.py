"""The newest trend of many devices, and windows one after another for those who follow them. Figures over time: `timelines`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.db.database import Database
from edgefleet_server.telemetry import store

TREND_WINDOWS: Final = 24
MOST_PEERS: Final = 100
LOOKED_AT: Final = 2_000
"""Windows of other devices that are looked at to find some."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The 95th percentile of latency of a model's newest windows in ms, oldest first; None where a window counted nothing."""

    model: str
    p95_ms: Sequence[float | None]

    @property
    def newest(self) -> float | None:
        """The newest that was counted."""
        return next((one for one in reversed(self.p95_ms) if one is not None), None)


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """One window of real requests in a few figures. bad: errors, timeouts and crashes. p95_ms: None where nothing was counted."""

    id: int
    device: str
    model: str
    version: str
    at: datetime
    n: int
    bad: int
    nonfinite: int
    p95_ms: float | None


class SeriesReader:
    """Reads telemetry over time. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Wire the database."""
        self._db = db

    def position(self) -> int:
        """Return the id of the newest window, 0 without one."""
        with self._db.read() as session:
            return store.newest_window_id(session)

    def after(self, position: int, settled: datetime, limit: int) -> list[WindowFigures]:
        """Return windows after an id, oldest first, until the first that was received after `settled`: following so loses none."""
        found: list[WindowFigures] = []
        with self._db.read() as session:
            for key, device, model, version, at, n, errors, timeouts, nonfinite, crashes, p95 in store.windows_after(
                session, position, limit
            ):
                if at > settled:
                    break
                bad = errors + timeouts + crashes
                found.append(WindowFigures(key, device, model, version, at, n, bad, nonfinite, p95))
        return found

    def trends(self, devices: Sequence[str]) -> dict[str, list[Trend]]:
        """Return the newest trend of each model of each of these devices, in order of model; devices without any are left out."""
        found: dict[str, dict[str, list[float | None]]] = {}
        if devices:
            with self._db.read() as session:
                for device, model, p95 in store.trend_rows(session, devices, windows=TREND_WINDOWS):
                    found.setdefault(device, {}).setdefault(model, []).append(p95)
        return {
            device: [Trend(model, tuple(reversed(figures))) for model, figures in sorted(models.items())]
            for device, models in found.items()
        }

    def peers(
        self, device: str, model: str, digests: Sequence[str], since: datetime, until: datetime
    ) -> dict[str, float]:
        """Return the newest p95 of a model in ms of devices, but one, that answered from these bundles: at most MOST_PEERS of them."""
        with self._db.read() as session:
            near = store.devices_of_bundles(session, digests, since, until, windows=LOOKED_AT, but=device)
        found = self.trends(near[:MOST_PEERS])
        newest = {one: next((t.newest for t in trends if t.model == model), None) for one, trends in found.items()}
        return {one: p95_ms for one, p95_ms in newest.items() if p95_ms is not None}
