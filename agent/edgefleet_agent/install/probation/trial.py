"""What a version is held to while it is new, and the verdict on it. No I/O, no clock: figures in, verdict out.

Source: docs/explanation/on-the-device.md.

1. Figures are in the record (`Tally`), so that neither a crash nor a kill of agentd makes a bad version look good.
2. Rules, in this order: crash loop, restarts, memory, non-finite answers, errors, latency; then, if none is hit, whether it is
   proven, and whether it had time enough for that.
3. Missing data never proves a version; only a version that serves and passed its last golden check is proven.
4. A version proven here before (a rollback) has nothing to prove but that it serves again: `probation_min_s` is enough, and it is
   held to crashes and starts only. Its figures are those of its whole life here, and the version it is compared with is its
   successor: held to them, it would be sent away for what it was when it was proven, and a rollback would be impossible.
"""

from dataclasses import dataclass

import msgspec

from edgefleet_agent.install.machine import MAX_STARTS, is_on_trial, is_proven
from edgefleet_agent.install.records import ModelRecord, SlotInfo, Tally
from edgefleet_agent.worker.control.protocol import Golden, Stats
from edgefleet_protocol.messages import CRASH_LOOP_CODE, OVER_MEMORY_CODE, ErrorClass, Phase
from edgefleet_protocol.sketch import LatencySketch

MIB = 1024 * 1024
MAX_STARTS_PROVEN = 6
"""Starts of a proven version, none of which lasted, before its predecessor is tried instead: twice what a version on trial has."""
UNPROVEN_S = 60
"""How much longer than its trial and its request's `verify_s` a version may take that is neither well nor caught by a rule."""
LATENCY_MEMORY_N = 20_000
"""A latency sketch that holds more answers is halved: it tells of the last weeks or hours, not of a year, and stays small."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version on trial is held to. Ends in _s: seconds, _ms: milliseconds, _ratio: share of answers, _n: answers.

    replace_s: trial of a healthy version that another one is to replace.
    slow_factor, slow_margin_ms, slow_min_n: see `_slow`. leak_min_s: see `memory_leak.leak`.
    """

    crash_limit: int
    crash_window_s: float
    probation_s: float
    probation_min_s: float
    probation_inferences: int
    replace_s: float
    nonfinite_ratio: float
    error_ratio: float
    error_min_n: int
    slow_factor: float
    slow_margin_ms: float
    slow_min_n: int
    leak_min_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Facts:
    """How the worker of the version that serves is now. golden_ok: its last golden check passed. leak: `memory_leak.leak` of its memory."""

    serving: bool
    golden_ok: bool
    leak: str = ""


