"""What is decided about one stage of one stratum: facts in, `Advance | Hold | Pause | RollBack` out. Pure; looks at no clock.

1. First what speaks against the release: plain rules that others confirm (`confirmation`), the abort evidence of the stratum,
   the abort evidence of all strata together. Devices without an outcome count as good here. With `on_fail: pause` it ends in Pause.
   Every failure is the word of a device. So the evidence has two thresholds (ADR 0082): that more than `max_failure` fail stops
   the stratum for a person; only that more fail than a share `liars` of false words explains takes the release back.
2. Then what is missing. Whatever is unknown, contradictory or out of reach is a Hold: missing data never promotes.
3. Then the promote rule. `all_healthy`: every device healthy past its soak, which is weak and says how weak. `evidence`: the
   promote evidence, in which devices without an outcome count as bad; it rests on all devices of the stratum so far, so a stage
   also waits until most of its own devices took part: none is passed on what earlier stages showed.
4. A Hold that has lasted as long as `on_inconclusive.after` becomes what the spec says, but a Pause where one device at most is unclear.
5. Codes are public and stable; reasons name the figures; `figures` has every number that was used.
6. `RULE_VERSION` grows when the same facts may give another verdict: a stored decision says which rules made it. Decisions that were
   stored (`tests/golden/decisions`) are made again, so that this is not forgotten.

Source: docs/explanation/rollouts.md; ADR 0012, 0014, 0082, 0087.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from edgefleet_server.rollout.analysis import stage_gates
from edgefleet_server.rollout.analysis.model import (
    Advance,
    Counts,
    Decision,
    Facts,
    Figures,
    KeepWaiting,
    Pause,
    RollBack,
    Rule,
    WordFacts,
)
from edgefleet_server.rollout.analysis.phrases import (
    answers_in_words,
    failure_named,
    failures_in_words,
    outside_in_words,
    percent,
    span_in_words,
)
from edgefleet_server.rollout.analysis.plain_rules import GUARD_CLASS, GUARD_LOST, SMALL_CLASS, SMALL_TWO, plain_rule
from edgefleet_server.rollout.analysis.stage_gates import (
    LOG_MAX,
    asked_back_by_gate,
    held_by_gate,
    plain_number,
    short,
)
from edgefleet_server.rollout.failure_ratio import (
    log_e_abort,
    log_e_promote,
    threshold,
    upper_bound,
    with_false_alarms,
    with_hidden_failures,
)
from edgefleet_server.rollout.model import Strength, Verdict
from edgefleet_server.rollout.spec.model import OnFail

SILENT_CAP_PCT: Final = 20
"""Share of the devices that may have stayed out of reach, of the stratum so far and of the stage itself."""

CONFIDENCE: Final = 0.95

# ---- codes, each with its message: reasons are API

ABORT_EVIDENCE: Final = "abort_evidence"
ABORT_POOLED: Final = "abort_pooled"
STOP_EVIDENCE: Final = "stop_evidence"
STOP_POOLED: Final = "stop_pooled"
WORD_OPEN: Final = "word_open"
UNCONFIRMED: Final = "unconfirmed"

STOPS: Final = frozenset({STOP_EVIDENCE, STOP_POOLED, UNCONFIRMED, stage_gates.STOP_QUALITY})
"""Codes of a Pause that still turns into RollBack by itself, once failures exceed what liars explain."""
FACTS_INCONSISTENT: Final = "facts_inconsistent"
NOTHING_EXPOSED: Final = "nothing_exposed"
WAITING: Final = "waiting"
PENDING: Final = "pending"
SOAKING: Final = "soaking"
UNREACHABLE_CAP: Final = "unreachable_cap"
STAGE_UNTRIED: Final = "stage_untried"
NOT_ALL_HEALTHY: Final = "not_all_healthy"
TOO_FEW: Final = "too_few"
MORE_EVIDENCE: Final = "more_evidence"
INCONCLUSIVE: Final = "inconclusive"
ALL_HEALTHY: Final = "all_healthy"
EVIDENCE: Final = "evidence"

MESSAGES: Final[Mapping[str, str]] = {
    GUARD_CLASS: "{failures}: one {which} failure stops a stage of any size",
    GUARD_LOST: "{failures}: {lost} devices took it up and fell silent, at most {max_lost} may",
    SMALL_CLASS: "{failures}: one {which} failure stops a stratum of fewer than {small} devices",
    SMALL_TWO: "{failures}: two failures among fewer than {few} devices stop a stratum of fewer than {small}",
    ABORT_EVIDENCE: "{failures}: evidence {e} ({at} suffices) that more than {ratio} of the devices fail",
    ABORT_POOLED: "{failed} of {exposed} devices of all strata failed: "
    "evidence {e} ({at} suffices) that more than {ratio} of the devices fail",
    STOP_EVIDENCE: "{failures}: evidence {e} ({at} suffices) that more than {ratio} of the devices fail; "
    "too little to take the release back while {liars} of the devices may report failures falsely",
    STOP_POOLED: "{failed} of {exposed} devices of all strata failed: "
    "evidence {e} ({at} suffices) that more than {ratio} of the devices fail; "
    "too little to take the release back while {liars} of the devices may report failures falsely",
    WORD_OPEN: "{failures}: waiting for other devices to confirm {which} ({progress}); nobody else is offered the release meanwhile",
    UNCONFIRMED: "{failures}: {which} is not confirmed ({progress}); somebody must decide",
    FACTS_INCONSISTENT: "the counts contradict each other ({what}): nothing is promoted on them",
    NOTHING_EXPOSED: "no device has taken the release up yet{outside}",
    WAITING: "waiting for {waiting} of {members} devices to take the release up{outside}",
    PENDING: "waiting for {busy} of {exposed} devices to install and prove the release",
    SOAKING: "waiting for {pending} of {exposed} devices, healthy so far, to get through their soak",
    UNREACHABLE_CAP: "{unreachable} of {reached_for} devices never took the release up, at most {cap} % may: "
    "what they would have shown is unknown",
    STAGE_UNTRIED: "{tried} of the {own} devices of this stage took the release up, at least {need} must",
    NOT_ALL_HEALTHY: "{failures}: too little to take the release back, but this stage needs every device healthy",
    TOO_FEW: "{healthy} of {exposed} devices healthy: at least {need} must be",
    MORE_EVIDENCE: "{healthy} of {exposed} devices healthy: evidence {e} ({at} needed) that fewer than {ratio} fail",
    INCONCLUSIVE: "no verdict within {after}: {why}",
    ALL_HEALTHY: "{healthy} of {exposed} healthy: failure below {bound} % at {confidence} %",
    EVIDENCE: "{healthy} of {exposed} healthy: failure below {ratio} at {confidence} % (evidence {e}, {at} needed)",
}


def decide(facts: Facts) -> Decision:
    """Return the verdict on one stage of one stratum. The same facts give the same verdict, reason and figures."""
    flaw = _flaw(facts)
    logs = _Logs.of(facts)
    judged = stage_gates.judged(facts)
    figures = {**_figures(facts, logs), **stage_gates.figures_of(judged, facts.budget)}
    against = (
        _against(facts, logs, figures)
        or stage_gates.against(facts, judged, logs.back, figures)
        or asked_back_by_gate(facts, figures)
    )
    if against is not None:
        if facts.on_fail is OnFail.PAUSE:
            return Pause(against.code, f"{against.reason} (on_fail: pause)", figures)
        return against
    asked = _asked(facts, figures)
    if asked is not None:
        return asked
    stopped = _stopped(facts, logs, figures) or stage_gates.stopped(facts, judged, logs.abort, figures)
    stopped = stopped or _unconfirmed(facts, figures)
    if stopped is not None:
        return stopped
    if flaw:
        return _inconclusive(facts, _hold(FACTS_INCONSISTENT, figures, what=flaw))
    wished = stage_gates.checked(facts, judged, _missing(facts, figures) or _promote(facts, logs, figures))
    verdict = held_by_gate(facts, wished)
    return _inconclusive(facts, verdict) if isinstance(verdict, KeepWaiting) else verdict


# ---- against the release


@dataclass(frozen=True, slots=True)
class _Logs:
    """Natural logs of the evidence and of what it must reach. None: the facts allow no calculation.

    abort, pooled: that more than `max_failure` fail, which stops. back, pooled_back: that more fail than liars explain besides.
    """

    abort: float | None
    pooled: float | None
    back: float | None
    pooled_back: float | None
    promote: float | None
    abort_at: float | None
    promote_at: float | None

    @classmethod
    def of(cls, facts: Facts) -> "_Logs":
        counts = facts.counts
        tests_p1 = 0 < facts.promote_below < 1
        is_counted = 0 <= counts.healthy <= counts.exposed and facts.rule is Rule.EVIDENCE
        liars = facts.liars if 0 <= facts.liars < 1 else 0.0  # a flaw; facts with one promote nothing
        stop_above = facts.max_failure if 0 < facts.max_failure < 1 else math.nan
        back_above, promote_below = (
            with_false_alarms(stop_above, liars),
            with_hidden_failures(facts.promote_below, liars),
        )
        own, pool = (counts.failed, counts.exposed), (facts.pooled_failed, facts.pooled_exposed)
        return cls(
            _log_against(*own, stop_above),
            _log_against(*pool, stop_above),
            _log_against(*own, back_above),
            _log_against(*pool, back_above),
            log_e_promote(counts.exposed - counts.healthy, counts.exposed, promote_below)
            if tests_p1 and is_counted
            else None,
            stage_gates.abort_at(facts),
            threshold(facts.alpha_promote) if 0 < facts.alpha_promote < 1 else None,
        )


def _log_against(failed: int, exposed: int, above: float) -> float | None:
    """Return the log of the evidence that more than `above` of the devices fail; None: no calculation."""
    return log_e_abort(failed, exposed, above) if above < 1 and 0 <= failed <= exposed else None


def _against(facts: Facts, logs: _Logs, figures: Figures) -> RollBack | None:
    plain = _confirmed(facts, figures)
    if plain is not None:
        return plain
    at = logs.abort_at
    if at is None:
        return None
    above = with_false_alarms(facts.max_failure, facts.liars)
    is_one_word = facts.population > 1 and _is_one_word(facts, facts.counts.failed)
    if logs.back is not None and logs.back >= at and not is_one_word:
        return RollBack(ABORT_EVIDENCE, _words_against(ABORT_EVIDENCE, facts, logs.back, at, above), figures)
    if logs.pooled_back is not None and logs.pooled_back >= at and not _is_one_word(facts, facts.pooled_failed):
        reason = _words_against(ABORT_POOLED, facts, logs.pooled_back, at, above)
        return RollBack(ABORT_POOLED, reason, figures, pooled=True)
    return None


def _is_one_word(facts: Facts, failed: int) -> bool:
    """Return whether so many failures rest on the word of one device: that takes no release back from others, whatever `alpha_abort` is."""
    return failed == 1 and facts.words is not None and not facts.words.acts_alone


def _hangs_on_one(facts: Facts, hold: KeepWaiting) -> bool:
    """Return whether one device at most keeps a stage without a verdict: it could hold it up to its end, and so take it back.

    None does where all are healthy and too few, since a person let the failure of another pass, or it left.
    """
    words, counts = facts.words, facts.counts
    if facts.population <= 1 or words is None or words.acts_alone:
        return False
    unclear = counts.members - counts.incompatible - counts.healthy + counts.accepted
    is_too_few = not unclear and hold.code in (TOO_FEW, MORE_EVIDENCE)
    return is_too_few or 1 in (unclear, counts.failed)


def _stopped(facts: Facts, logs: _Logs, figures: Figures) -> Pause | None:
    """Return that more devices fail than may, where it takes a person to say whether they are to be believed."""
    at = logs.abort_at
    if at is None:
        return None
    if logs.abort is not None and logs.abort >= at:
        return Pause(STOP_EVIDENCE, _words_against(STOP_EVIDENCE, facts, logs.abort, at, facts.max_failure), figures)
    if logs.pooled is not None and logs.pooled >= at:
        reason = _words_against(STOP_POOLED, facts, logs.pooled, at, facts.max_failure)
        return Pause(STOP_POOLED, reason, figures, pooled=True)
    return None


def _confirmed(facts: Facts, figures: Figures) -> RollBack | None:
    """Return that the release is taken back by a rule that needs no statistics: on one word, or once others confirm it."""
    words = facts.words
    if words is None or words.acts_alone or facts.population <= 1:  # what a lone device says moves nobody else
        plain = plain_rule(facts.failures, facts.counts, facts.population)
        if plain is None:
            return None
        return RollBack(plain[0], MESSAGES[plain[0]].format(failures=failures_in_words(facts), **plain[1]), figures)
    match words.verdict:
        case Verdict.CONFIRMED:
            return RollBack(
                words.code,
                f"{failures_in_words(facts)}: {_which(words)} is confirmed ({_answers(words)})",
                figures,
            )
        case Verdict.PROVED:
            reason = f"{failures_in_words(facts)}: the server's own check of the bundle failed: {words.proof}"
            return RollBack(words.code, reason, figures, pooled=True)
        case _:
            return None


def _asked(facts: Facts, figures: Figures) -> KeepWaiting | None:
    """Return that others are asked about failures that a plain rule would act on: offers rest, so nothing else need stop the stratum."""
    words = facts.words
    if words is None or words.acts_alone or facts.population <= 1:
        return None
    is_open = words.verdict == Verdict.OPEN
    if not is_open and plain_rule(words.fresh, facts.counts, facts.population) is None:
        return None
    which = _which(words) if is_open else "that"
    return _hold(
        WORD_OPEN,
        figures,
        failures=failures_in_words(facts),
        which=which,
        progress=_answers(words),
    )


def _unconfirmed(facts: Facts, figures: Figures) -> Pause | None:
    """Return that others did not confirm such failures, where it takes a person to say what they mean."""
    words = facts.words
    if words is None or words.acts_alone or facts.population <= 1 or words.is_answered:
        return None
    ends_small = facts.rule is Rule.ALL_HEALTHY and words.verdict in (Verdict.REFUTED, Verdict.UNCONFIRMED)
    if words.verdict != Verdict.TIMED_OUT and not (ends_small and not words.is_over):
        return None
    reason = MESSAGES[UNCONFIRMED].format(
        failures=failures_in_words(facts),
        which=_which(words),
        progress=_answers(words),
    )
    return Pause(UNCONFIRMED, reason, figures)


def stops(facts: Facts) -> bool:
    """Return whether more devices fail than may, so that what is under way is withdrawn also while others are asked."""
    return _stopped(facts, _Logs.of(facts), {}) is not None


def _answers(words: WordFacts) -> str:
    return answers_in_words(words.drawn, words.failed, words.healthy)


def _which(words: WordFacts) -> str:
    return failure_named(words.error_class)


def _words_against(code: str, facts: Facts, log: float, at: float, above: float) -> str:
    """Return what evidence against the release says. above: the share of failures that it rules out."""
    return MESSAGES[code].format(
        failures=failures_in_words(facts),
        failed=facts.pooled_failed,
        exposed=facts.pooled_exposed,
        e=short(log),
        at=short(at),
        ratio=percent(above),
        liars=percent(facts.liars),
    )


# ---- what is missing


def _flaw(facts: Facts) -> str:
    """Return what contradicts itself in the facts, "" when nothing does. Such facts are a bug of the code that counted."""
    counts = facts.counts
    numbers = (*msgspec.structs.astuple(counts), *facts.failures.values(), facts.soaking)
    gates = (facts.max_failure, facts.promote_below, facts.alpha_abort, facts.alpha_promote)
    own, tried = facts.stage_members, facts.stage_tried
    checks = (
        (min(numbers) >= 0, "a count is negative"),
        (facts.population >= 1, "the stratum has no device"),
        (counts.exposed == counts.pending + counts.healthy + counts.failed, "exposed is not its parts"),
        (sum(facts.failures.values()) == counts.failed, "the classes are not all failures"),
        (facts.soaking <= counts.pending, "more in soak than without an outcome"),
        (facts.pooled_exposed >= counts.exposed, "all strata have fewer devices than this one"),
        (facts.pooled_failed >= counts.failed, "all strata have fewer failures than this one"),
        (facts.pooled_failed <= facts.pooled_exposed, "all strata have more failures than devices"),
        (own is None or tried is None or 0 <= tried <= own, "more devices of this stage tried it than it has"),
        (all(0 < gate < 1 for gate in gates), "a ratio of the gate is not between 0 and 1"),
        (0 <= facts.liars < 1, "the share of liars is not between 0 and 1"),
    )
    return next((words for holds, words in checks if not holds), "") or stage_gates.flaw_of(facts)


def _missing(facts: Facts, figures: Figures) -> KeepWaiting | None:
    """Return what must be known before the promote rule is asked, None when it is known."""
    counts = facts.counts
    if counts.exposed == 0:
        return _hold(NOTHING_EXPOSED, figures, outside=outside_in_words(counts))
    if facts.rule is Rule.ALL_HEALTHY:
        waiting = _waiting(counts)
        if waiting:
            members = max(counts.members, waiting)
            return _hold(WAITING, figures, waiting=waiting, members=members, outside=outside_in_words(counts))
        if counts.pending > facts.soaking:
            return _hold(PENDING, figures, busy=counts.pending - facts.soaking, exposed=counts.exposed)
        if counts.pending:
            return _hold(SOAKING, figures, pending=counts.pending, exposed=counts.exposed)
    reached_for = counts.exposed + counts.unreachable
    if 100 * counts.unreachable > SILENT_CAP_PCT * reached_for:
        return _hold(
            UNREACHABLE_CAP, figures, unreachable=counts.unreachable, reached_for=reached_for, cap=SILENT_CAP_PCT
        )
    return _untried(facts, figures) if facts.rule is Rule.EVIDENCE else None


def _untried(facts: Facts, figures: Figures) -> KeepWaiting | None:
    """Return a Hold while too few of the stage's own devices took part. Without that count, the stratum's is taken."""
    counts = facts.counts
    own, tried = facts.stage_members, facts.stage_tried
    if own is None or tried is None:
        own, tried = counts.exposed + _waiting(counts), counts.exposed
    need = math.ceil(own * (100 - SILENT_CAP_PCT) / 100)
    return _hold(STAGE_UNTRIED, figures, tried=tried, own=own, need=need) if tried < need else None


def _waiting(counts: Counts) -> int:
    """Return the devices below the cut that took nothing up: offered, or not even that."""
    known = counts.exposed + counts.unreachable + counts.incompatible
    return max(counts.offered, counts.members - known)


def _hold(code: str, figures: Figures, **words: object) -> KeepWaiting:
    return KeepWaiting(code, MESSAGES[code].format(**words), figures)


def _inconclusive(facts: Facts, hold: KeepWaiting) -> Decision:
    """Return what becomes of a Hold with time."""
    if not facts.open_for_s >= facts.inconclusive_after_s:
        return hold
    reason = MESSAGES[INCONCLUSIVE].format(after=span_in_words(facts.inconclusive_after_s), why=hold.reason)
    figures = {**hold.figures, "waited_for": hold.code}
    if facts.inconclusive_do is OnFail.PAUSE or _hangs_on_one(facts, hold):
        return Pause(INCONCLUSIVE, reason, figures)
    return RollBack(INCONCLUSIVE, reason, figures)


# ---- for the release


def _promote(facts: Facts, logs: _Logs, figures: Figures) -> Advance | KeepWaiting:
    match facts.rule:
        case Rule.ALL_HEALTHY:
            return _promote_all_healthy(facts, figures)
        case Rule.EVIDENCE:
            return _promote_evidence(facts, logs, figures)
        case _:
            assert_never(facts.rule)


def _promote_all_healthy(facts: Facts, figures: Figures) -> Advance | KeepWaiting:
    counts = facts.counts
    if counts.failed:
        return _hold(NOT_ALL_HEALTHY, figures, failures=failures_in_words(facts))
    need = min(2, facts.population)
    if counts.healthy < need:
        return _hold(TOO_FEW, figures, healthy=counts.healthy, exposed=counts.exposed, need=need)
    bound = 100 * upper_bound(0, counts.healthy, CONFIDENCE)
    words = MESSAGES[ALL_HEALTHY].format(
        healthy=counts.healthy,
        exposed=counts.exposed,
        bound=math.ceil(round(bound, 6)),  # rounded up: "below" must stay true
        confidence=round(100 * CONFIDENCE),
    )
    return Advance(ALL_HEALTHY, words, {**figures, "bound_pct": bound}, Strength.WEAK, words)


def _promote_evidence(facts: Facts, logs: _Logs, figures: Figures) -> Advance | KeepWaiting:
    counts = facts.counts
    assert logs.promote is not None, "facts without a flaw have evidence"
    assert logs.promote_at is not None, "facts without a flaw have a level"
    words: dict[str, object] = {
        "healthy": counts.healthy,
        "exposed": counts.exposed,
        "e": short(logs.promote),
        "at": short(logs.promote_at),
        "ratio": percent(facts.promote_below),
    }
    if logs.promote < logs.promote_at:
        return _hold(MORE_EVIDENCE, figures, **words)
    confidence = f"{100 * (1 - facts.alpha_promote):.4g}"
    reason = MESSAGES[EVIDENCE].format(**words, confidence=confidence)
    if facts.liars:
        reason += f", also if {percent(facts.liars)} of the devices hide a failure"
    figures = {**figures, "bound_pct": 100 * facts.promote_below}
    return Advance(EVIDENCE, reason, figures, Strength.EVIDENCE, reason.partition(" (evidence")[0])


# ---- figures and words


def _figures(facts: Facts, logs: _Logs) -> dict[str, float | int | str | None]:
    counts = facts.counts
    figures: dict[str, float | int | str | None] = {
        "population": facts.population,
        **msgspec.structs.asdict(counts),
        "soaking": facts.soaking,
        "pooled_exposed": facts.pooled_exposed,
        "pooled_failed": facts.pooled_failed,
        "stage_members": facts.stage_members,
        "stage_tried": facts.stage_tried,
        "max_failure": facts.max_failure,
        "promote_below": facts.promote_below,
        "confidence_pct": 100 * CONFIDENCE,
    }
    if facts.liars:  # figures of rules 1 have none of these
        figures["liars"] = facts.liars
        figures["take_back_above"] = with_false_alarms(facts.max_failure, facts.liars)
        figures["promote_below_reported"] = with_hidden_failures(facts.promote_below, facts.liars)
    reached_for = counts.exposed + counts.unreachable
    if reached_for > 0:
        figures["unreachable_pct"] = 100 * counts.unreachable / reached_for
    figures["unreachable_cap_pct"] = SILENT_CAP_PCT
    for key, log in (
        ("e_abort", logs.abort),
        ("abort_at", logs.abort_at),
        ("pooled_e_abort", logs.pooled),
        *((("e_take_back", logs.back), ("pooled_e_take_back", logs.pooled_back)) if facts.liars else ()),
        ("e_promote", logs.promote),
        ("promote_at", logs.promote_at),
    ):
        figures[key] = None if log is None else plain_number(log)
        if log is not None and log > LOG_MAX:
            figures[f"{key}_log10"] = log / math.log(10)
    return figures
