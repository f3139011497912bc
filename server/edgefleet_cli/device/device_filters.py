"""Which devices `edgectl device list` shows, and in which order: flags become a selector for the server, or are looked at here. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import PAGE_SIZE
from edgefleet_cli.render.format import until_s

STATUSES = ("online", "offline", "unknown", "revoked")
_NEVER = float("inf")


@dataclass(frozen=True)
class DeviceListFilter:
    """What is asked for. stale_s: not seen for so long; sort: a key, with a minus in front the other way round."""

    selector: str = ""
    status: str = ""
    running: str = ""
    desired: str = ""
    stale_s: float | None = None
    sort: str = ""
    limit: int | None = None

    @property
    def is_looked_at_here(self) -> bool:
        """Tell whether all devices that the selector matches have to be read before one can be shown. Raises UsageError."""
        order = self.server_sort()
        is_one_page = self.limit is not None and self.limit <= PAGE_SIZE
        is_sorted_here = bool(self.sort) and (order is None or not is_one_page)
        return is_sorted_here or bool(self.desired) or self.stale_s is not None

    def server_sort(self) -> str | None:
        """Return the order as the server names it, None where it has none. Raises UsageError for a key that nothing is sorted by."""
        key = self.sort.removeprefix("-")
        if self.sort and key not in SORT_KEYS:
            raise UsageError(
                f"devices are not sorted by {key!r}",
                why=f"expected one of {', '.join(SORT_KEYS)}",
                next_step="a leading minus reverses the order: --sort=-seen",
            )
        order = SERVER_ORDERS.get(key)
        if order is None or key == self.sort:
            return order
        return order.removeprefix("-") if order.startswith("-") else f"-{order}"

    def server_selector(self) -> str | None:
        """Return the selector for the server. Raises UsageError for a status that there is none of."""
        words = [self.selector] if self.selector.strip() else []
        if self.status:
            given = [one.strip() for one in self.status.split(",") if one.strip()]
            unknown = [one for one in given if one not in STATUSES]
            if unknown or not given:
                raise UsageError(
                    f"{unknown[0] if unknown else self.status!r} is not a status",
                    why=f"a device is {', '.join(STATUSES)}",
                    next_step="e.g. --status offline,unknown",
                )
            words.append(f"status in ({','.join(given)})")
        if self.running:
            model, at, version = self.running.partition("@")
            words.append(f"model.{model}={version}" if at else f"model.{model}")
        return ",".join(words) or None

    def chosen(self, devices: Iterable[Reply[api.device.Device]], now: datetime) -> list[Reply[api.device.Device]]:
        """Return the devices that are shown, in order."""
        found = [one for one in devices if _wants(one.value, self.desired) and _is_stale(one.value, self.stale_s, now)]
        if self.sort:
            key = SORT_KEYS[self.sort.removeprefix("-")]
            found.sort(key=lambda one: one.value.id)
            found.sort(key=lambda one: key(one.value, now), reverse=self.sort.startswith("-"))
        return found[: self.limit]


def _wants(device: api.device.Device, release: str) -> bool:
    if not release:
        return True
    names = [model.release for model in device.desired.models]
    return any(name == release or name.partition("@")[0] == release for name in names)


def _is_stale(device: api.device.Device, stale_s: float | None, now: datetime) -> bool:
    return stale_s is None or _unseen_s(device, now) >= stale_s


def _unseen_s(device: api.device.Device, now: datetime) -> float:
    ahead_s = until_s(device.last_seen, now)
    return _NEVER if ahead_s is None else -ahead_s


def _status(device: api.device.Device, _now: datetime) -> int:
    return STATUSES.index(device.status) if device.status in STATUSES else len(STATUSES)


SORT_KEYS: dict[str, Callable[[api.device.Device, datetime], Any]] = {
    "id": lambda device, _now: device.id,
    "profile": lambda device, _now: device.profile,
    "status": _status,
    "arch": lambda device, _now: device.arch,
    "agent": lambda device, _now: device.agent_version,
    "seen": _unseen_s,
    "free": lambda device, _now: device.free_mb if device.free_mb is not None else -1,
}
"""`seen`: the one that was seen last comes first."""

SERVER_ORDERS: dict[str, str] = {"id": "id", "profile": "profile", "status": "status", "seen": "-last_seen"}
"""Orders that the server walks an index for, where one page is wanted. The others need every device at hand; and over many pages a
device whose place changes meanwhile would come twice or not at all."""
