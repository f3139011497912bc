"""A finding of the lint: an error that is refused or a warning, with a stable code. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from edgefleet_protocol.ids import ProfileName
from edgefleet_server.rollout.analysis.facts import devices_needed, rule_for, rule_in, stands_in
from edgefleet_server.rollout.analysis.model import SMALL_STRATUM, Rule
from edgefleet_server.rollout.failure_ratio import log_e_promote, threshold, with_hidden_failures
from edgefleet_server.rollout.lint.quality_findings import OUT_OF_REACH, flaws, lasting, out_of_reach
from edgefleet_server.rollout.model import Bundle
from edgefleet_server.rollout.placement import Placed, count_places
from edgefleet_server.rollout.spec.model import InstallGate, Mode, OnFail, Spec, gate_in, profile_of
from edgefleet_server.rollout.spec.parts import duration_text

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

LIARS_MAY_HOLD: Final = "liars_may_hold"

ONE_REPORT_ROLLS_BACK: Final = "one_report_rolls_back"

SINGLE_DEVICE: Final = "single_device"

NO_SOAK: Final = "no_soak"

SHORT_ACK_DEADLINE: Final = "short_ack_deadline"

INCONCLUSIVE_BEFORE_SOAK: Final = "inconclusive_before_soak"

APPROVAL_STANDS_IN: Final = "approval_stands_in"

TOO_MANY_STRATA: Final = "too_many_strata"

OLDER_RELEASE: Final = "older_release"

SUSPECTS_COME_LAST: Final = "suspects_come_last"

UNPROVEN: Final = "unproven"

MAX_STRATA: Final = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a spec that its author should know. stage: its index; None when it is about the whole spec."""

    level: Literal["error", "warning"]
    code: str
    stage: int | None
    stratum: str | None
    message: str
    next: str


def lint(
    spec: Spec, counts: Mapping[ProfileName, int], pinned: int, bundles: Mapping[ProfileName, Bundle]
) -> tuple[Finding, ...]:
    """Return the findings of a plan over so many devices by stratum, pinned ones apart; of a spec that `is_countable` only."""
    fit = {name: count for name, count in counts.items() if ProfileName(profile_of(name)) in bundles}
    return _findings(spec, counts, count_places(spec, fit), pinned)


def _get_bundle(spec: Spec, profile: str) -> str:
    return f"`edgectl release show {spec.release}` tells why {profile} has none; or leave the profile out: profile!={profile}"


# ---- findings


def _findings(
    spec: Spec, counts: Mapping[ProfileName, int], strata: Sequence[Placed], pinned: int
) -> tuple[Finding, ...]:
    """Return what is to be said of a spec, errors first. counts: devices by stratum; strata: those that take part."""
    found = (
        *_about_members(spec, counts, {stratum.name for stratum in strata}, pinned),
        *_about_stages(spec, strata),
        *_about_quality(spec, strata),
        *_about_liars(spec, strata),
        *_about_confirmation(spec, strata),
        *_about_times(spec),
    )
    return tuple(sorted(found, key=lambda finding: finding.level))


def _about_members(
    spec: Spec, counts: Mapping[ProfileName, int], fit: Collection[ProfileName], pinned: int
) -> Iterator[Finding]:
    if not counts:
        what = f"no device matches {spec.selector!r}" if spec.selector else "there is no device"
        advice = "see `edgectl device list`; labels are set with `edgectl device label DEVICE KEY=VALUE`"
        if pinned:
            what, advice = (
                f"{_devices(pinned)} would take part, but each is pinned",
                "`edgectl rollout plan` says which",
            )
        yield Finding("error", NOTHING_MATCHED, None, None, what, advice)
        return
    for name in sorted(counts.keys() - set(fit)):
        message = f"{spec.release} has no bundle for profile {profile_of(name)}: {_devices(counts[name])} left out"
        yield Finding("warning", STRATUM_WITHOUT_BUNDLE, None, name, message, _get_bundle(spec, profile_of(name)))
    if len(counts) > MAX_STRATA:
        message = f"{len(counts)} strata ({', '.join(spec.strata)}): each is judged alone, at most {MAX_STRATA} can be"
        yield Finding("error", TOO_MANY_STRATA, None, None, message, "leave out the label that has so many values")
    if not fit:
        message = f"{spec.release} has no bundle for any of the {_devices(sum(counts.values()))} that match"
        advice = f"`edgectl release show {spec.release}` tells what was built and what was refused"
        yield Finding("error", NO_BUNDLE, None, None, message, advice)


