"""What a spec would do with the devices there are: who belongs to which stage, by which rule it is judged, what cannot work.

Pure: the same spec, salt and devices give the same plan, which is also what a rollout with this salt does while nobody joins
or leaves. An error is something that the rollout would wait for in vain; it is refused. A warning is worth a second look.
Source: design README §7.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.costing import NO_COST, PlanCost
from edgefleet_server.rollout.evidence import log_e_promote, threshold
from edgefleet_server.rollout.membership import count_below, cut_of, rank, shares, stage_of
from edgefleet_server.rollout.model import Bundle, InstallGate, Member, Promote, Rule, Spec, StageSpec
from edgefleet_server.rollout.quality_planning import OUT_OF_REACH, first_out_of_reach
from edgefleet_server.rollout.reading import duration_text
from edgefleet_server.rollout.rules import devices_needed, rule_for
from edgefleet_server.rollout.spec import size_text

MAX_DEVICES_SHOWN: Final = 50
SHORT_ACK: Final = timedelta(minutes=1)
NONE_HERE: Final = "skipped here once it has passed in another stratum"

# ---- codes of findings: stable

NOTHING_MATCHED: Final = "nothing_matched"
NO_BUNDLE: Final = "no_bundle"
STRATUM_WITHOUT_BUNDLE: Final = "stratum_without_bundle"
STAGE_TOO_SMALL: Final = "stage_too_small"
STRATUM_TOO_SMALL: Final = "stratum_too_small"
STAGE_SKIPPED: Final = "stage_skipped"
STAGE_ADDS_NOTHING: Final = "stage_adds_nothing"
NO_ROOM_FOR_FAILURES: Final = "no_room_for_failures"
SINGLE_DEVICE: Final = "single_device"
NO_SOAK: Final = "no_soak"
SHORT_ACK_DEADLINE: Final = "short_ack_deadline"
INCONCLUSIVE_BEFORE_SOAK: Final = "inconclusive_before_soak"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a spec that its author should know. stage: its index; None when it is about the whole spec."""

    level: Literal["error", "warning"]
    code: str
    stage: int | None
    stratum: str | None
    message: str
    next: str


