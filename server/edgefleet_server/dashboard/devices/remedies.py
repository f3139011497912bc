"""What would help a device, and what would not: from its explanation, its alerts, and why its latency rose. Pure.

Rules:
1. A remedy is an act that this server has a form for, or a thing to look at where the device stands. The worst trouble goes first.
2. What would not help is said only where something known speaks against it: a release that failed is not tried again, a device that is
   away hears nothing, a release that is ruled out as the cause stays out of it.
3. At most MOST remedies: beyond that a person reads the reasons, not a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.dashboard.devices.health_panel import cleared_release, lasting
from edgefleet_server.fleet.inventory.views import DeviceView, ReportedModel, release_of
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.rollout.status.explanation import DeviceExplanation, ModelExplanation
from edgefleet_server.telemetry.latency.views import LatencyCause, LatencyExplanation

MOST: Final = 4
AWAY: Final = (DeviceStatus.OFFLINE, DeviceStatus.UNKNOWN)
TROUBLED: Final = ("failed", "rolled_back")
CAUSES: Final[Mapping[str, str]] = {
    "release": "Go back to the release before",
    "throttling": "Check its cooling and its power supply",
    "load": "Spread its requests over more devices",
    "processor": "Find out what else runs on it",
    "memory": "Find out what takes its memory",
    "disk": "Find out what fills its disk",
    "candidate": "End the experiment that runs on it",
    "other_models": "Move a model to another device",
    "inputs": "Look at what its inputs became",
}
"""What helps against a cause of latency."""
HARDWARE: Final = ("throttling",)


class Act(StrEnum):
    """What a button does: each is a form of an operation, or a link."""

    LOGS = "logs"
    DIAGNOSTICS = "diagnostics"
    RESTART = "restart"
    ROLLBACK = "rollback"
    SILENCE = "silence"
    CLEAR = "clear"
    CAPTURES = "captures"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Offer:
    """One button. release: of a rollback; alert: that is silenced; words, address: of a link."""

    act: Act
    release: str = ""
    alert: AlertView | None = None
    words: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to do: what, why, and the buttons for it."""

    title: str
    why: str
    offers: Sequence[Offer] = ()


@dataclass(frozen=True, slots=True)
class Remedies:
    """What would help, what would not, and the commands that say the same."""

    found: Sequence[Remedy]
    useless: Sequence[str]
    waits: Sequence[str]
    commands: Sequence[str]

    @property
    def count(self) -> str:
        """How many there are, in words."""
        return (
            "nothing to do" if not self.found else f"{len(self.found)} suggestion{'s' if len(self.found) > 1 else ''}"
        )


def remedies(
    device: DeviceView,
    explanation: DeviceExplanation,
    alerts: Sequence[AlertView],
    rises: Sequence[LatencyExplanation] = (),
    *,
    is_hot: bool = False,
) -> Remedies:
    """Return what would help a device. rises: why the latency of its models rose; is_hot: its health says so."""
    if device.status is DeviceStatus.REVOKED:
        return Remedies((), (), (), ())
    firing = [one for one in alerts if one.state is AlertState.FIRING and not one.suppressed_by]
    risen = lasting(rises)
    found = [*_presence(device, firing), *_updates(device, explanation), *_latency(device, risen, firing)]
    if is_hot and all(one.title != CAUSES["throttling"] for one in found):
        why = "Heat or low voltage takes away its clock, or soon does. No release mends it."
        found.append(Remedy(CAUSES["throttling"], why, [Offer(Act.DIAGNOSTICS)]))
    found += [*_answers(device, firing), *_words(device), *_room(firing)]
    useless = [*_useless_while_away(device), *_useless_again(device), *_useless_rollbacks(device, risen)]
    commands = [f"edgectl device explain {device.id}"]
    commands += [f"edgectl model explain {one.model} --device {device.id}" for one in risen]
    return Remedies(found[:MOST], useless, [_wait(one) for one in explanation.items if _waits(one)], commands)


def _silence(alert: AlertView | None) -> list[Offer]:
    return [] if alert is None else [Offer(Act.SILENCE, alert=alert)]


def _first(firing: Sequence[AlertView], rule: str, model: str = "") -> AlertView | None:
    """Return the first alert of a rule, about a model where one is named."""
    return next((one for one in firing if one.rule == rule and model in {"", one.labels.get("model")}), None)


def _presence(device: DeviceView, firing: Sequence[AlertView]) -> Iterator[Remedy]:
    if device.status is DeviceStatus.OFFLINE:
        why = "Its document and what it is asked to do wait here; it keeps answering with what it runs."
        yield Remedy("Check its power and its network", why, _silence(_first(firing, "device_offline")))
    elif device.status is DeviceStatus.UNKNOWN:
        yield Remedy("Start the agent on it", "Nothing was heard of it: `edge-agent doctor` on the device says why.")


