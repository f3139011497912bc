"""What is said of a signal of a release: whether it moved, how much, and where in the fleet. Pure.

1. A figure of many devices is a mean or median over devices, so one device moves it by no more than its part.
2. A signal drifts when a test says that it is no chance and the effect is no smaller than a floor: a PSI of 0.02 on a device, of 0.005
   on many, of 0.1 where devices are so few that nobody knows how they differ by nature. Tested are all devices, each crowd of them
   (site, profile, group) and each device against the others (`cluster_test`); the limit of a test is such that all tests of a model
   together are wrong about once a year.
3. Where it moved is then read from the size of the effect on each device (`location`).
4. Of a device alone, or of two, there is no spread to compare with. Then its own steps before say how its answers hang together, by
   the detector that runs on devices (ADR 0099). What that says there, and with what the device says itself (a `drift` event that is
   not over), counts for that device alone, and only with an effect in what it sent.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgefleet_protocol.drift.design_effect import Effect, learn
from edgefleet_protocol.drift.detector import (
    ALPHA,
    FLEET_FLOOR,
    LONGER_WINDOWS,
    PSI_FLOOR,
    SIGNALS,
    WINDOWS,
    Word,
    judge,
)
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import SignalKind
from edgefleet_server.telemetry.drift.cluster_test import (
    ENOUGH,
    Chance,
    Sampled,
    against_expected,
    each_against_peers,
    mean_shares,
)
from edgefleet_server.telemetry.drift.location import Crowd, Location, Where, crowds_of, locate
from edgefleet_server.telemetry.drift.model import Heard, Member, SignalSpec
from edgefleet_server.telemetry.signals.model import Scale

PLAIN: Final = 0.1
"""Effect with which a device counts as moved, where others moved more; and the least that is said of few devices."""
MIN_ANSWERS: Final = 100
"""Of a device in a period, to have a say."""
PLAINLY: Final = -3.0
"""log10 of the chance at which the rest of the devices counts as moved, once it is sure that some did."""
LEAST_REST: Final = 2
YEAR_S: Final = 365.25 * 86_400
OUTPUTS: Final = frozenset({SignalKind.OUTPUT, SignalKind.CONFIDENCE, SignalKind.CLASSES})


class SignalState(StrEnum):
    """What is said of a signal. Public, never renamed."""

    DRIFT = "drift"
    SAME = "same"
    SMALL = "small"
    FEW = "few"


class DriftKind(StrEnum):
    """Which side of a model moved. Public, never renamed."""

    NONE = "none"
    DATA = "data"
    PREDICTION = "prediction"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class DeviceEffect:
    """One device's signal. psi: less what sampling makes of it; shift_z: None where values have no mean."""

    member: Member
    n: int
    psi: float
    shift_z: float | None
    shares: Sequence[float]
    has_moved: bool = False


@dataclass(frozen=True, slots=True)
class SignalFinding:
    """What is said of one signal. Figures are of the devices that moved, of all where none did.

    psi, shift_z: effect and shift of the mean in standard deviations; spread: standard deviation as a multiple of the reference's;
    missing, beyond: shares of answers without a value, and outside of what the reference ever saw; before, after: shares of bins, the
    last one of those without a value; chance: of the test that decided, as log10; devices: moved of those that have a say.
    """

    spec: SignalSpec
    state: SignalState
    location: Location
    psi: float
    shift_z: float | None
    spread: float | None
    missing: float
    missing_before: float
    beyond: float
    before: Sequence[float]
    after: Sequence[float]
    log10_p: float
    moved: Sequence[DeviceEffect]
    effects: Sequence[DeviceEffect]

    @property
    def is_output(self) -> bool:
        """Return whether it is of what the model answers."""
        return self.spec.kind in OUTPUTS


@dataclass(frozen=True, slots=True)
class CrowdEffect:
    """A signal in one crowd of devices."""

    crowd: Crowd | None
    devices: int
    n: int
    psi: float
    shift_z: float | None
    shares: Sequence[float]
    log10_p: float


