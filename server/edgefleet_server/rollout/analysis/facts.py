"""What a decision about a cell rests on, counted from the assignments. Pure.

Planner, explanation and tests count with it; the promotion rule is one of them. Accepted failures count nowhere; exposed means that the
device took up its document, whatever became of it then. A device counts once: one that failed and is tried again on a person's word stays a
failure, of the class that weighs most, and is nothing else besides.
"""

import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import repeat
from typing import Final, TypeVar, assert_never

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.budget_facts import budget_fact
from edgefleet_server.rollout.analysis.confirmation import words_of
from edgefleet_server.rollout.analysis.metrics import quality_facts
from edgefleet_server.rollout.analysis.model import Counts, Facts, QualityFacts, Rule
from edgefleet_server.rollout.analysis.stage_gates import facts_of_gates, has_failing_metrics
from edgefleet_server.rollout.failure_ratio import clean_needed, with_hidden_failures
from edgefleet_server.rollout.model import Assignment, Lot, Snapshot, StageRun, Strength
from edgefleet_server.rollout.spec.model import InstallGate, Promote, Spec, gate_in
from edgefleet_server.rollout.state_machines import (
    EXPOSED_STATES,
    OUTSIDE,
    UNCOUNTED,
    class_of,
    is_exposed,
    is_failure,
    is_gone,
    soak_end,
)


def rule_for(promote: Promote, population: int, gate: InstallGate) -> Rule:
    """Return the rule that a stage uses in a stratum of `population` devices.

    auto: `all_healthy` where even a stratum without a failure is too small for the evidence of `gate` (73 at its defaults).
    """
    match promote:
        case Promote.ALL_HEALTHY:
            return Rule.ALL_HEALTHY
        case Promote.EVIDENCE:
            return Rule.EVIDENCE
        case Promote.AUTO:
            return Rule.EVIDENCE if population >= devices_needed(Rule.EVIDENCE, population, gate) else Rule.ALL_HEALTHY
        case _:
            assert_never(promote)


def devices_needed(rule: Rule, population: int, gate: InstallGate) -> float:
    """Return how many healthy devices of a stratum a stage must reach to pass without any failure; infinity: none suffice."""
    if rule is Rule.ALL_HEALTHY:
        return min(2, population)
    try:
        return clean_needed(with_hidden_failures(gate.promote_below, gate.liars), gate.alpha_promote)
    except ValueError:
        return math.inf


def rule_in(spec: Spec, stage: int, population: int, members: int) -> Rule:
    """Return the rule that a stage uses in a stratum of `population` devices of which `members` are in it or in stages before."""
    rule = rule_for(spec.stages[stage].promote, population, spec.gates.install)
    if (
        rule is Rule.EVIDENCE
        and stands_in(spec, stage)
        and members < devices_needed(rule, population, spec.gates.install)
    ):
        return Rule.ALL_HEALTHY
    return rule


def stands_in(spec: Spec, stage: int) -> bool:
    """Return whether somebody looks at what a stage has shown before the next one opens."""
    return stage + 1 < len(spec.stages) and spec.stages[stage + 1].approval is not None


_S: Final = AssignmentState

_Key = TypeVar("_Key")


def facts_of(snapshot: Snapshot, cell: StageRun, assignments: Iterable[Assignment], now: datetime) -> Facts:
    """Return what a decision about a cell rests on. assignments: of the whole rollout, as they are now."""
    return _facts(snapshot, cell, zip(assignments, repeat(1)), now, is_each_named=True)


def facts_of_lots(snapshot: Snapshot, cell: StageRun, lots: Iterable[Lot], now: datetime) -> Facts:
    """Return the same of assignments in lots, without `words`: these are about devices by name, and nothing is decided on lots.

    Where the spec has a quality gate each lot is one device: it is measured by name.
    """
    return _facts(snapshot, cell, lots, now, is_each_named=False)


