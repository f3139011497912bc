"""What a device's windows say of a period, and when its answers drifted."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.rollout.analysis.device_metrics import drift_of, is_ready, read, spans
from edgefleet_server.rollout.spec.model import Bound, Metric, OnBreach, QualityGate, QualityMetric
from edgefleet_server.telemetry.model import PeriodWindow

BEGAN = datetime(2026, 1, 5, 12, tzinfo=UTC)
OLD, NEW = "1" * 64, "2" * 64
GATE = QualityGate(
    metrics=(
        QualityMetric(Metric.LATENCY_P95_MS, Bound.NON_INFERIOR_REL, 0.1, OnBreach.FAIL),
        QualityMetric(Metric.INFERENCE_ERROR_RATE, Bound.NON_INFERIOR_ABS, 0.01, OnBreach.FAIL),
        QualityMetric(Metric.NONFINITE_RATE, Bound.MAX, 0.01, OnBreach.FAIL),
        QualityMetric(Metric.JOULES_PER_INFERENCE, Bound.NON_INFERIOR_REL, 0.1, OnBreach.FAIL),
        QualityMetric(Metric.SHADOW_AGREEMENT, Bound.MIN, 0.97, OnBreach.FAIL),
    ),
    before=timedelta(hours=24),
    after=timedelta(hours=1),
)


def window(
    minutes: float, digest: str = OLD, *, ms: float = 10.0, n: int = 60, length_s: int = 900, **more: Any
) -> PeriodWindow:
    """A window that begins so many minutes after the switch."""
    sketch = LatencySketch()
    for _ in range(n):
        sketch.add(ms / 1000)
    plain: dict[str, Any] = {
        "device": "d", "lane": "active", "sha256": digest, "t0": BEGAN + timedelta(minutes=minutes), "length_s": length_s,
        "n": n, "errors": 0, "timeouts": 0, "nonfinite": 0, "latency": sketch.packed(), "classes": [n // 2, n - n // 2],
        "joules_per_answer": -1.0, "shadow": None,
    }  # fmt: skip
    return PeriodWindow(**{**plain, **more})


def test_windows_are_added_up_never_averaged() -> None:
    windows = [
        window(-60, ms=10),
        window(0, NEW, ms=20, n=10, errors=1, nonfinite=1, joules_per_answer=2.0),
        window(15, NEW, ms=40, n=90, timeouts=10, joules_per_answer=1.0),
        window(75, NEW, ms=500, n=1000),
    ]
    reading = read(windows, NEW, BEGAN, GATE, is_control=False)
    assert reading.answers_after == 100, "what began after the period is none of it"
    assert reading.after[Metric.LATENCY_P95_MS] == pytest.approx(40, rel=0.011)
    assert reading.before[Metric.LATENCY_P95_MS] == pytest.approx(10, rel=0.011)
    assert reading.after[Metric.INFERENCE_ERROR_RATE] == pytest.approx(11 / 110)
    assert reading.after[Metric.NONFINITE_RATE] == pytest.approx(0.01)
    assert reading.after[Metric.JOULES_PER_INFERENCE] == pytest.approx(1.1)
    assert Metric.JOULES_PER_INFERENCE not in reading.before
    assert reading.is_whole


def test_before_the_old_release_counts_and_after_it_the_new_one() -> None:
    windows = [window(-30, NEW, ms=99), window(-60, OLD, ms=10), window(5, OLD, ms=99), window(20, NEW, ms=12)]
    own = read(windows, NEW, BEGAN, GATE, is_control=False)
    assert (own.answers_before, own.answers_after) == (60, 60)
    other = read([window(-60, ms=10), window(5, ms=11), window(20, NEW, ms=99)], NEW, BEGAN, GATE, is_control=True)
    assert other.after[Metric.LATENCY_P95_MS] == pytest.approx(11, rel=0.011)


def test_a_shadow_is_read_from_its_own_lane() -> None:
    shadow = ShadowFigures(compared=100, judged=100, agreed=98)
    windows = [window(-60), window(5, OLD), window(5, NEW, lane="candidate", ms=30, shadow=shadow)]
    reading = read(windows, NEW, BEGAN, GATE, is_control=False)
    assert reading.after[Metric.SHADOW_AGREEMENT] == pytest.approx(0.98)
    assert reading.after[Metric.LATENCY_P95_MS] == pytest.approx(30, rel=0.011)
    assert not reading.is_serving


def test_too_few_answers_are_no_value_and_nothing_is_taken_before_it_is_there() -> None:
    few = read([window(-60, n=5), window(5, NEW, n=60)], NEW, BEGAN, GATE, is_control=False)
    told = spans(few, None, GATE)[Metric.LATENCY_P95_MS]
    assert (told.before, told.control_after) == (None, None)
    assert told.after is not None
    assert not few.is_whole
    assert not is_ready(few, BEGAN, GATE, BEGAN + timedelta(hours=1, minutes=5))
    assert is_ready(few, BEGAN, GATE, BEGAN + timedelta(hours=2)), "an hour later nothing more is waited for"
    none = read([window(-60), window(5, NEW, n=3), window(61, NEW)], NEW, BEGAN, GATE, is_control=False)
    assert not is_ready(none, BEGAN, GATE, BEGAN + timedelta(days=9))


# ---- drift


def blocks(chance: random.Random, count: int, shares: Sequence[float], n: int, wobble: float) -> list[list[int]]:
    """Counts of answers by class of periods in which the shares themselves wobble."""
    made = []
    for _ in range(count):
        weights = [share * (1 + wobble * chance.uniform(-1, 1)) for share in shares]
        drawn = chance.choices(range(len(shares)), weights, k=n)
        made.append([drawn.count(index) for index in range(len(shares))])
    return made


@pytest.mark.parametrize("wobble", [0.0, 0.3, 0.6])
def test_a_stream_that_wobbles_as_ever_is_no_drift(wobble: float) -> None:
    chance = random.Random(5)
    alarms = 0
    for _ in range(300):
        made = blocks(chance, 25, (0.5, 0.3, 0.15, 0.05), 400, wobble)
        alarms += bool(drift_of(made[:-1], made[-1]))
    assert alarms <= 4, "one in a thousand is meant; the design effect is learnt from 24 blocks only"


def test_a_shift_is_drift_and_psi_says_how_large() -> None:
    chance = random.Random(6)
    before = blocks(chance, 24, (0.5, 0.3, 0.2), 400, 0.1)
    small, large = (blocks(chance, 1, shares, 400, 0.0)[0] for shares in ((0.35, 0.4, 0.25), (0.1, 0.2, 0.7)))
    assert 0 < (drift_of(before, small) or 0) < (drift_of(before, large) or 0)
    assert (drift_of(before, large) or 0) > 0.5
    assert drift_of(before, [0, 0, 0, 400]) > 1.0, "a class that never was"  # type: ignore[operator]


def test_with_one_class_or_a_short_past_nothing_can_be_told() -> None:
    assert drift_of([[100]] * 12, [100]) is None
    short = [window(-30 - 15 * i) for i in range(8)]
    assert read([*short, window(5, NEW)], NEW, BEGAN, GATE, is_control=False).drift is None
    long = [window(-15 * (i + 1)) for i in range(60)]
    assert read([*long, window(5, NEW)], NEW, BEGAN, GATE, is_control=False).drift == 0.0


# ---- accuracy

LABELS = QualityGate(
    metrics=(QualityMetric(Metric.ACCURACY, Bound.NON_INFERIOR_ABS, 0.05, OnBreach.FAIL),),
    before=timedelta(hours=24),
    after=timedelta(hours=2),
    watch=timedelta(hours=10),
)


def labels(hours: float, digest: str, labelled: int, right: int, **more: Any) -> PeriodWindow:
    """An hour of labelled answers that begins so many hours after the switch."""
    return window(60 * hours, digest, n=0, length_s=3600, labelled=labelled, right=right, **more)


def test_labels_count_in_the_period_of_their_answers() -> None:
    told = [
        window(-60), window(5, NEW), window(20, NEW), window(125, NEW),
        labels(-30, OLD, 100, 0), labels(-3, OLD, 10, 9), labels(-2, OLD, 10, 9), labels(-2, OLD, 50, 0, lane="measure"),
        labels(0, NEW, 6, 3), labels(1, NEW, 4, 3), labels(1, OLD, 50, 0), labels(2, NEW, 50, 0),
    ]  # fmt: skip
    own = read(told, NEW, BEGAN, LABELS, is_control=False)
    assert own.before[Metric.ACCURACY] == pytest.approx(0.9)
    assert own.after[Metric.ACCURACY] == pytest.approx(0.6)
    assert own.answers_after == 120, "labels are no answers"
    other = read(told, NEW, BEGAN, LABELS, is_control=True)
    assert other.after[Metric.ACCURACY] == 0.0
    few = read([window(5, NEW), labels(0, NEW, 4, 4)], NEW, BEGAN, LABELS, is_control=False)
    assert Metric.ACCURACY not in few.after


def test_labels_are_waited_for_a_fixed_time() -> None:
    reading = read([window(-60), window(5, NEW), window(125, NEW)], NEW, BEGAN, LABELS, is_control=False)
    assert reading.is_whole
    assert not is_ready(reading, BEGAN, LABELS, BEGAN + timedelta(hours=6, minutes=59))
    assert is_ready(reading, BEGAN, LABELS, BEGAN + timedelta(hours=7))