def limit_log10(scale: Scale, signals: int, tests: int) -> float:
    """Return the limit of a test as log10, so that all tests of a model are wrong about once a year: a third of that for each scale."""
    return -math.log10(len(Scale) * max(1, signals) * (YEAR_S / scale.seconds) * max(1, tests))


def expected_shares(spec: SignalSpec) -> list[float]:
    """Return the shares of a reference, never quite nothing: what was not seen among n may still be as rare as that."""
    whole = spec.n + 0.5 * len(spec.counts)
    return [(count + 0.5) / whole for count in spec.counts]


def shares_of(heard: Heard) -> list[float]:
    """Return the shares of a device's answers, the last one of those without a value."""
    n = heard.n
    return [count / n for count in (*heard.sums.bins, heard.sums.missing)]


def psi_of(shares: Sequence[float], expected: Sequence[float], n: float) -> float:
    """Return the population stability index of shares of n answers; none of them is quite nothing."""
    whole = 1 + 0.5 * len(shares) / n
    found = [(share + 0.5 / n) / whole for share in shares]
    return sum((a - b) * math.log(a / b) for a, b in zip(found, expected, strict=True))


def judge_signal(
    spec: SignalSpec, heard: Sequence[Heard], scale: Scale, signals: int, words: Collection[str] = ()
) -> SignalFinding:
    """Return what is said of a signal. heard: a period of each device; signals: how many are judged with it; words: the devices
    that say themselves that it drifts.
    """
    expected = expected_shares(spec)
    able = [one for one in heard if one.n >= MIN_ANSWERS]
    if not able:
        return _finding(spec, SignalState.FEW, Location(Where.NOWHERE), [], [], 0.0, heard)
    effects = _effects(spec, able, expected)
    crowds = crowds_of([one.member for one in able])
    tests = 1 + len(crowds) + len(able)
    chances = _chances(spec, effects, crowds, expected)
    limit = limit_log10(scale, signals, tests)
    sure = {key: one for key, one in chances.items() if one.log10_p <= limit}
    has_enough = len(able) - 2 >= ENOUGH
    strong = {
        key: one for key, one in sure.items() if _effect_of(key, effects, spec) >= _floor(key, has_enough=has_enough)
    }
    log10_p = min((one.log10_p for one in chances.values()), default=0.0)
    said = [one for one in effects if one.member.device in words and one.psi >= _least_effect(one)]
    if not strong and said:
        found = locate([one.member for one in able], {one.member.device for one in said}, crowds)
        return _finding(spec, SignalState.DRIFT, found, said, effects, log10_p, able)
    if not strong:
        state = SignalState.SMALL if sure else SignalState.SAME
        return _finding(spec, state, Location(Where.NOWHERE), [], effects, log10_p, able)
    moved = _moved(effects, strong)
    members = [one.member for one in able]
    found = locate(members, {one.member.device for one in moved}, crowds)
    if found.where is not Where.ALL and _has_rest_moved(moved, effects, spec):
        found = Location(Where.ALL)
    shown = effects if found.where is Where.ALL else moved
    return _finding(spec, SignalState.DRIFT, found, shown, effects, log10_p, able)


def has_own_drift(spec: SignalSpec, before: Sequence[SignalSums], now: SignalSums, scale: Scale, signals: int) -> bool:
    """Say whether a step of one device differs from what is expected by more than its own steps before let chance make."""
    expected, effect = spec.counts[:-1], Effect()
    for step in before:
        effect = learn(effect, expected, step.bins, missing=step.missing)
    least = LONGER_WINDOWS.get(scale.value, WINDOWS)
    alpha = ALPHA * SIGNALS / max(SIGNALS, signals)
    return judge(expected, now.bins, effect, alpha=alpha, least=least).verdict == Word.DRIFT