def _about_stages(spec: Spec, strata: Sequence[Placed]) -> Iterator[Finding]:
    for stratum in strata:
        if stratum.population == 1:
            message = f"{stratum.name} has one device, so a promotion there rests on that device alone"
            advice = "nothing to do if that is intended; the decision is marked weak"
            yield Finding("warning", SINGLE_DEVICE, None, stratum.name, message, advice)
    for index, stage in enumerate(spec.stages):
        for stratum in strata:
            yield from _about_cell(spec, index, stratum)
        is_needed = index == len(spec.stages) - 1 and spec.stages[index - 1].size.percent != 100  # for joiners
        is_first = index and spec.stages[index - 1].mode is not stage.mode  # of its mode: all is new then
        if index and strata and not is_needed and not is_first and not any(one.added(index) for one in strata):
            message = f"stage {stage.name} adds no device in any stratum: it only waits once more"
            yield Finding("warning", STAGE_ADDS_NOTHING, index, None, message, "remove it, or make it larger")


def _about_cell(spec: Spec, index: int, stratum: Placed) -> Iterator[Finding]:
    stage, reached, population = spec.stages[index], stratum.reached(index), stratum.population_at(index)
    rule = rule_in(spec, index, population, reached)
    needed = devices_needed(rule, population, spec.gates.install)
    if reached and stands_in(spec, index) and rule is not rule_for(stage.promote, population, spec.gates.install):
        message = (
            f"stage {stage.name} reaches {_devices(reached)} of {stratum.name}, too few for evidence: all must be healthy, and "
            f"the approval of {spec.stages[index + 1].name} stands in for the rest"
        )
        yield Finding(
            "warning", APPROVAL_STANDS_IN, index, stratum.name, message, "who approves should know how little it shows"
        )
    if reached == 0:
        message = f"stage {stage.name} has no device of {stratum.name}: {NONE_HERE}"
        yield Finding("warning", STAGE_SKIPPED, index, stratum.name, message, "raise the count, or write min: 2")
    elif population < needed:
        message = (
            f"stage {stage.name} asks for evidence in {stratum.name}: it takes {needed:.0f} devices without a failure, "
            f"and there are {population}"
        )
        advice = "write promote: auto or all_healthy, or raise gates.install.promote_below or alpha_promote"
        yield Finding("error", STRATUM_TOO_SMALL, index, stratum.name, message, advice)
    elif reached < needed:
        message = (
            f"stage {stage.name} reaches {reached} of {_devices(population)} of {stratum.name}, and never passes: "
            f"{_need_in_words(rule, needed)}"
        )
        yield Finding("error", STAGE_TOO_SMALL, index, stratum.name, message, _enlarge(rule, needed))
    elif rule is Rule.EVIDENCE and index < len(spec.stages) - 1 and not _stands_a_failure(reached, spec.gates.install):
        message = (
            f"stage {stage.name} reaches {_devices(reached)} of {stratum.name}: it passes only if not one of them fails"
        )
        yield Finding(
            "warning", NO_ROOM_FOR_FAILURES, index, stratum.name, message, "make it larger, if that is too strict"
        )


def _about_liars(spec: Spec, strata: Sequence[Placed]) -> Iterator[Finding]:
    """Yield that the share of liars that a spec allows for can keep a good release from passing, where evidence is the rule."""
    gate = spec.gates.install
    below = with_hidden_failures(gate.promote_below, gate.liars)
    cells = ((index, stratum) for stratum in strata for index in range(len(spec.stages)))
    if gate.liars < below or not any(
        rule_in(spec, index, stratum.population_at(index), stratum.reached(index)) is Rule.EVIDENCE
        for index, stratum in cells
    ):
        return
    message = (
        f"gates.install.liars is {gate.liars:g}: if that share of the devices reports failures falsely, even a release that "
        f"never fails cannot show that less than {100 * below:.4g} % fail, and its stages wait for a person"
    )
    advice = "lower liars or raise promote_below, if nobody should be asked"
    yield Finding("warning", LIARS_MAY_HOLD, None, None, message, advice)


def about_suspects(
    spec: Spec, suspects: Mapping[ProfileName, int], counts: Mapping[ProfileName, int]
) -> Iterator[Finding]:
    """Yield where suspect devices take part, which only the last stage has. suspects, counts: devices by stratum."""
    if len(spec.stages) == 1:
        return
    last = spec.stages[-1].name
    advice = "`edgectl device list -l suspect` shows them; `edgectl device clear-suspicion DEVICE` trusts one again"
    for name in sorted(suspects):
        verb = "is" if suspects[name] == 1 else "are"
        message = f"{_devices(suspects[name])} of {name} {verb} suspect: only stage {last} has them"
        if suspects[name] == counts[name]:
            message = (
                f"all {_devices(counts[name])} of {name} are suspect: no stage before {last} tries the release there"
            )
        yield Finding("warning", SUSPECTS_COME_LAST, None, name, message, advice)


def about_unproven(spec: Spec, unproven: Collection[ProfileName], strata: Collection[ProfileName]) -> Iterator[Finding]:
    """Yield where devices get a bundle that only random input judged. unproven: those profiles; strata: one for each device."""
    is_shadowed = any(stage.mode is Mode.SHADOW for stage in spec.stages)
    shadow = "" if is_shadowed else "; or begin with a stage of `mode: shadow`, which compares it with what runs now"
    advice = f"publish it with data of your own (`--calibration`, `--eval`), which measures it{shadow}"
    devices = Counter(profile_of(name) for name in strata)
    for profile in sorted(devices.keys() & unproven):
        message = (
            f"{spec.release} is unproven on {profile}: its accuracy was not measured ({_devices(devices[profile])})"
        )
        stratum = profile if profile in strata else None
        yield Finding("warning", UNPROVEN, None, stratum, message, advice)