@dataclass(frozen=True, slots=True)
class RollBack:
    """Go back, and why."""

    error_class: ErrorClass
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The trial is over and good."""


@dataclass(frozen=True, slots=True)
class KeepWatching:
    """Neither yet."""


Verdict = RollBack | Commit | KeepWatching


def judge(record: ModelRecord, facts: Facts, limits: Limits, *, now_s: int, replaced: bool = False) -> Verdict:
    """Return the verdict on the version that serves. Pure.

    replaced: a request for another version waits for this verdict (`machine.Wait`).
    """
    recent = [at for at in record.crashes_s if now_s - at < limits.crash_window_s]
    if len(recent) >= limits.crash_limit:
        return RollBack(ErrorClass.CRASH, CRASH_LOOP_CODE, f"{len(recent)} crashes in {limits.crash_window_s:.0f} s")
    if not is_on_trial(record):
        return _restarts_of_proven(record)
    if record.starts > MAX_STARTS + len(recent):
        reason = f"started {record.starts} times without living through its trial"
        return RollBack(ErrorClass.CRASH, "trial.restarts", reason)
    if facts.leak:
        return RollBack(ErrorClass.MEMORY, "trial.memory", facts.leak)
    if not is_proven(record):
        bad = _bad_answers(record.seen, limits) or _slow(record.seen, record.before, limits)
        if bad is not None:
            return bad
    age_s = now_s - record.seen.since_s
    if _is_enough(record, limits, age_s, calm=not recent, replaced=replaced) and facts.serving and facts.golden_ok:
        return Commit()
    wanted = record.served or record.wanted
    if replaced and wanted is not None and age_s >= wanted.verify_s:
        return RollBack(ErrorClass.DEADLINE, "trial.unproven", f"not proven within {wanted.verify_s} s")
    return _unproven_in_time(record, facts, limits, age_s)


def _restarts_of_proven(record: ModelRecord) -> Verdict:
    """Return the verdict on a version that was proven, but during whose starts the agent or the device dies again and again."""
    if record.starts <= MAX_STARTS_PROVEN or record.previous is None:
        return KeepWatching()
    reason = f"started {record.starts} times without serving for a while"
    return RollBack(ErrorClass.CRASH, "serving.restarts", reason)


def _unproven_in_time(record: ModelRecord, facts: Facts, limits: Limits, age_s: int) -> Verdict:
    """Return the verdict on a trial that found no fault: it goes on, but a version that is not well may not stay on trial for ever."""
    wanted = record.served or record.wanted
    deadline_s = max(limits.probation_s, wanted.verify_s if wanted is not None else 0.0) + UNPROVEN_S
    if age_s < deadline_s:
        return KeepWatching()
    how = "does not serve" if not facts.serving else "has no right answer to its golden vectors"
    return RollBack(ErrorClass.DEADLINE, "trial.unproven", f"after {age_s} s on trial it {how}")


def over_declared(golden: Golden, info: SlotInfo, limits: Limits) -> RollBack | None:
    """Return why the golden test of a worker on trial breaks what its bundle declares, None when it keeps it or declares nothing.

    Memory: the process' peak. Latency: the 95th percentile is more than `slow_factor` times (2) and `slow_margin_ms` (5) above the
    declared one, and the median above it too: of eight vectors the percentile is the slowest, and a hiccup is no property.
    """
    peak, declared = golden.peak_rss_bytes, info.peak_memory_bytes
    if 0 < declared < peak:
        reason = f"peak memory {peak / MIB:.1f} MiB in the golden test; the bundle declares {declared / MIB:.1f} MiB"
        return RollBack(ErrorClass.MEMORY, OVER_MEMORY_CODE, reason)
    p95, p50, most = golden.latency_p95_ms, golden.latency_p50_ms, info.latency_p95_ms
    if 0 < most < p50 and p95 > limits.slow_factor * most and p95 - most > limits.slow_margin_ms:
        reason = (
            f"95 of 100 golden vectors within {p95:.3g} ms, half within {p50:.3g}; the bundle declares {most:.3g} ms"
        )
        return RollBack(ErrorClass.SLOW, "trial.slow_golden", reason)
    return None


def _is_enough(record: ModelRecord, limits: Limits, age_s: int, *, calm: bool, replaced: bool) -> bool:
    """Say whether the version was watched long enough. calm: no crash within the window."""
    assert record.active is not None
    if age_s >= limits.probation_s:
        return True
    if age_s >= limits.probation_min_s and (
        record.seen.n >= limits.probation_inferences or (record.active.proven and calm)
    ):
        return True
    return replaced and calm and age_s >= limits.replace_s


def _bad_answers(seen: Tally, limits: Limits) -> RollBack | None:
    """Return why the answers are not good enough.

    Non-finite: more than the ratio, and more than one. One answer of 20 is 5 %, but a single event shows no rate: it is one odd
    sample, and below 1,000 answers the ratio alone would condemn a version for it. The second one is a pattern, since a good
    model gives none at all: the worker counts only answers to finite inputs.
    """
    if seen.nonfinite > max(1.0, limits.nonfinite_ratio * seen.n):
        return RollBack(ErrorClass.NONFINITE, "trial.nonfinite", f"{seen.nonfinite} of {seen.n} answers not finite")
    if seen.n >= limits.error_min_n and seen.errors > limits.error_ratio * seen.n:
        return RollBack(ErrorClass.CRASH, "trial.errors", f"{seen.errors} of {seen.n} requests failed")
    return None


def _slow(seen: Tally, before: Tally, limits: Limits) -> RollBack | None:
    """Return why the version is too slow compared with the previous one, by the 95th percentile of the time inside the runtime.

    Only with `slow_min_n` answers (200) of each: then ten of them lie above the percentile, and one hiccup does not move it.
    Beyond the factor (2) it must be slower by `slow_margin_ms` (5): one time slice of a busy Linux board (4 ms at 250 Hz) may
    end up in any answer, so 0.2 against 0.5 ms tells of the neighbours and not of the model.
    """
    new, old = LatencySketch.unpacked(seen.latency), LatencySketch.unpacked(before.latency)
    new_s, old_s = new.quantile_s(0.95), old.quantile_s(0.95)
    if new_s is None or old_s is None or min(new.n, old.n) < limits.slow_min_n:
        return None
    if new_s <= limits.slow_factor * old_s or new_s - old_s <= limits.slow_margin_ms / 1000:
        return None
    reason = f"95 of 100 answers within {new_s * 1000:.3g} ms; {old_s * 1000:.3g} ms with the previous version"
    return RollBack(ErrorClass.SLOW, "trial.slow", reason)


# ---- figures


def counted(record: ModelRecord, sha256: str, stats: Stats) -> ModelRecord:
    """Return the record with a worker's figures added to the version that they are of; of a third version: unchanged."""
    if record.active is not None and record.active.sha256 == sha256:
        return msgspec.structs.replace(record, seen=_added(record.seen, sha256, stats))
    if record.previous is not None and record.previous.sha256 == sha256:
        return msgspec.structs.replace(record, before=_added(record.before, sha256, stats))
    return record