def _facts(snapshot: Snapshot, cell: StageRun, lots: Iterable[Lot], now: datetime, *, is_each_named: bool) -> Facts:
    spec = snapshot.spec
    mode = spec.stages[cell.stage].mode  # a candidate shows nothing about how its release serves
    stages = {index for index, stage in enumerate(spec.stages) if stage.mode is mode}
    everything = [(a, n, is_failure(a), is_exposed(a)) for a, n in lots if a.stage in stages]
    lane = [one for one in everything if _is_in(cell, one[0]) and not one[0].is_accepted]
    healthy = [(a, n) for a, n, has_failed, _ in lane if a.state is _S.HEALTHY and not has_failed]
    soaked = sum(n for a, n in healthy if soak_end(snapshot, a, now) <= now)
    failures = _counted((class_of(a), n) for a, n, has_failed, _ in lane if has_failed)
    failed = failures.total()
    exposed = sum(n for _, n, _, is_out in lane if is_out)
    states = _counted((a.state, n) for a, n, has_failed, _ in lane if not has_failed)
    counts = Counts(
        members=failed + states.total() - sum(states[state] for state in UNCOUNTED),
        offered=states[_S.ELIGIBLE] + states[_S.OFFERED],
        exposed=exposed,
        pending=exposed - soaked - failed,
        healthy=soaked,
        failed=failed,
        unreachable=states[_S.UNREACHABLE],
        incompatible=states[_S.INCOMPATIBLE],
        accepted=sum(n for a, n, _, _ in everything if a.is_accepted and a.stratum == cell.stratum),
    )
    own = [
        (n, is_out)
        for a, n, has_failed, is_out in lane
        if a.stage == cell.stage and (has_failed or a.state not in OUTSIDE | {_S.UNREACHABLE})
    ]
    pool = [(n, has_failed, is_out) for a, n, has_failed, is_out in everything if not a.is_accepted]
    longest = now - timedelta(days=3650)
    since = max(cell.counts_from or longest, longest)
    return Facts(
        stage=cell.stage,
        stratum=cell.stratum,
        population=cell.population,
        counts=counts,
        failures=dict(sorted(failures.items())),
        soaking=sum(n for _, n in healthy) - soaked,
        stage_members=sum(n for n, _ in own),
        stage_tried=sum(n for n, is_out in own if is_out),
        pooled_exposed=sum(n for n, _, is_out in pool if is_out),
        pooled_failed=sum(n for n, has_failed, _ in pool if has_failed),
        rule=rule_in(spec, cell.stage, cell.population, counts.members),
        max_failure=spec.gates.install.max_failure,
        promote_below=spec.gates.install.promote_below,
        alpha_abort=spec.gates.install.alpha_abort,
        alpha_promote=spec.gates.install.alpha_promote,
        liars=spec.gates.install.liars,
        on_fail=spec.on_fail,
        open_for_s=max(0.0, (now - since).total_seconds()),
        inconclusive_after_s=spec.on_inconclusive.after.total_seconds(),
        inconclusive_do=spec.on_inconclusive.do,
        gates=facts_of_gates(spec.stages[cell.stage].gates, snapshot.answers.get((cell.stage, cell.stratum), {}), now),
        quality=_quality(snapshot, cell, (a for a, _, _, _ in lane)),
        beside_metrics=has_failing_metrics(spec),
        budget=budget_fact(snapshot, cell),
        words=words_of(snapshot, cell, (a for a, _, has_failed, _ in lane if has_failed)) if is_each_named else None,
    )


def _counted(pairs: Iterable[tuple[_Key, int]]) -> Counter[_Key]:
    found: Counter[_Key] = Counter()
    for key, n in pairs:
        found[key] += n
    return found


def _is_in(cell: StageRun, a: Assignment) -> bool:
    return a.stratum == cell.stratum and a.stage <= cell.stage


def _quality(snapshot: Snapshot, cell: StageRun, lane: Iterable[Assignment]) -> QualityFacts | None:
    """Return what the quality gate of a cell rests on, None where it does not judge the stage. lane: devices of the stratum so far.

    What was measured before a person let a stage pass is accepted: like accepted failures it counts nowhere.
    """
    gate = gate_in(snapshot.spec, cell.stage)
    if gate is None:
        return None
    overrides = [
        one.ended_at
        for one in snapshot.cells
        if one.stratum == cell.stratum and one.strength is Strength.OVERRIDE and one.ended_at is not None
    ]
    stages = snapshot.spec.stages
    mode = stages[cell.stage].mode  # values of a candidate are no values of a version that serves
    taken = [one for one in snapshot.measured if one.stratum == cell.stratum and stages[one.stage].mode is mode]
    accepted = {one.device for one in taken if any(one.taken_at <= moment for moment in overrides)}
    expected = [
        (a.device, a.stage)
        for a in lane
        if a.state in EXPOSED_STATES and not is_gone(a) and not a.failed_before and a.device not in accepted
    ]
    return quality_facts(gate, cell.stage, expected, taken)
