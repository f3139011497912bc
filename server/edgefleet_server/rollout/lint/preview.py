"""What a spec would do with the devices there are: who belongs to which stage, by which rule it is judged. Pure.

The same spec, salt and devices give the same plan, which is also what a rollout with this salt does while nobody joins or
leaves. An error is something that the rollout would wait for in vain; it is refused. A warning is worth a second look.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName, ReleaseRef
from edgefleet_server.fleet.model import NEXT_FOR_MODEL_KEY, NO_MODEL_KEY
from edgefleet_server.rollout.analysis.confirmation import MOST_DRAWN
from edgefleet_server.rollout.analysis.facts import devices_needed, rule_for, rule_in
from edgefleet_server.rollout.analysis.model import Rule
from edgefleet_server.rollout.analysis.power import StratumPower, stratum_power
from edgefleet_server.rollout.lint.download_cost import NO_COST, PlanCost
from edgefleet_server.rollout.lint.findings import (
    NONE_HERE,
    OLDER_RELEASE,
    Finding,
    _findings,
    _get_bundle,
    about_suspects,
)
from edgefleet_server.rollout.model import Bundle, Member
from edgefleet_server.rollout.placement import PlacedStratum, place
from edgefleet_server.rollout.spec.model import InstallGate, OnFail, Promote, Spec, StageSpec, profile_of
from edgefleet_server.rollout.spec.parser import dump_spec, stage_text
from edgefleet_terms.reserved_labels import PIN_LABEL

MAX_DEVICES_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class PlannedStratum:
    """One stratum: how many devices match, and the target of their bundle (None: the release has none for them).

    after_failure: what one serious failure does where there are only one, two or three devices, as a sentence; else "".
    """

    stratum: str
    population: int
    bundle: str | None
    after_failure: str = ""


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """A device of a stage, and why it is in this one."""

    device: str
    why: str
    display_name: str = ""


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
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class PlanView:
    """The plan of a rollout. ok: no finding is an error. power: what each stratum's stages can find out. spec: in normal form.

    suspects: how many devices are barred from all stages but the last, because they are suspect.
    """

    release: str
    selector: str
    matched: int
    ok: bool
    findings: tuple[Finding, ...]
    strata: tuple[PlannedStratum, ...]
    stages: tuple[PlannedStage, ...]
    excluded: tuple[ExcludedDevice, ...]
    cost: PlanCost = NO_COST
    power: tuple[StratumPower, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    suspects: int = 0


def plan(
    spec: Spec,
    salt: str,
    members: Sequence[Member],
    bundles: Mapping[ProfileName, Bundle],
    cuts: Mapping[tuple[int, ProfileName], int] | None = None,
    placed: Mapping[DeviceId, int] | None = None,
    *,
    with_power: bool = True,
) -> PlanView:
    """Return what a spec does with `members`, the devices that its selector matches now, and what speaks against it.

    bundles: of the release, by profile. cuts, placed: those of cells (stage, stratum) that a running rollout opened already,
    and the stages of devices that take part; they stay as they are. with_power: it takes a while where the gate is a new one.
    """
    groups: dict[ProfileName, list[Member]] = defaultdict(list)
    pinned = [member for member in members if member.pinned]
    for member in members:
        if not member.pinned:
            groups[member.stratum].append(member)
    targets = {name: bundles.get(ProfileName(profile_of(name))) for name in groups}
    fit = {name: some for name, some in groups.items() if targets[name] is not None}
    strata = place(spec, salt, fit, cuts or {}, placed or {})
    counts = {name: len(some) for name, some in groups.items()}
    suspects = {name: n for name, some in fit.items() if (n := sum(one.is_suspect for one in some))}
    made = PlanView(
        release=spec.release,
        selector=spec.selector,
        matched=len(members),
        ok=True,
        findings=(),
        strata=tuple(_stratum_view(spec, name, len(groups[name]), targets[name]) for name in sorted(groups)),
        stages=tuple(_stage_view(spec, index, strata) for index in range(len(spec.stages))),
        excluded=(*_excluded(spec, groups, fit), *map(_pinned, pinned)),
        power=tuple(_power(spec, stratum) for stratum in strata) if with_power else (),
        spec=dump_spec(spec),
        suspects=sum(suspects.values()) if len(spec.stages) > 1 else 0,
    )
    findings = (*_findings(spec, counts, strata, len(pinned)), *about_suspects(spec, suspects, counts))
    return with_findings(made, findings)


def with_findings(made: PlanView, more: Iterable[Finding]) -> PlanView:
    """Return a plan with more findings, errors first."""
    found = sorted((*made.findings, *more), key=lambda finding: finding.level)
    return replace(made, findings=tuple(found), ok=all(finding.level != "error" for finding in found))


def with_names(made: PlanView, names_of: Callable[[Sequence[DeviceId]], Mapping[str, str]]) -> PlanView:
    """Return a plan with the display names of the devices that it lists. names_of: returns them by id."""
    listed = [one.device for stage in made.stages for cell in stage.strata for one in cell.devices]
    names = names_of([DeviceId(one) for one in (*listed, *(one.device for one in made.excluded))])

    def named(cell: PlannedCell) -> PlannedCell:
        found = (replace(one, display_name=names.get(one.device, "")) for one in cell.devices)
        return replace(cell, devices=tuple(found))

    return replace(
        made,
        stages=tuple(replace(stage, strata=tuple(map(named, stage.strata))) for stage in made.stages),
        excluded=tuple(replace(one, display_name=names.get(one.device, "")) for one in made.excluded),
    )


def older_release(ref: ReleaseRef, message: str) -> Iterator[Finding]:
    """Yield that devices run a newer version than the release that goes out. message: says so, "" where none does."""
    if message:
        next_step = f"to roll back to what devices ran before: `edgectl undo {ref.model}`"
        yield Finding("warning", OLDER_RELEASE, None, None, message, next_step)


def _power(spec: Spec, stratum: PlacedStratum) -> StratumPower:
    reached = tuple(stratum.reached(index) for index in range(len(spec.stages)))
    return stratum_power(spec, stratum.name, stratum.population, reached)


# ---- what is shown


def _stratum_view(spec: Spec, name: ProfileName, population: int, bundle: Bundle | None) -> PlannedStratum:
    if bundle is None:
        return PlannedStratum(name, population, None)
    return PlannedStratum(name, population, bundle.target, _after_failure(spec, population))


def _after_failure(spec: Spec, population: int) -> str:
    """Return what a failure of the release does in a stratum of which few devices can confirm it."""
    ends = "the stratum stops for a person" if spec.on_fail is OnFail.PAUSE else "the stratum is rolled back"
    if population == 1:
        return "if its one device fails, the stage fails there; no other device is affected"
    if population <= MOST_DRAWN and spec.on_unconfirmed is OnFail.ROLLBACK:
        return f"if one of {population} devices fails, {ends} without asking the others"
    match population:
        case 2:
            return f"if one of 2 devices fails, {ends} only if the other fails, too; otherwise a person decides"
        case 3:
            return (
                f"if one of 3 devices fails, another one is drawn: if it fails, too, {ends}; otherwise a person decides"
            )
        case _:
            return ""


def _stage_view(spec: Spec, index: int, strata: Sequence[PlacedStratum]) -> PlannedStage:
    stage = spec.stages[index]
    return PlannedStage(
        idx=index,
        name=stage.name,
        size_text=stage_text(stage),
        soak_s=int(stage.soak.total_seconds()),
        strata=tuple(_cell_view(spec, index, stratum) for stratum in strata),
    )


def _cell_view(spec: Spec, index: int, stratum: PlacedStratum) -> PlannedCell:
    stage, population = spec.stages[index], stratum.stages[index].population
    reached, added = stratum.reached(index), stratum.added(index)
    rule = rule_in(spec, index, population, reached)
    devices = tuple(
        PlannedDevice(device, stratum.why_here(index, value))
        for value, device in stratum.stages[index].devices[:MAX_DEVICES_SHOWN]
    )
    why = _why_rule(stage, rule, population, spec.gates.install) if reached else NONE_HERE
    if rule is not rule_for(stage.promote, population, spec.gates.install):
        why = f"{reached} devices are too few for evidence: all must be healthy, and an approval stands in"
    return PlannedCell(stratum.name, rule.value, why, added, reached, devices)


def _why_rule(stage: StageSpec, rule: Rule, population: int, gate: InstallGate) -> str:
    needed = devices_needed(Rule.EVIDENCE, population, gate)
    if rule is Rule.EVIDENCE:
        size = "" if stage.promote is Promote.EVIDENCE else f"{population} devices, {needed:.0f} suffice: "
        hidden = f", also if {100 * gate.liars:g} % of the devices hide a failure" if gate.liars else ""
        return f"{size}evidence must show that less than {100 * gate.promote_below:g} % fail{hidden}"
    if stage.promote is Promote.ALL_HEALTHY:
        return "the spec says so: all must be healthy"
    return f"fewer than {needed:.0f} devices: all must be healthy"


def _excluded(
    spec: Spec, groups: Mapping[ProfileName, Sequence[Member]], fit: Mapping[ProfileName, object]
) -> Iterator[ExcludedDevice]:
    for name in sorted(set(groups) - set(fit)):
        profile = profile_of(name)
        for device in sorted(member.device for member in groups[name]):
            reason = f"{spec.release} has no bundle for profile {profile}"
            yield ExcludedDevice(device, profile, reason, _get_bundle(spec, profile))


def _pinned(member: Member) -> ExcludedDevice:
    advice = f"`edgectl device label {member.device} {PIN_LABEL}-` lets it take part"
    if member.pinned == NO_MODEL_KEY:
        advice = NEXT_FOR_MODEL_KEY
    return ExcludedDevice(member.device, profile_of(member.stratum), f"pinned: {member.pinned}", advice)