def _about_confirmation(spec: Spec, strata: Sequence[Placed]) -> Iterator[Finding]:
    """Yield that a spec asks no other device before it takes a release back."""
    sizes = [stratum.population for stratum in strata if stratum.population > 1]
    if spec.on_unconfirmed is OnFail.PAUSE or not sizes:
        return
    is_small = min(sizes) < SMALL_STRATUM
    what = "a crash, NaN, or a load, golden or signature failure" if is_small else "a golden or signature failure"
    does = "stops its whole stratum" if spec.on_fail is OnFail.PAUSE else "rolls its whole stratum back"
    message = (
        f"on_unconfirmed is rollback: one device that reports {what} {does}, and no other device is asked to confirm it"
    )
    advice = "leave on_unconfirmed out, unless each of these devices can be trusted"
    yield Finding("warning", ONE_REPORT_ROLLS_BACK, None, None, message, advice)


def _about_quality(spec: Spec, strata: Sequence[Placed]) -> Iterator[Finding]:
    if spec.gates.quality is None:
        return
    for level, code, message, advice in flaws(spec):
        yield Finding(level, code, None, None, message, advice)
    for stratum in strata:
        found = [
            (index, message, advice)
            for mode in dict.fromkeys(stage.mode for stage in spec.stages)
            for index, message, advice in _out_of_reach(spec, stratum, mode)
        ]
        found.sort(key=lambda one: (_waits_for_somebody(spec, one[0]), one[0]))
        for index, message, advice in found[:1]:  # the first one that waits for nobody, else the first
            where = f"stage {spec.stages[index].name} of {stratum.name}"
            is_mild = _waits_for_somebody(spec, index)
            yield Finding(
                "warning" if is_mild else "error", OUT_OF_REACH, index, stratum.name, f"{where}: {message}", advice
            )


def _waits_for_somebody(spec: Spec, stage: int) -> bool:
    """Return whether a stage without a verdict is there until a person promotes it: somebody is to come, and it does not go back before."""
    return stands_in(spec, stage) and spec.on_inconclusive.do is OnFail.PAUSE


def _out_of_reach(spec: Spec, stratum: Placed, mode: Mode) -> Iterator[tuple[int, str, str]]:
    """Yield the stages of a mode whose own gate cannot be met. Each mode is measured by itself; a device with the release is no control."""
    own = [index for index, stage in enumerate(spec.stages) if stage.mode is mode]
    gate = next((asked for index in own if (asked := gate_in(spec, index)) is not None), None)
    if gate is None:
        return
    lasts = lasting(spec, gate, stratum, own)
    for index, message, advice in out_of_reach(gate, spec.gates.install.alpha_promote, stratum, own, lasts):
        if gate_in(spec, index) is not None:
            yield index, message, advice


def _need_in_words(rule: Rule, needed: float) -> str:
    if rule is Rule.EVIDENCE:
        return f"promotion on evidence takes {needed:.0f} devices without a failure"
    return f"at least {needed:.0f} devices must be healthy"


def _enlarge(rule: Rule, needed: float) -> str:
    also = ", or promote: all_healthy for this stage" if rule is Rule.EVIDENCE else ""
    return f"write min: {needed:.0f} in its size{also}"


def _stands_a_failure(reached: int, gate: InstallGate) -> bool:
    below = with_hidden_failures(gate.promote_below, gate.liars)
    return log_e_promote(1, reached, below) >= threshold(gate.alpha_promote)


def _about_times(spec: Spec) -> Iterator[Finding]:
    first = spec.stages[0]
    if len(spec.stages) > 1 and first.soak < timedelta(seconds=1):
        message = f"stage {first.name} has no soak: a release that fails after a minute is in the next stage by then"
        yield Finding("warning", NO_SOAK, 0, None, message, "write a soak that is as long as trouble takes to show")
    if spec.device.ack < SHORT_ACK:
        message = f"ack_deadline is {duration_text(spec.device.ack)}: a device that reconnects meanwhile counts as unreachable"
        yield Finding("warning", SHORT_ACK_DEADLINE, None, None, message, "write at least 1m")
    after = spec.on_inconclusive.after
    for index, stage in enumerate(spec.stages):
        if after <= stage.soak:
            message = (
                f"stage {stage.name} soaks for {duration_text(stage.soak)}, but after {duration_text(after)} without a verdict "
                f"on_inconclusive says {spec.on_inconclusive.do.value}"
            )
            advice = "make on_inconclusive.after longer than the soak and the time that the devices need"
            yield Finding("warning", INCONCLUSIVE_BEFORE_SOAK, index, None, message, advice)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
