"""What is behind a rise of latency: each cause by what it was before and after, ranked. Pure.

Rules:
1. A cause is read in the strands (devices, or cohorts of them) whose own latency rose by half of the whole rise or more.
2. It counts by how much its change matters (`indicators`), how well it moved together with latency step by step, and in how many of these
   strands it changed. Figures are medians over strands, each with the weight of its answers.
3. What changed just as much in most of the strands that did not get slower is contradicted: it keeps a quarter. So is what had changed
   while answers stayed fast, and a release when what was answered by other versions meanwhile got as slow.
4. Rising temperature counts as throttling only where devices cannot say whether they throttle. A busier processor is no cause of its own
   where more requests explain it.
5. Latency is measured on the device, from request to answer: the network is not in it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgefleet_server.telemetry.latency.indicators import HEAT, INDICATORS, Context, Indicator, mix_of
from edgefleet_server.telemetry.latency.latency_rise import FEWEST, find_rise
from edgefleet_server.telemetry.latency.model import (
    VERDICT_ORDER,
    Answer,
    Case,
    CauseKind,
    CauseVerdict,
    Finding,
    Moment,
    Rise,
    Spread,
    Strand,
)

LIKELY: Final = 0.3
TOGETHER: Final = 0.6
SLIGHTLY: Final = 0.3
MOST: Final = 0.5
CONTRADICTED: Final = 0.25
FEWEST_UNHARMED: Final = 2
FEWEST_ANSWERS: Final = 20
PSI: Final = 0.25
EARLY_STEPS: Final = 3


@dataclass(frozen=True, slots=True)
class _Change:
    """One indicator in one strand."""

    before: float
    after: float
    matters: float
    together: float
    lead_s: int


def judge(case: Case) -> Answer:
    """Return whether latency rose, where, and what changed with it, the most likely cause first."""
    rise = find_rise(case.subject.moments, case.step_s)
    steps = sum(one.n > 0 for one in case.subject.moments)
    if rise is None:
        return Answer(None, Spread.NOWHERE, "", 0, 0, (), steps)
    least = math.log(rise.ratio) / 2
    known = [(one, _own_rise(one, rise)) for one in case.parts]
    hit = [one for one, higher in known if higher is not None and higher >= least]
    unharmed = [one for one, higher in known if higher is not None and higher < least / 2]
    mix = _device_mix(case, rise, hit)
    affected = hit or ([case.subject] if case.is_device else list(case.parts))
    findings = [_finding(one, affected, unharmed, rise, case.step_s) for one in INDICATORS]
    findings = [*_settled(findings, affected, unharmed, rise, case), _network(affected, rise)]
    if mix is not None:
        findings.append(mix)
    judged = [one for one, higher in known if higher is not None]
    spread, place = _spread(case, hit, judged)
    order = sorted(findings, key=lambda one: (VERDICT_ORDER.index(one.verdict), -one.score))
    return Answer(rise, spread, place, len(hit), len(judged), order, steps)


def _own_rise(strand: Strand, rise: Rise) -> float | None:
    """Return by how much a strand got slower at that time, as a logarithm; None when it says too little."""
    before, after = _parted(strand, rise)
    sides = [_typical([one.p95_ms for one in side if one.n > 0]) for side in (before, after)]
    enough = all(sum(one.n for one in side) >= FEWEST_ANSWERS for side in (before, after))
    if not enough or sides[0] is None or sides[1] is None:
        return None
    return math.log(sides[1] / sides[0])


def _parted(strand: Strand, rise: Rise) -> tuple[list[Moment], list[Moment]]:
    before = [one for one in strand.moments if one.at < rise.at]
    return before, [one for one in strand.moments if rise.at <= one.at < rise.until]


def _typical(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.median(known) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if known else None


def _finding(
    indicator: Indicator, hit: Sequence[Strand], unharmed: Sequence[Strand], rise: Rise, step_s: int
) -> Finding:
    version = _newcomer(hit, rise) if indicator.kind is CauseKind.RELEASE else ""
    changes = _changes(indicator, hit, rise, version)
    if not changes:
        is_same = indicator.kind is CauseKind.RELEASE and any(one.versions for strand in hit for one in strand.moments)
        verdict = CauseVerdict.UNCHANGED if is_same else CauseVerdict.UNKNOWN
        return Finding(indicator.kind, verdict, 0.0, indicator.unit, version=version)
    with_it = [one for one in changes if one[1].matters >= 1]
    had, of = len(with_it), len(changes)
    changes = with_it or changes
    weights = [weight for weight, _ in changes]
    matters = _weighted([one.matters for _, one in changes], weights)
    together = _weighted([one.together for _, one in changes], weights)
    lead_s = int(_weighted([float(one.lead_s) for _, one in changes], weights))
    is_early = lead_s > EARLY_STEPS * step_s and together < TOGETHER
    controls = _changes(indicator, unharmed, rise, version)
    same = sum(one.matters >= max(1.0, matters / 2) for _, one in controls)
    is_contradicted = is_early or (len(controls) >= FEWEST_UNHARMED and same > MOST * len(controls))
    score = indicator.weight * (matters / (0.5 + matters)) * max(0.0, together) ** 2 * (had / of)
    score *= CONTRADICTED if is_contradicted else 1.0
    return Finding(
        kind=indicator.kind,
        verdict=_verdict(matters, together, score, is_contradicted=is_contradicted),
        score=round(score, 3),
        unit=indicator.unit,
        before=_weighted([one.before for _, one in changes], weights),
        after=_weighted([one.after for _, one in changes], weights),
        together=round(together, 2),
        had=had,
        of=of,
        same=same,
        unharmed=len(controls),
        version=version,
        lead_s=lead_s,
    )


def _verdict(matters: float, together: float, score: float, *, is_contradicted: bool) -> CauseVerdict:
    if matters < 1:
        return CauseVerdict.UNCHANGED
    if is_contradicted or together < SLIGHTLY:
        return CauseVerdict.UNLIKELY
    return CauseVerdict.LIKELY if score >= LIKELY and together >= TOGETHER else CauseVerdict.POSSIBLE


def _changes(indicator: Indicator, strands: Sequence[Strand], rise: Rise, version: str) -> list[tuple[float, _Change]]:
    """Return the change of each strand that says it, with its weight: its answers."""
    found = []
    for strand in strands:
        before, after = _parted(strand, rise)
        change = _change(indicator, strand, before, after, Context(version, mix_of(before)))
        if change is not None:
            found.append((float(max(1, sum(one.n for one in after))), change))
    return found


def _change(
    indicator: Indicator, strand: Strand, before: Sequence[Moment], after: Sequence[Moment], context: Context
) -> _Change | None:
    typical = (
        _mean if indicator.kind is CauseKind.RELEASE else _typical
    )  # a version comes once, and may come long before
    was = typical([indicator.read(one, context) for one in before])
    now = typical([indicator.read(one, context) for one in after])
    if was is None or now is None:
        return None
    until = after[-1].at
    pairs = [
        (value, math.log(one.p95_ms))
        for one in strand.moments
        if one.at <= until and one.n > 0 and one.p95_ms and (value := indicator.read(one, context)) is not None
    ]
    lead_s = _lead_s([(one.at, indicator.read(one, context)) for one in before], was, now, after[0].at)
    return _Change(was, now, indicator.matters(was, now), _together(pairs, falls=now < was), lead_s)


def _lead_s(before: Sequence[tuple[int, float | None]], was: float, now: float, begin: int) -> int:
    """Return how long a figure had been closer to what it became than to what it was, when the rise began."""
    first = begin
    for at, value in reversed(before):
        if value is None or (value - (was + now) / 2) * (now - was) <= 0:
            break
        first = at
    return begin - first


def _together(pairs: Sequence[tuple[float, float]], *, falls: bool) -> float:
    """Return the correlation of a figure with latency; of one that fell, with its fall."""
    if len(pairs) < 2 * FEWEST:
        return 0.0
    xs, ys = zip(*pairs, strict=True)
    if max(xs) - min(xs) <= 1e-12 or max(ys) - min(ys) <= 1e-12:
        return 0.0
    found = statistics.correlation(xs, ys)
    return -found if falls else found


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted median."""
    order = sorted(zip(values, weights, strict=True))
    half, seen = sum(weights) / 2, 0.0
    for value, weight in order:
        seen += weight
        if seen >= half:
            return value
    return order[-1][0]


