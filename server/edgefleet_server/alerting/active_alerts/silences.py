"""Silences and maintenance windows: made, listed, ended, and what of them is in force."""

import base64
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts import store
from edgefleet_server.alerting.active_alerts.errors import BadSilenceError, BadWindowError
from edgefleet_server.alerting.active_alerts.model import MaintenanceWindowView, SilenceView
from edgefleet_server.alerting.active_alerts.suppression import Maintenance, Silence
from edgefleet_server.alerting.active_alerts.tables import AlertSilence, AlertWindow
from edgefleet_server.alerting.rules import parse_matcher
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.rollout.spec.maintenance_windows import MAX_WINDOW, TZ_DEVICE, Window, cron_flaw, opening, zone

LONGEST: Final = timedelta(days=366)
TZ_LABEL: Final = "tz"


class SilenceBook:
    """Makes silences and windows. Thread-safe; calls block."""

    def __init__(self, db: Database, devices: DeviceSelector, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._devices = devices
        self._clock = clock

    def now(self) -> datetime:
        """Return the time that silences go by."""
        return self._clock.now()

    # ---- silences

    def silence(
        self, matchers: Sequence[str], selector: str | None, until: datetime, comment: str, by: str
    ) -> SilenceView:
        """Keep matching alerts quiet until a time. Raises BadMatcherError, BadSelectorError, BadSilenceError."""
        now = self._clock.now()
        for one in matchers:
            parse_matcher(one)
        if not matchers and not selector:
            raise BadSilenceError(
                "this silence would match nothing",
                next_step='give a matcher such as `rule="device_offline"`, or a selector',
            )
        if selector:
            self._devices.select(selector)
        if not now < until <= now + LONGEST:
            raise BadSilenceError("it has to end within a year from now", next_step="give a time in the future")
        row = AlertSilence(
            id=_new_id("si"),
            matchers=list(matchers),
            selector=selector or None,
            comment=comment,
            created_at=now,
            created_by=by[:80],
            until=until,
        )
        with self._db.session() as session:
            session.add(row)
            session.flush()
        return self._silence_view(row, now, {})

    def silences(self) -> list[SilenceView]:
        """Return silences, newest first, also those that were over for a while."""
        now = self._clock.now()
        with self._db.read() as session:
            quiet = _quiet_counts(store.suppressors(session))
            return [self._silence_view(row, now, quiet) for row in store.silences(session)]

    def get_silence(self, silence_id: str) -> SilenceView:
        """Return one silence. Raises SilenceUnknownError."""
        now = self._clock.now()
        with self._db.read() as session:
            quiet = _quiet_counts(store.suppressors(session))
            return self._silence_view(store.known_silence(session, silence_id), now, quiet)

    def end_silence(self, silence_id: str) -> None:
        """End a silence now; it stays in the list for a while. Raises SilenceUnknownError."""
        with self._db.session() as session:
            row = store.known_silence(session, silence_id)
            row.until = min(row.until, self._clock.now())
            session.add(row)

    def _silence_view(self, row: AlertSilence, now: datetime, quiet: dict[str, int]) -> SilenceView:
        return SilenceView(
            id=row.id, matchers=row.matchers, selector=row.selector or "", comment=row.comment, created_at=row.created_at,
            created_by=row.created_by, until=row.until, is_over=row.until <= now, alerts=quiet.get(f"silence {row.id}", 0),
        )  # fmt: skip

    # ---- maintenance windows

    def open_regularly(
        self, name: str, cron: str, duration: timedelta, tz: str, selector: str, by: str
    ) -> MaintenanceWindowView:
        """Make a maintenance window. Raises BadWindowError, BadSelectorError."""
        if flaw := cron_flaw(cron):
            raise BadWindowError(
                f"{cron[:60]!r} is no cron expression: {flaw}",
                next_step='write for example "0 1 * * *": each night at one',
            )
        if tz != TZ_DEVICE and zone(tz) is None:
            raise BadWindowError(
                f"nobody knows the time zone {tz[:60]!r}", next_step="write device, UTC or one such as Europe/Berlin"
            )
        if not timedelta() < duration <= MAX_WINDOW:
            raise BadWindowError("a window lasts up to 7 days", next_step="give a duration such as 4h")
        self._devices.select(selector)
        row = AlertWindow(
            id=_new_id("mw"), name=name, cron=" ".join(cron.split()), duration_s=int(duration.total_seconds()), tz=tz,
            selector=selector, created_at=self._clock.now(), created_by=by[:80],
        )  # fmt: skip
        with self._db.session() as session:
            session.add(row)
            session.flush()
        return self._window_view(row)

    def windows(self) -> list[MaintenanceWindowView]:
        """Return the maintenance windows, oldest first."""
        with self._db.read() as session:
            return [self._window_view(row) for row in store.windows(session)]

    def get_window(self, window_id: str) -> MaintenanceWindowView:
        """Return one maintenance window. Raises WindowUnknownError."""
        with self._db.read() as session:
            return self._window_view(store.known_window(session, window_id))

    def delete_window(self, window_id: str) -> None:
        """Remove a maintenance window. Raises WindowUnknownError."""
        with self._db.session() as session:
            session.delete(store.known_window(session, window_id))

    def _window_view(self, row: AlertWindow) -> MaintenanceWindowView:
        # on the clock of the devices it has no time of its own
        is_own = row.tz != TZ_DEVICE
        now = opening([_window(row)], "UTC", self._clock.now()) if is_own else None
        return MaintenanceWindowView(
            id=row.id, name=row.name, cron=row.cron, duration_s=row.duration_s, tz=row.tz, selector=row.selector,
            created_at=row.created_at, created_by=row.created_by, is_open=now is not None and now.is_open,
            until=None if now is None else now.until,
        )  # fmt: skip

    # ---- in force

    def in_force(self, now: datetime) -> tuple[list[Silence], list[Maintenance]]:
        """Return what suppresses alerts at a moment. A selector that is wrong by now suppresses nothing."""
        with self._db.read() as session:
            silences, windows = list(store.silences(session, after=now)), list(store.windows(session))
        quiet = []
        for row in silences:
            try:
                devices = (
                    None if row.selector is None else frozenset(one.id for one in self._devices.select(row.selector))
                )
            except BadSelectorError:
                continue
            quiet.append(Silence(row.id, [parse_matcher(one) for one in row.matchers], devices))
        closed = [one for row in windows if (one := self._maintenance(row, now)) is not None]
        return quiet, closed

    def _maintenance(self, row: AlertWindow, now: datetime) -> Maintenance | None:
        window = _window(row)
        if row.tz != TZ_DEVICE and not opening([window], "UTC", now).is_open:
            return None
        try:
            found = self._devices.select(row.selector)
        except BadSelectorError:
            return None
        opened: dict[str, bool] = {}
        live = (one for one in found if one.status is not DeviceStatus.REVOKED)
        inside = frozenset(one.id for one in live if _is_open(window, one, now, opened))
        return Maintenance(row.name, inside) if inside else None


def _is_open(window: Window, device: DeviceFacts, now: datetime, opened: dict[str, bool]) -> bool:
    tz = str(device.labels.get(TZ_LABEL, "")) if window.tz == TZ_DEVICE else ""
    if tz not in opened:
        opened[tz] = opening([window], tz, now).is_open
    return opened[tz]


def _window(row: AlertWindow) -> Window:
    return Window(cron=row.cron, duration=timedelta(seconds=row.duration_s), tz=row.tz)


def _quiet_counts(reasons: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in reasons:
        found[one] = found.get(one, 0) + 1
    return found


def _new_id(kind: str) -> str:
    return f"{kind}-" + base64.b32encode(secrets.token_bytes(8)).decode().rstrip("=").lower()