def crowd_effects(spec: SignalSpec, heard: Sequence[Heard]) -> list[CrowdEffect]:
    """Return a signal in all devices that have a say, and in each crowd of them."""
    expected = expected_shares(spec)
    able = [one for one in heard if one.n >= MIN_ANSWERS]
    if not able:
        return []
    effects = _effects(spec, able, expected)
    every: list[Crowd | None] = [None, *crowds_of([one.member for one in able])]
    found = []
    for crowd in every:
        inside = effects if crowd is None else [one for one in effects if one.member.device in crowd.devices]
        n = sum(one.n for one in inside)
        shares = mean_shares([one.shares for one in inside])
        chance = _against_reference(inside, effects, expected, spec)
        found.append(
            CrowdEffect(
                crowd, len(inside), n, psi_of(shares, expected, n), _middle([one.shift_z for one in inside]), shares, chance.log10_p
            )
        )  # fmt: skip
    return found


def site_effects(found: SignalFinding) -> list[tuple[str, int, int, float]]:
    """Return of each site of a finding, by name: how many devices have a say, how many of them moved, and the effect of their mean."""
    by_site: dict[str, list[DeviceEffect]] = {}
    for one in found.effects:
        by_site.setdefault(one.member.site, []).append(one)
    return [
        (site, len(inside), sum(one.has_moved for one in inside), max(0.0, _mean_effect(inside, found.spec)))
        for site, inside in sorted(by_site.items())
    ]


def drift_kind(findings: Sequence[SignalFinding]) -> DriftKind:
    """Return which side of the model moved."""
    drifting = [one for one in findings if one.state is SignalState.DRIFT]
    sides = {one.is_output for one in drifting}
    if len(sides) == 2:
        return DriftKind.BOTH
    if not sides:
        return DriftKind.NONE
    return DriftKind.PREDICTION if True in sides else DriftKind.DATA


Tested = str | Crowd
"""What a test was of: "" for all devices, a crowd, or a device."""


def _chances(
    spec: SignalSpec, effects: Sequence[DeviceEffect], crowds: Sequence[Crowd], expected: Sequence[float]
) -> dict[Tested, Chance]:
    """Return the tests of all devices, of each crowd, and of each device against its peers."""
    found: dict[Tested, Chance] = {"": _against_reference(effects, effects, expected, spec)}
    for crowd in crowds:
        inside = [one for one in effects if one.member.device in crowd.devices]
        found[crowd] = _against_reference(inside, effects, expected, spec)
    calm = [at for at, one in enumerate(effects) if one.psi < PLAIN]
    peers = calm if 3 * len(calm) > 2 * len(effects) else range(len(effects))
    each = each_against_peers(_sampled(effects), frozenset(peers), expected)
    return found | {one.member.device: chance for one, chance in zip(effects, each, strict=True)}


def _against_reference(
    inside: Sequence[DeviceEffect], every: Sequence[DeviceEffect], expected: Sequence[float], spec: SignalSpec
) -> Chance:
    named = {one.member.device for one in inside}
    outside = [one for one in every if one.member.device not in named]
    return against_expected(_sampled(inside), _sampled(outside), expected, spec.n)


def _sampled(effects: Sequence[DeviceEffect]) -> Sampled:
    return Sampled([one.shares for one in effects], [one.n for one in effects])


def _floor(key: Tested, *, has_enough: bool) -> float:
    """Return the least effect that is worth a word: of many devices together a smaller one is."""
    if not has_enough:
        return PLAIN
    return PSI_FLOOR if isinstance(key, str) and key else FLEET_FLOOR


def _effect_of(key: Tested, effects: Sequence[DeviceEffect], spec: SignalSpec) -> float:
    """Return the effect of what a test was of: of many devices that of their mean."""
    if isinstance(key, str) and key:
        return next(one.psi for one in effects if one.member.device == key)
    return _mean_effect([one for one in effects if _holds(key, one.member.device)], spec)