def _newcomer(hit: Sequence[Strand], rise: Rise) -> str:
    """Return the version whose share of the answers grew most, "" when none grew."""
    shares: list[Mapping[str, float]] = []
    for number in (0, 1):
        counts: dict[str, int] = {}
        for strand in hit:
            for moment in _parted(strand, rise)[number]:
                for version, figures in moment.versions.items():
                    counts[version] = counts.get(version, 0) + figures.n
        total = sum(counts.values()) or 1
        shares.append({version: count / total for version, count in counts.items()})
    grown = {version: share - shares[0].get(version, 0.0) for version, share in shares[1].items()}
    version = max(grown, key=lambda one: (grown[one], one), default="")
    return version if version and grown[version] > 0 else ""


def _settled(
    findings: Sequence[Finding], hit: Sequence[Strand], unharmed: Sequence[Strand], rise: Rise, case: Case
) -> list[Finding]:
    """Return the findings as they are seen in the light of each other, and of what else is known."""
    by_kind = {one.kind: one for one in findings}
    by_kind[CauseKind.RELEASE] = _release(by_kind[CauseKind.RELEASE], [*hit, *unharmed], rise)
    by_kind[CauseKind.INPUTS] = _inputs(by_kind[CauseKind.INPUTS], rise, case)
    if by_kind[CauseKind.THROTTLING].verdict is CauseVerdict.UNKNOWN:
        by_kind[CauseKind.THROTTLING] = _finding(HEAT, hit, unharmed, rise, case.step_s)
    work = [by_kind[one] for one in (CauseKind.LOAD, CauseKind.CANDIDATE, CauseKind.OTHER_MODELS)]
    busy = by_kind[CauseKind.PROCESSOR]
    if busy.verdict in {CauseVerdict.LIKELY, CauseVerdict.POSSIBLE} and any(_counts(one) for one in work):
        by_kind[CauseKind.PROCESSOR] = replace(busy, verdict=CauseVerdict.UNLIKELY, score=round(busy.score / 4, 3))
    return list(by_kind.values())


