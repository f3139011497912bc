"""Why a device does not run what it should: what is between the desired document and the report, and what would move it. Pure.

The first thing on the way from the document to the report that is not as it should be is named, one line a model; where the device has a
place in a rollout that is not settled, what the rollout says of it is added. The names of the fields are public: never renamed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import CHILD_DIED_CODE, SPREAD_CODE
from edgefleet_server.fleet.inventory.views import DesiredModel, DeviceView, ReportedModel, probation_text
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.rollout.status.devices import RolloutDevice
from edgefleet_server.rollout.status.model import of_device
from edgefleet_terms.reserved_labels import PIN_LABEL

_COMMITTED: Final = "committed"
_UNDER_WAY: Final[Mapping[str, str]] = {
    "downloading": "it is downloading the bundle",
    "verifying": "it is checking the bundle's signature and digest",
    "preflight": "it is checking for enough disk and memory",
    "golden": "it is answering the golden inputs",
    "warming": "the new version is warming up alongside the old one",
    "switching": "it is switching to the new version",
    "probation": "it runs the new version on probation, which ends after 500 answers or half an hour, unless set otherwise there",
}
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


@dataclass(frozen=True)
class ModelExplanation:
    """One model of a device. why: what is in the way; next: what to do, "" when nothing; rollout: the open one that it has a place in."""

    model: str
    wanted: str | None
    running: str | None
    is_settled: bool
    why: str
    next: str
    rollout: str | None


@dataclass(frozen=True)
class DeviceExplanation:
    """Why a device does not run what it should. pinned: why it takes no part in rollouts, "" when it does."""

    device: str
    status: DeviceStatus
    pinned: str
    items: Sequence[ModelExplanation]


@dataclass(frozen=True)
class Place:
    """The place of a device in a rollout that is not settled. is_regressed: the rollout turned out bad after it had finished."""

    rollout: str
    is_regressed: bool
    device: RolloutDevice


def explain(device: DeviceView, places: Mapping[str, Place], now: datetime) -> DeviceExplanation:
    """Return what is in the way of each model. places: by model."""
    wanted = {one.model: one for one in device.desired.models}
    reported = {one.model: one for one in device.models}
    items = []
    for model in sorted({*wanted, *reported, *places}):
        why, next_step, is_settled = _reason(device, wanted.get(model), reported.get(model), now)
        place = places.get(model)
        if place is not None:
            why, next_step = _with_place(why, next_step, place)
        items.append(
            ModelExplanation(
                model=model,
                wanted=wanted[model].release if model in wanted else None,
                running=reported[model].release if model in reported else None,
                is_settled=is_settled and not next_step,
                why=why,
                next=next_step,
                rollout=place.rollout if place else None,
            )
        )
    return DeviceExplanation(device.id, device.status, _pin(device), items)


def _pin(device: DeviceView) -> str:
    return "" if PIN_LABEL not in device.labels else device.labels[PIN_LABEL] or "no reason given"


def _reason(
    device: DeviceView, wanted: DesiredModel | None, report: ReportedModel | None, now: datetime
) -> tuple[str, str, bool]:
    """Return why, what to do, and whether it runs as it should."""
    if wanted is not None and report is not None and _is_settled(wanted, report) and _refusal(device) is None:
        return "it runs as it should", "", True
    return (*(_refusal(device) or _lag(device, wanted, report, now)), False)


def _refusal(device: DeviceView) -> tuple[str, str] | None:
    """Return what speaks against the document itself, None where nothing does."""
    refused, gen = device.refused, device.desired.gen
    if refused is None:
        return None
    refusal = f"{refused.code}: {refused.reason}"
    if refused.gen >= gen > device.reported_gen:
        return f"it refused document {refused.gen}: {refusal}", f"`edgectl device logs {device.id}`"
    if refused.code == CHILD_DIED_CODE:
        advice = f"nothing, or make room: `edgectl device logs {device.id}` shows its memory and disk"
        return f"its document is waiting there: {refusal}", advice
    if not refused.gen:
        advice = "nothing: the server signs it again by itself; its log says why if it does not"
        return f"it has seen newer metadata than the server has: {refusal}", advice
    return None


def _lag(
    device: DeviceView, wanted: DesiredModel | None, report: ReportedModel | None, now: datetime
) -> tuple[str, str]:
    """Return how far the device is behind the document."""
    if wanted is None and report is None:
        return "no version of it is deployed here yet", ""
    if device.status in {DeviceStatus.OFFLINE, DeviceStatus.UNKNOWN}:
        since = "was never seen" if device.last_seen is None else f"was last seen {_age(device.last_seen, now)} ago"
        status = "offline" if device.status is DeviceStatus.OFFLINE else "not known to be online"
        message = f"it is {status} and {since}; it gets its document when it connects"
        return message, "check the device's network"
    gen, logs = device.desired.gen, f"`edgectl device logs {device.id}`"
    if device.reported_gen < gen:
        return f"it has not accepted document {gen} yet (latest accepted: {device.reported_gen})", logs
    if wanted is None:
        return "it is being removed", "it finishes its current work first"
    if report is None:
        return "it has not started", logs
    return _progress(device.id, wanted, report, now)


def _is_settled(wanted: DesiredModel, report: ReportedModel) -> bool:
    return wanted.sha256 == report.sha256 and report.phase == _COMMITTED


def _progress(device: str, wanted: DesiredModel, report: ReportedModel, now: datetime) -> tuple[str, str]:
    if report.error_code == SPREAD_CODE:
        return report.reason or "-", "nothing: it starts by itself"
    if report.wanted_sha256 != wanted.sha256:
        return "it has the document but has not started on this bundle", f"`edgectl device logs {device}`"
    phase = report.phase
    if phase in _UNDER_WAY:
        done = report.progress_pct
        share = f" ({done} %)" if phase == "downloading" and done else ""
        message = _UNDER_WAY[phase] + share
        if report.probation is not None:
            since = _age(report.changed_at, now)
            message = f"it has run the new version on probation for {since}: {probation_text(report.probation)}"
        return message, f"`edgectl device show {device}`"
    message = ": ".join(word for word in (report.error_class, report.reason) if word) or f"it says {phase or 'nothing'}"
    return (
        f"{phase.replace('_', ' ')}: {message}",
        f"`edgectl device diag {device}`; a release that failed is not tried again",
    )


def _with_place(why: str, next_step: str, place: Place) -> tuple[str, str]:
    """Add what an open rollout says of the device."""
    regressed = ", which regressed after it had finished," if place.is_regressed else ""
    message = [f"in {place.rollout}{regressed} it is {place.device.state}"]
    if place.device.waits_for:
        waits = of_device(place.device.waits_for)
        message.append(waits if waits != place.device.waits_for else f"waits for {waits}")
    elif place.device.reason:
        message.append(place.device.reason)
    return (
        f"{why}; {', '.join(message)}",
        _next_of(place.device) or next_step or f"`edgectl rollout explain {place.rollout}`",
    )


def _next_of(device: RolloutDevice) -> str:
    """Return what moves a device of a rollout on."""
    if device.moves and not device.next:
        return "nothing: it continues by itself"
    return device.next


def _age(then: datetime, now: datetime) -> str:
    """Return how long ago it was: `12s`, `5m`, `3h`, `2d`."""
    seconds = max(0, int((now - then).total_seconds()))
    if seconds < _MINUTE_S:
        return f"{seconds}s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S}m"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S}h"
    return f"{seconds // _DAY_S}d"