def _mean_effect(inside: Sequence[DeviceEffect], spec: SignalSpec) -> float:
    """Return the effect of the mean of devices, less what sampling makes of it."""
    expected = expected_shares(spec)
    n = sum(one.n for one in inside)
    return psi_of(mean_shares([one.shares for one in inside]), expected, n) - (len(expected) - 1) * (1 / n + 1 / spec.n)


def _moved(effects: Sequence[DeviceEffect], strong: Mapping[Tested, Chance]) -> list[DeviceEffect]:
    """Return the devices that moved, by the size of the effect on each; where it is too small for that, those that were tested."""
    largest = max(one.psi for one in effects)
    least = min(PLAIN, largest / 4)
    found = [one for one in effects if one.psi >= max(least, _least_effect(one))]
    if found:
        return found
    key = min(strong, key=lambda one: strong[one].log10_p)
    return [one for one in effects if _holds(key, one.member.device)]


def _has_rest_moved(moved: Sequence[DeviceEffect], effects: Sequence[DeviceEffect], spec: SignalSpec) -> bool:
    """Say whether the other devices moved as well, each too little to be told from chance: then it is everywhere."""
    named = {one.member.device for one in moved}
    rest = [one for one in effects if one.member.device not in named]
    if len(rest) < LEAST_REST:
        return False
    chance = _against_reference(rest, effects, expected_shares(spec), spec)
    effect, of_moved = _mean_effect(rest, spec), _mean_effect(moved, spec)
    return chance.log10_p <= PLAINLY and effect >= max(FLEET_FLOOR, of_moved / 4)


def _least_effect(one: DeviceEffect) -> float:
    """Return the effect on one device that is no mere sampling: three standard deviations of what sampling makes of PSI."""
    return max(PSI_FLOOR, 3 * math.sqrt(2 * (len(one.shares) - 1)) / one.n)


def _holds(key: Tested, device: str) -> bool:
    return device in key.devices if isinstance(key, Crowd) else key in {"", device}


def _effects(spec: SignalSpec, heard: Sequence[Heard], expected: Sequence[float]) -> list[DeviceEffect]:
    found = []
    for one in heard:
        shares = shares_of(one)
        noise = (len(shares) - 1) / one.n
        psi = max(0.0, psi_of(shares, expected, one.n) - noise)
        shift = one.sums.mean_z - spec.mean_z if spec.has_sums and one.sums.n else None
        found.append(DeviceEffect(one.member, one.n, psi, shift, shares))
    return found


def _finding(
    spec: SignalSpec,
    state: SignalState,
    location: Location,
    moved: Sequence[DeviceEffect],
    effects: Sequence[DeviceEffect],
    log10_p: float,
    heard: Sequence[Heard],
) -> SignalFinding:
    expected = expected_shares(spec)
    shown = moved or effects
    after = mean_shares([one.shares for one in shown]) if shown else []
    n = sum(one.n for one in shown)
    chosen = {one.member.device for one in shown}
    sums = [one.sums for one in heard if one.member.device in chosen]
    noise = (len(expected) - 1) / n if n else 0.0
    whole = sum(spec.counts) or 1
    named = {one.member.device for one in moved}
    return SignalFinding(
        spec=spec,
        state=state,
        location=location,
        psi=max(0.0, psi_of(after, expected, n) - noise) if shown else 0.0,
        shift_z=_middle([one.shift_z for one in shown]),
        spread=_middle([one.std_z for one in sums if one.n]) if spec.has_sums else None,
        missing=after[-1] if after else 0.0,
        missing_before=spec.counts[-1] / whole,
        beyond=statistics.fmean([one.beyond / one.n if one.n else 0.0 for one in sums]) if sums else 0.0,
        before=[count / whole for count in spec.counts],
        after=after,
        log10_p=log10_p,
        moved=sorted(moved, key=lambda one: -one.psi),
        effects=[
            DeviceEffect(one.member, one.n, one.psi, one.shift_z, one.shares, one.member.device in named)
            for one in sorted(effects, key=lambda one: -one.psi)
        ],
    )


def _middle(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.median(known) if known else None