def _counts(one: Finding) -> bool:
    return one.verdict in {CauseVerdict.LIKELY, CauseVerdict.POSSIBLE}


def _release(found: Finding, strands: Sequence[Strand], rise: Rise) -> Finding:
    """Return what is known of the release, by what other versions answered meanwhile."""
    if not found.version or found.verdict is CauseVerdict.UNCHANGED:
        return found
    before = _other_ms([_parted(one, rise)[0] for one in strands], found.version)
    after = _other_ms([_parted(one, rise)[1] for one in strands], found.version)
    if before is None or after is None:
        return found
    found = replace(found, others=(before, after))
    if math.log(after / before) >= math.log(rise.ratio) / 2:
        return replace(found, verdict=CauseVerdict.UNLIKELY, score=round(found.score * CONTRADICTED, 3))
    return found


def _other_ms(sides: Sequence[Sequence[Moment]], version: str) -> float | None:
    known = [
        (figures.p95_ms, float(figures.n))
        for side in sides
        for moment in side
        for name, figures in moment.versions.items()
        if name != version and figures.p95_ms is not None and figures.n > 0
    ]
    if sum(weight for _, weight in known) < FEWEST_ANSWERS:
        return None
    return _weighted([value for value, _ in known], [weight for _, weight in known])


def _inputs(found: Finding, rise: Rise, case: Case) -> Finding:
    """Return what is known of the inputs, with the signals that drift since about then."""
    near = max(3 * case.step_s, (rise.until - rise.at) // 4)
    signals = [one.signal for one in case.drift if abs(one.since - rise.at) <= near and one.psi >= PSI]
    if not signals:
        return found
    found = replace(found, signals=tuple(dict.fromkeys(signals))[:5])
    if _counts(found):
        return replace(found, score=round(min(1.0, found.score + 0.1), 3))
    return replace(found, verdict=CauseVerdict.POSSIBLE, score=max(found.score, 0.2))


def _network(hit: Sequence[Strand], rise: Rise) -> Finding:
    sides = [
        _typical([one.figures.get("net_per_s") for strand in hit for one in _parted(strand, rise)[number]])
        for number in (0, 1)
    ]
    return Finding(CauseKind.NETWORK, CauseVerdict.RULED_OUT, 0.0, "bytes_per_s", sides[0], sides[1])


def _device_mix(case: Case, rise: Rise, hit: Sequence[Strand]) -> Finding | None:
    """Return how much of the rise comes from slower parts answering more, where no part got slower itself."""
    if case.is_device or len(case.parts) < 2:
        return None
    slow = {}
    counts: list[dict[str, int]] = [{}, {}]
    for part in case.parts:
        sides = _parted(part, rise)
        usual = _typical([one.p95_ms for one in part.moments if one.n > 0])
        if usual is not None:
            slow[part.name] = math.log(usual)
            for number, side in enumerate(sides):
                counts[number][part.name] = sum(one.n for one in side)
    totals = [sum(one.values()) for one in counts]
    if hit or not all(totals):
        return None
    middle = math.log(rise.before_ms) + math.log(rise.ratio) / 2
    before, after = (
        sum(count for name, count in one.items() if slow[name] > middle) / total
        for one, total in zip(counts, totals, strict=True)
    )
    if after - before < 0.02:
        return Finding(CauseKind.DEVICE_MIX, CauseVerdict.UNCHANGED, 0.0, "share", before, after)
    score = round(min(1.0, 0.5 + 2 * (after - before)), 3)
    return Finding(CauseKind.DEVICE_MIX, CauseVerdict.LIKELY, score, "share", before, after, 1.0)


def _spread(case: Case, hit: Sequence[Strand], known: Sequence[Strand]) -> tuple[Spread, str]:
    """Return where it got slower, and the name of the place."""
    if case.is_device:
        others = [one for one in known if one is not case.parts[0]]
        slower = [one for one in hit if one is not case.parts[0]]
        if not others or len(slower) <= len(others) // 10:
            return Spread.DEVICE, case.subject.name
        profile = case.parts[0].profile
        return (Spread.PROFILE, profile) if len(slower) > MOST * len(others) else (Spread.PART, "")
    if not hit:
        return Spread.NOWHERE, ""
    if len(hit) == len(known):
        one = {part.profile for part in known}
        return (Spread.PROFILE, one.pop()) if len(one) == 1 and next(iter(one)) else (Spread.ALL, "")
    for spread, of in ((Spread.PROFILE, "profile"), (Spread.SITE, "site")):
        places = {getattr(part, of) for part in hit}
        inside = [part for part in known if getattr(part, of) in places]
        if len(places) == 1 and len(inside) == len(hit) and next(iter(places)):
            return spread, places.pop()
    return Spread.PART, ""