def _updates(device: DeviceView, explanation: DeviceExplanation) -> Iterator[Remedy]:
    reported = {one.model: one for one in device.models}
    for item in explanation.items:
        one = reported.get(item.model)
        if one is not None and one.phase in TROUBLED:
            offers = [Offer(Act.LOGS), Offer(Act.DIAGNOSTICS)]
            if item.rollout:
                offers.append(_open_rollout(item.rollout))
            yield Remedy(f"Find out why {item.wanted or item.model} did not run", _sentence(item.why), offers)
    if device.refused is not None and device.refused.gen > device.reported_gen:
        why = f"{device.refused.code}: {device.refused.reason}"
        yield Remedy("Read why it refused its document", _sentence(why), [Offer(Act.LOGS)])


def _latency(device: DeviceView, risen: Sequence[LatencyExplanation], firing: Sequence[AlertView]) -> Iterator[Remedy]:
    for one in risen:
        cause = next((cause for cause in one.causes if cause.verdict == "likely"), None)
        look = Offer(Act.OPEN, words="See the evidence", address=f"/models/{one.model}/latency?device={device.id}")
        if cause is None:
            why = f"{one.said} A log or diagnostics may say more."
            yield Remedy(f"Find out why {one.model} is slow", why, [Offer(Act.DIAGNOSTICS), look])
            continue
        offers = [look, *_silence(_first(firing, "latency_up", one.model))]
        standby = _standby(device, one.model)
        if cause.kind == "release" and standby:
            offers.insert(0, Offer(Act.ROLLBACK, release=standby))
        elif cause.kind in {"processor", "memory", "disk"}:
            offers.insert(0, Offer(Act.DIAGNOSTICS))
        yield Remedy(CAUSES.get(cause.kind, cause.title), _latency_why(one, cause), offers)


def _latency_why(one: LatencyExplanation, cause: LatencyCause) -> str:
    near = f" {one.parts - one.slower} other devices with its bundle stayed fast." if one.parts - one.slower > 1 else ""
    no_release = " No release mends it." if cause.kind in HARDWARE else ""
    return f"{_sentence(cause.said)}{near}{no_release}"


def _answers(device: DeviceView, firing: Sequence[AlertView]) -> Iterator[Remedy]:
    for rule, title, first in (
        ("not_finite", "Look at the inputs of the answers that are not finite", Act.CAPTURES),
        ("error_share", "Read why its requests fail", Act.LOGS),
    ):
        for alert in [one for one in firing if one.rule == rule]:
            standby = _standby(device, alert.labels.get("model", ""))
            back = [Offer(Act.ROLLBACK, release=standby)] if standby else []
            yield Remedy(title, _sentence(alert.summary), [Offer(first), *back, *_silence(alert)])


def _words(device: DeviceView) -> Iterator[Remedy]:
    if device.suspect_since is not None:
        why = f"{_sentence(device.suspect_reason)} It may lie, or its memory or storage may be broken: find out why first."
        yield Remedy("Clear the suspicion", why.strip(), [Offer(Act.DIAGNOSTICS), Offer(Act.CLEAR)])


def _room(firing: Sequence[AlertView]) -> Iterator[Remedy]:
    disk, certificate = _first(firing, "disk_full"), _first(firing, "certificate_ends")
    if disk is not None:
        yield Remedy("Free some disk", f"It {disk.summary}.", [Offer(Act.DIAGNOSTICS), *_silence(disk)])
    if certificate is not None:
        yield Remedy("Find out why its certificate is not renewed", f"It {certificate.summary}.", [Offer(Act.LOGS)])


def _useless_while_away(device: DeviceView) -> Iterator[str]:
    if device.status in AWAY:
        yield "restarting it, or requesting logs: it hears nothing until it connects."


def _useless_again(device: DeviceView) -> Iterator[str]:
    wanted = {one.model: one for one in device.desired.models}
    for one in device.models:
        if one.phase in TROUBLED and one.model in wanted and one.wanted_sha256 == wanted[one.model].sha256:
            yield f"deploying {wanted[one.model].release} again: a release that failed on a device is not tried again."


def _useless_rollbacks(device: DeviceView, risen: Sequence[LatencyExplanation]) -> Iterator[str]:
    for one in risen:
        standby = _standby(device, one.model)
        release = cleared_release(one)
        if standby and release is not None:
            why = f": {release.against[0]}" if release.against else ""
            yield f"rolling back to {standby}: the release is not the cause{why}."


def _waits(one: ModelExplanation) -> bool:
    return not one.is_settled and one.next.startswith("nothing")


def _wait(one: ModelExplanation) -> str:
    return f"{one.wanted or one.model}: {one.why}."


def _standby(device: DeviceView, model: str) -> str:
    """Return what the other slot of a model holds, "" when that is nothing or what is wanted."""
    wanted = {one.model: one.release for one in device.desired.models}
    release = next((_previous(one) for one in device.models if one.model == model), "")
    return "" if release == wanted.get(model) else release


def _previous(one: ReportedModel) -> str:
    return (release_of(one.previous_target) or "") if one.previous_target else ""


def _open_rollout(rollout: str) -> Offer:
    return Offer(Act.OPEN, words="Open the rollout", address=f"/rollouts/{rollout}")


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""