def checked(record: ModelRecord, *, ok: bool) -> ModelRecord:
    """Return the record with one golden check of what serves counted."""
    seen = record.seen
    seen = msgspec.structs.replace(seen, golden_ok=seen.golden_ok + ok, golden_bad=seen.golden_bad + (not ok))
    return msgspec.structs.replace(record, seen=seen)


def _added(tally: Tally, sha256: str, stats: Stats) -> Tally:
    return msgspec.structs.replace(
        tally,
        sha256=sha256,
        n=tally.n + stats.n,
        errors=tally.errors + stats.errors,
        nonfinite=tally.nonfinite + stats.nonfinite,
        latency=_merged(tally.latency, stats.latency),
    )


def _merged(known: list[int], more: list[int]) -> list[int]:
    """Return both packed sketches as one; of what cannot be read nothing is taken."""
    try:
        added = LatencySketch.unpacked(more)
    except ValueError:
        return known
    if not added.counts:
        return known
    total = LatencySketch.merged([LatencySketch.unpacked(known), added])
    while total.n > LATENCY_MEMORY_N:
        total = LatencySketch({bucket: count // 2 for bucket, count in total.counts.items() if count > 1})
    return total.packed()


def crashed(record: ModelRecord, *, now_s: int, window_s: float) -> ModelRecord:
    """Return the record with one more crash of what serves, older ones than the window forgotten."""
    recent = [at for at in record.crashes_s if now_s - at < window_s]
    return msgspec.structs.replace(record, crashes_s=[*recent, now_s])


def started(record: ModelRecord) -> ModelRecord:
    """Return the record with one more start of what serves counted; written before the start itself."""
    return msgspec.structs.replace(record, starts=record.starts + 1)


def settled(record: ModelRecord) -> ModelRecord:
    """Return the record of a proven version whose last start lasted; the same one when there is nothing to forget."""
    return record if is_on_trial(record) or not record.starts else msgspec.structs.replace(record, starts=0)


def progress(record: ModelRecord, limits: Limits) -> dict[str, int] | None:
    """Return how far a new version on probation is by the rule of `_is_enough`, None when none is.

    answers: since the switch. enough: so many prove it. within_s: or so many seconds since the switch.
    """
    if record.phase is not Phase.PROBATION or is_proven(record):
        return None
    return {"answers": record.seen.n, "enough": limits.probation_inferences, "within_s": int(limits.probation_s)}


def left_in_order(record: ModelRecord) -> ModelRecord:
    """Return the record after agentd ended as it was asked to: the last start of what serves speaks against nobody."""
    if is_on_trial(record) and record.starts:
        return msgspec.structs.replace(record, starts=record.starts - 1)
    return settled(record)
