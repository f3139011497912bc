"""Rules of the comparison: what is better, what is worse, and what cannot be said."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.registry.model import BundleView
from edgefleet_server.telemetry.bundle_metrics import Expected, bundle_line, figure_in, metric_in
from edgefleet_server.telemetry.model import Figures, Observed
from edgefleet_server.telemetry.release_comparison import (
    Change,
    compared,
    share_difference,
    shares_differ,
)


def line(profile: str = "p", recent: Figures | None = None, **report: Any) -> Any:
    """Return the row of a bundle with this report."""
    view = BundleView(
        ref=ReleaseRef.parse("m@1.0.0"), profile=ProfileName(profile), target="t", sha256=sha256_hex(b""), length=1000,
        leaves=sha256_hex(b""), runtime="ort", precision="int8", signed_at=datetime(2026, 1, 1, tzinfo=UTC), report=report,
    )  # fmt: skip
    return bundle_line(view, None, recent)


def metric(name: str, value: float, drop: float = 0.0, n: int = 100) -> dict[str, Any]:
    return {"name": name, "value": value, "baseline": 0.9, "drop": drop, "n": n, "data": "evaluation data"}


def change(before: Any, after: Any, name: str) -> Change:
    [pair] = compared([before], [after], ("1", "2"))
    return next(one for one in pair.changes if one.name == name)


@pytest.mark.parametrize(
    ("before", "after", "said", "tone"),
    [
        (100_000, 50_000, "50% smaller", "good"),
        (100_000, 150_000, "50% larger", "bad"),
        (100_000, 100_500, "same", "plain"),
        (None, 100, "no data for one version", "plain"),
        (0, 100, "larger", "bad"),
    ],
)
def test_less_is_better_for_sizes(before: int | None, after: int, said: str, tone: str) -> None:
    found = change(line(bytes=before), line(bytes=after), "Model size")
    assert (found.said, found.tone) == (said, tone)


@pytest.mark.parametrize(
    ("before", "after", "said", "tone", "basis"),
    [
        (
            metric("top1", 0.90, n=1000),
            metric("top1", 0.95, n=1000),
            "0.0500 better",
            "good",
            "1000 samples each",
        ),
        (
            metric("top1", 0.95, n=1000),
            metric("top1", 0.90, n=800),
            "0.0500 worse",
            "bad",
            "1000 and 800 samples",
        ),
        (metric("top1", 0.90), metric("top1", 0.95), "0.0500 better, could be chance", "plain", "100 samples each"),
        (metric("top1", 1.0, n=3), metric("top1", 0.0, n=3), "1.0000 worse", "bad", "3 samples each"),
        (metric("top1", 1.0, n=1), metric("top1", 0.0, n=1), "1.0000 worse, could be chance", "plain", "1 sample each"),
        (
            metric("mae", 0.95, 0.05),
            metric("mae", 0.90),
            "0.0500 better, its spread is not recorded",
            "plain",
            "100 samples each",
        ),
        (
            metric("pkg.mod:loss", 0.95, 0.05),
            metric("pkg.mod:loss", 0.92, 0.02),
            "0.0300 better, its spread is not recorded",
            "plain",
            "100 samples each",
        ),
        (metric("top1", 0.90), metric("top1", 0.9003), "same", "plain", "100 samples each"),
        (metric("top1", 0.90), metric("mae", 0.10), "measured by another metric", "plain", ""),
    ],
)
def test_a_metric_is_judged_by_its_own_direction_and_only_beyond_chance(
    before: Any, after: Any, said: str, tone: str, basis: str
) -> None:
    found = change(line(metric=before), line(metric=after), "Accuracy")
    assert (found.said, found.tone, found.basis) == (said, tone, basis)


def devices(p50_ms: float, n: int, spread: float | None = 0.02) -> Observed:
    spreads = {} if spread is None else {"latency_p50_ms": spread}
    return Observed(n, 3 * n, 300 * n, p50_ms, p50_ms * 1.5, 48_000_000, spreads)


@pytest.mark.parametrize(
    ("before", "after", "said", "tone"),
    [
        (devices(4.0, 12), devices(3.0, 12), "25% faster", "good"),
        (devices(4.0, 12), devices(5.0, 12), "25% slower", "bad"),
        (devices(4.0, 12), devices(4.2, 12, 0.4), "0.2 ms slower, devices differ by as much", "plain"),
        (devices(4.0, 1, None), devices(3.0, 2), "1 ms faster, too few devices to be sure", "plain"),
        (devices(0.06, 12), devices(0.12, 12), "0.06 ms slower, both below 1 ms", "plain"),
        (devices(4.0, 12, 0.0), devices(4.01, 12, 0.0), "same", "plain"),
        (devices(4.0, 3, 0.0), devices(5.0, 3, 0.0), "25% slower", "bad"),
        (None, devices(4.0, 12), "no data for one version", "plain"),
    ],
)
def test_latency_on_devices_is_judged_by_how_much_devices_differ(
    before: Observed | None, after: Observed, said: str, tone: str
) -> None:
    old, new = (replace(line(), observed=one) for one in (before, after))
    found = change(old, new, "On devices p50")
    assert (found.said, found.tone) == (said, tone)


def test_one_run_on_the_converting_server_is_no_verdict() -> None:
    found = change(line(latency_ms={"p50": 0.06}), line(latency_ms={"p50": 0.12}), "Host latency p50")
    assert (found.said, found.tone) == ("0.06 ms slower, not judged", "plain")
    assert found.basis == "one run on the converting server"
    memory = change(line(peak_rss_bytes=100), line(peak_rss_bytes=150), "Host memory")
    assert (memory.said, memory.tone) == ("50% more, not judged", "plain")


def test_predictions_are_judged_by_their_intervals() -> None:
    def predicted(value: float, low: float, high: float) -> Any:
        return replace(line(), predicted={"latency_p50_ms": Expected(value, low, high)})

    near = change(predicted(10, 8, 13), predicted(12, 9, 15), "Predicted p50")
    assert (near.said, near.tone) == ("2 ms slower, within what the prediction is sure of", "plain")
    far = change(predicted(10, 8, 11), predicted(20, 18, 25), "Predicted p50")
    assert (far.said, far.tone) == ("100% slower", "bad")


@pytest.mark.parametrize(
    ("before", "after", "low", "high"),
    [  # as published: Newcombe, Statistics in Medicine 17 (1998), 873, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    before: tuple[int, int], after: tuple[int, int], low: float, high: float
) -> None:
    (p, n), (q, m) = ((hits / of, of) for hits, of in (before, after))
    assert share_difference((p, n), (q, m)) == pytest.approx((low, high), abs=5e-5)
    assert shares_differ((p, n), (q, m)) is (low > 0 or high < 0)


@pytest.mark.parametrize(("after_ms", "tone"), [(5.23, "plain"), (5.25, "bad")])
def test_the_devices_of_a_profile_are_judged_by_student_t(after_ms: float, tone: str) -> None:
    """Ten devices each, their logarithms spread by 0.1: the least that stands out is t(18) * sqrt(pi / 2 * 2 * 0.1**2 / 10) = 0.1178."""
    assert math.log(5.23 / 4.65) < 2.101 * math.sqrt(math.pi / 2 * 2 * 0.1**2 / 10) < math.log(5.25 / 4.65)
    old, new = (replace(line(), observed=devices(ms, 10, 0.1)) for ms in (4.65, after_ms))
    assert change(old, new, "On devices p50").tone == tone


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000), st.integers(1, 10_000))
def test_shares_differ_both_ways_alike_and_never_from_themselves(p: float, q: float, n: int, m: int) -> None:
    assert shares_differ((p, n), (q, m)) == shares_differ((q, m), (p, n))
    assert not shares_differ((p, n), (p, n))


def figures(n: int, errors: int, crashes: int = 0) -> Figures:
    return Figures(1, 3, n, errors, 0, 0, crashes, None, None, None, errors / n, min(1, crashes))


def test_errors_are_compared_as_shares_and_a_thousandth_is_none() -> None:
    worse = change(line(recent=figures(1000, 5)), line(recent=figures(100, 5)), "Errors on devices")
    assert (worse.said, worse.tone, worse.basis) == ("4.50 points more", "bad", "1000 and 100 answers")
    few = change(line(recent=figures(10, 0)), line(recent=figures(10, 1)), "Errors on devices")
    assert (few.said, few.tone) == ("10.00 points more, could be chance", "plain")
    same = change(line(recent=figures(10_000, 1)), line(recent=figures(10_000, 5)), "Errors on devices")
    assert (same.said, same.tone) == ("same", "plain")


def test_a_crash_on_one_device_of_one_is_no_verdict() -> None:
    found = change(line(recent=figures(1000, 0)), line(recent=figures(1000, 0, crashes=1)), "Devices with crashes")
    assert (found.said, found.tone, found.basis) == ("more, could be chance", "plain", "1 device each")


def test_crashes_are_compared_as_a_share_of_the_devices() -> None:
    few = replace(figures(1000, 0), devices=20, crashed_devices=10)
    many = replace(figures(1000, 0), devices=1000, crashed_devices=20)
    found = change(line(recent=few), line(recent=many), "Devices with crashes")
    assert (found.before, found.after, found.said, found.tone) == (10.0, 20.0, "96% fewer", "good")
    assert found.basis == "20 and 1000 devices"
    back = change(line(recent=many), line(recent=few), "Devices with crashes")
    assert (back.said, back.tone) == ("2400% more", "bad")
    as_many = replace(many, crashed_devices=10)
    assert change(line(recent=few), line(recent=as_many), "Devices with crashes").said == "98% fewer"


def test_a_profile_of_one_version_only_is_named() -> None:
    first, second = compared([line("a")], [line("b")], ("1.0.0", "1.1.0"))
    assert first.missing == "1.1.0 has no bundle for this profile"
    assert second.missing == "1.0.0 has no bundle for this profile"


@pytest.mark.parametrize(
    "report",
    [{}, {"metric": []}, {"metric": {"value": "x"}}, {"metric": {"value": float("nan")}}, {"metric": {"value": True}}],
)
def test_what_is_no_metric_is_left_out(report: dict[str, Any]) -> None:
    assert metric_in(report) is None


def test_a_metric_of_random_input_is_not_compared() -> None:
    by_words = {**metric("agreement", 1.0), "data": "random input only"}
    by_flag = {**metric("agreement", 1.0), "is_measured": False}
    for unproven in (by_words, by_flag):
        found = change(line(metric=unproven), line(metric=metric("agreement", 0.99)), "Accuracy")
        assert (found.before, found.after, found.tone) == ("not measured", "agreement 0.9900", "plain")
    shown = line(metric=by_words, verdict="passed", parity={"y": {"cosine": 0.424}, "z": {"cosine": 1.0}})
    assert (shown.verdict, shown.likeness, shown.is_unlike) == ("unproven", 0.424, True)
    assert (
        line(metric=metric("agreement", 1.0), verdict="passed", latency_shapes={"x": [1, 3, 8, 8]}).host_shapes
        == "1×3×8×8"
    )


def test_a_figure_below_what_is_no_mapping_is_none() -> None:
    assert figure_in({"latency_ms": [1]}, "latency_ms", "p50") is None


def test_a_figure_is_a_number_with_its_unit_for_programs() -> None:
    sizes = change(line(bytes=100), line(bytes=50), "Model size")
    assert (sizes.figure, sizes.unit, sizes.before, sizes.after) == ("model_bytes", "bytes", 100, 50)
    scores = change(line(metric=metric("top1", 0.9)), line(), "Accuracy")
    assert (scores.unit, scores.metric, scores.before, scores.after) == ("score", "top1", 0.9, None)
    others = change(line(metric=metric("top1", 0.9)), line(metric=metric("mae", 0.1)), "Accuracy")
    assert (others.unit, others.before, others.after) == ("", "top1 0.9000", "mae 0.1000")