@dataclass(frozen=True, slots=True)
class StratumView:
    """One stratum: how many devices match, and the target of their bundle (None: the release has none for them)."""

    stratum: str
    population: int
    bundle: str | None


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A device of a stage, and why it is in this one."""

    device: str
    why: str


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One stage of one stratum. new: devices that it adds; cumulative: with those of the stages before; devices: the first 50."""

    stratum: str
    rule: str
    why: str
    new: int
    cumulative: int
    devices: tuple[PlannedDevice, ...]


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage over all strata."""

    idx: int
    name: str
    size_text: str
    soak_s: int
    strata: tuple[PlannedCell, ...]


@dataclass(frozen=True, slots=True)
class ExcludedDevice:
    """A device that the selector matches but that cannot take part."""

    device: str
    profile: str
    reason: str
    next: str


@dataclass(frozen=True, slots=True)
class PlanView:
    """The plan of a rollout. ok: no finding is an error."""

    release: str
    selector: str
    matched: int
    ok: bool
    findings: tuple[Finding, ...]
    strata: tuple[StratumView, ...]
    stages: tuple[PlannedStage, ...]
    excluded: tuple[ExcludedDevice, ...]
    cost: PlanCost = NO_COST


@dataclass(frozen=True, slots=True)
class _Stratum:
    """A stratum that takes part: its devices by rank, and the cut of every stage."""

    name: ProfileName
    ranked: tuple[tuple[int, DeviceId], ...]
    cuts: tuple[int, ...]

    @property
    def population(self) -> int:
        return len(self.ranked)

    def reached(self, stage: int) -> int:
        """Return how many devices the stage and those before it have."""
        return count_below([value for value, _ in self.ranked], self.cuts[stage])

    def added(self, stage: int) -> int:
        """Return how many devices the stage adds."""
        return self.reached(stage) - (self.reached(stage - 1) if stage else 0)


def plan(
    spec: Spec,
    salt: str,
    members: Sequence[Member],
    bundles: Mapping[ProfileName, Bundle],
    cuts: Mapping[tuple[int, ProfileName], int] | None = None,
) -> PlanView:
    """Return what a spec does with `members`, the devices that its selector matches now, and what speaks against it.

    bundles: of the release, by profile. cuts: those of cells (stage, stratum) that a running rollout opened already; they
    stay as they are.
    """
    groups: dict[ProfileName, list[DeviceId]] = defaultdict(list)
    for member in members:
        groups[member.stratum].append(member.device)
    fit = {name: devices for name, devices in groups.items() if name in bundles}
    strata = _strata(spec, salt, fit, cuts or {})
    findings = (
        *_about_members(spec, groups, fit),
        *_about_stages(spec, strata),
        *_about_quality(spec, strata),
        *_about_times(spec),
    )
    return PlanView(
        release=spec.release,
        selector=spec.selector,
        matched=len(members),
        ok=all(finding.level != "error" for finding in findings),
        findings=tuple(sorted(findings, key=lambda finding: finding.level)),
        strata=tuple(
            StratumView(name, len(groups[name]), bundles[name].target if name in bundles else None)
            for name in sorted(groups)
        ),
        stages=tuple(_stage_view(spec, index, strata) for index in range(len(spec.stages))),
        excluded=tuple(_excluded(spec, groups, fit)),
    )


def with_findings(made: PlanView, more: Iterable[Finding]) -> PlanView:
    """Return a plan with more findings, errors first."""
    found = sorted((*made.findings, *more), key=lambda finding: finding.level)
    return replace(made, findings=tuple(found), ok=all(finding.level != "error" for finding in found))


def _strata(
    spec: Spec,
    salt: str,
    groups: Mapping[ProfileName, Sequence[DeviceId]],
    known: Mapping[tuple[int, ProfileName], int],
) -> list[_Stratum]:
    populations = {name: len(devices) for name, devices in groups.items()}
    totals = [
        shares(stage.size.count, populations) if stage.size.count_total and stage.size.count is not None else {}
        for stage in spec.stages
    ]
    strata = []
    for name in sorted(groups):
        ranked = tuple(sorted((rank(salt, device), device) for device in groups[name]))
        ranks = [value for value, _ in ranked]
        cuts: list[int] = []
        for index, stage in enumerate(spec.stages):
            previous = max(cuts, default=0)
            fixed = known.get((index, name))
            fresh = cut_of(stage.size, ranks, previous, totals[index].get(name))
            cuts.append(fresh if fixed is None else max(fixed, previous))
        strata.append(_Stratum(name, ranked, tuple(cuts)))
    return strata


# ---- what is shown


def _stage_view(spec: Spec, index: int, strata: Sequence[_Stratum]) -> PlannedStage:
    stage = spec.stages[index]
    return PlannedStage(
        idx=index,
        name=stage.name,
        size_text=size_text(stage.size),
        soak_s=int(stage.soak.total_seconds()),
        strata=tuple(_cell_view(spec, index, stratum) for stratum in strata),
    )


def _cell_view(spec: Spec, index: int, stratum: _Stratum) -> PlannedCell:
    stage = spec.stages[index]
    rule = rule_for(stage.promote, stratum.population, spec.gate)
    reached, added = stratum.reached(index), stratum.added(index)
    first = reached - added
    devices = tuple(
        PlannedDevice(device, _why_here(stratum, index, place))
        for place, (_, device) in enumerate(stratum.ranked[first : min(reached, first + MAX_DEVICES_SHOWN)], first + 1)
    )
    why = _why_rule(stage, rule, stratum.population, spec.gate) if reached else NONE_HERE
    return PlannedCell(stratum.name, rule.value, why, added, reached, devices)


def _why_here(stratum: _Stratum, index: int, place: int) -> str:
    value, _ = stratum.ranked[place - 1]
    assert stage_of(value, stratum.cuts) == index, "places follow ranks"
    reached = stratum.reached(index)
    return f"number {place} of {stratum.population} by rank; the stage reaches number {reached}"


def _why_rule(stage: StageSpec, rule: Rule, population: int, gate: InstallGate) -> str:
    needed = devices_needed(Rule.EVIDENCE, population, gate)
    if rule is Rule.EVIDENCE:
        size = "" if stage.promote is Promote.EVIDENCE else f"{population} devices, {needed:.0f} suffice: "
        return f"{size}evidence must show that less than {100 * gate.promote_below:g} % fail"
    if stage.promote is Promote.ALL_HEALTHY:
        return "the spec says so: all must be healthy"
    return f"fewer than {needed:.0f} devices: all must be healthy"


def _excluded(
    spec: Spec, groups: Mapping[ProfileName, Sequence[DeviceId]], fit: Mapping[ProfileName, object]
) -> Iterator[ExcludedDevice]:
    for name in sorted(set(groups) - set(fit)):
        for device in sorted(groups[name]):
            yield ExcludedDevice(
                device, name, f"{spec.release} has no bundle for profile {name}", _get_bundle(spec, name)
            )


def _get_bundle(spec: Spec, profile: str) -> str:
    return f"`edgectl release show {spec.release}` tells why {profile} has none; or leave the profile out: profile!={profile}"


# ---- findings


def _about_members(
    spec: Spec, groups: Mapping[ProfileName, Sequence[DeviceId]], fit: Mapping[ProfileName, object]
) -> Iterator[Finding]:
    if not groups:
        what = f"no device matches {spec.selector!r}" if spec.selector else "there is no device"
        advice = "see `edgectl device list`; labels are set with `edgectl device label`"
        yield Finding("error", NOTHING_MATCHED, None, None, what, advice)
        return
    for name in sorted(set(groups) - set(fit)):
        count = len(groups[name])
        told = f"{spec.release} has no bundle for profile {name}: {_devices(count)} left out"
        yield Finding("warning", STRATUM_WITHOUT_BUNDLE, None, name, told, _get_bundle(spec, name))
    if not fit:
        told = f"{spec.release} has no bundle for any of the {_devices(sum(map(len, groups.values())))} that match"
        advice = f"`edgectl release show {spec.release}` tells what was built and what was refused"
        yield Finding("error", NO_BUNDLE, None, None, told, advice)


def _about_stages(spec: Spec, strata: Sequence[_Stratum]) -> Iterator[Finding]:
    for stratum in strata:
        if stratum.population == 1:
            told = f"{stratum.name} has one device: whatever is promoted there rests on it alone"
            advice = "nothing to do if you know; it says so in the decision (strength: weak)"
            yield Finding("warning", SINGLE_DEVICE, None, stratum.name, told, advice)
    for index, stage in enumerate(spec.stages):
        for stratum in strata:
            yield from _about_cell(spec, index, stratum)
        is_needed = index == len(spec.stages) - 1 and spec.stages[index - 1].size.percent != 100  # for joiners
        if index and strata and not is_needed and not any(stratum.added(index) for stratum in strata):
            told = f"stage {stage.name} adds no device in any stratum: it only waits once more"
            yield Finding("warning", STAGE_ADDS_NOTHING, index, None, told, "remove it, or make it larger")


def _about_cell(spec: Spec, index: int, stratum: _Stratum) -> Iterator[Finding]:
    stage, reached, population = spec.stages[index], stratum.reached(index), stratum.population
    rule = rule_for(stage.promote, population, spec.gate)
    needed = devices_needed(rule, population, spec.gate)
    if reached == 0:
        told = f"stage {stage.name} has no device of {stratum.name}: {NONE_HERE}"
        yield Finding("warning", STAGE_SKIPPED, index, stratum.name, told, "raise the count, or write min: 2")
    elif population < needed:
        told = (
            f"stage {stage.name} asks for evidence in {stratum.name}: it takes {needed:.0f} devices without a failure, "
            f"and there are {population}"
        )
        advice = "write promote: auto or all_healthy, or raise gates.install.promote_below or alpha_promote"
        yield Finding("error", STRATUM_TOO_SMALL, index, stratum.name, told, advice)
    elif reached < needed:
        told = (
            f"stage {stage.name} reaches {reached} of {_devices(population)} of {stratum.name}, and never passes: "
            f"{_need_in_words(rule, needed)}"
        )
        yield Finding("error", STAGE_TOO_SMALL, index, stratum.name, told, _enlarge(rule, needed))
    elif rule is Rule.EVIDENCE and index < len(spec.stages) - 1 and not _stands_a_failure(reached, spec.gate):
        told = (
            f"stage {stage.name} reaches {_devices(reached)} of {stratum.name}: it passes only if not one of them fails"
        )
        yield Finding(
            "warning", NO_ROOM_FOR_FAILURES, index, stratum.name, told, "make it larger, if that is too strict"
        )


def _about_quality(spec: Spec, strata: Sequence[_Stratum]) -> Iterator[Finding]:
    if spec.quality is None:
        return
    for stratum in strata:
        reached = [stratum.reached(index) for index in range(len(spec.stages))]
        found = first_out_of_reach(spec.quality, spec.gate.alpha_promote, stratum.population, reached)
        if found is not None:
            index, told, advice = found
            where = f"stage {spec.stages[index].name} of {stratum.name}"
            yield Finding("error", OUT_OF_REACH, index, stratum.name, f"{where}: {told}", advice)


def _need_in_words(rule: Rule, needed: float) -> str:
    if rule is Rule.EVIDENCE:
        return f"promotion on evidence takes {needed:.0f} devices without a failure"
    return f"at least {needed:.0f} devices must be healthy"


def _enlarge(rule: Rule, needed: float) -> str:
    also = ", or promote: all_healthy for this stage" if rule is Rule.EVIDENCE else ""
    return f"write min: {needed:.0f} in its size{also}"


def _stands_a_failure(reached: int, gate: InstallGate) -> bool:
    return log_e_promote(1, reached, gate.promote_below) >= threshold(gate.alpha_promote)


def _about_times(spec: Spec) -> Iterator[Finding]:
    first = spec.stages[0]
    if len(spec.stages) > 1 and first.soak < timedelta(seconds=1):
        told = f"stage {first.name} has no soak: a release that fails after a minute is in the next stage by then"
        yield Finding("warning", NO_SOAK, 0, None, told, "write a soak that is as long as trouble takes to show")
    if spec.device.ack < SHORT_ACK:
        told = f"ack_deadline is {duration_text(spec.device.ack)}: a device that reconnects meanwhile counts as unreachable"
        yield Finding("warning", SHORT_ACK_DEADLINE, None, None, told, "write at least 1m")
    after = spec.on_inconclusive.after
    for index, stage in enumerate(spec.stages):
        if after <= stage.soak:
            told = (
                f"stage {stage.name} soaks for {duration_text(stage.soak)}, but after {duration_text(after)} without a verdict "
                f"on_inconclusive says {spec.on_inconclusive.do.value}"
            )
            advice = "make on_inconclusive.after longer than the soak and the time that the devices need"
            yield Finding("warning", INCONCLUSIVE_BEFORE_SOAK, index, None, told, advice)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
