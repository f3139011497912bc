"""1,000 runs per release in CI, with a fixed seed; `./dev soak rollout-montecarlo` makes 10,000 over whole strata of 2,000."""

import json
import math
import random
from typing import Any

import pytest

from tests.server.rollout.montecarlo import (
    BAD_RATIOS,
    LAG,
    MEDIAN_LIMITS,
    PASS,
    STOP,
    HawkbitShaped,
    Judge,
    aws_shaped,
    main,
    margin,
    reports,
)

SEED = 20_240
RUNS = 1_000


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """The figures of all runs."""
    result = main(RUNS, SEED, devices=600, measured=200)
    print(json.dumps(result))
    return result


def test_a_release_at_the_allowed_failure_ratio_is_hardly_ever_stopped(told: dict[str, Any]) -> None:
    assert told["result"]["false_abort"] <= 0.01 + margin(0.01, RUNS)


def test_a_release_at_the_forbidden_failure_ratio_hardly_ever_passes(told: dict[str, Any]) -> None:
    assert 0 < told["result"]["false_promote"] <= 0.05 + margin(0.05, RUNS)


def test_bad_releases_reach_few_devices_before_they_are_stopped(told: dict[str, Any]) -> None:
    medians = dict(zip(BAD_RATIOS, told["result"]["median_to_abort"], strict=True))
    for ratio, limit in zip(BAD_RATIOS, MEDIAN_LIMITS, strict=True):
        assert medians[ratio] is not None
        assert medians[ratio] <= limit


def test_good_releases_pass_after_as_many_devices_as_the_design_says(told: dict[str, Any]) -> None:
    assert told["result"]["clean_to_promote"] == 73
    assert told["result"]["median_to_promote_at_1_pct"] in {73, 129}, "after no failure or after one"


def test_no_gap_in_the_evidence_promotes_and_the_whole_is_well(told: dict[str, Any]) -> None:
    assert told["result"]["gaps"] == 100 * RUNS
    assert told["result"]["gaps_that_promote"] == 0
    assert told["ok"], told["failures"]


def test_plain_thresholds_on_the_same_draws_stop_good_releases_or_stop_late(told: dict[str, Any]) -> None:
    """Why there is evidence at all: a threshold is either at the bound and stops good releases, or above it and late."""
    others = told["same_draws"]
    assert others["aws_min10_3pct"]["false_abort"] > 0.5
    assert others["hawkbit_group100_error3pct_success50pct"]["false_abort"] > 0.5
    assert others["hawkbit_group100_error3pct_success50pct"]["false_promote"] > 0.5
    late = others["aws_min100_20pct"]["median_to_abort"]
    ours = told["result"]["median_to_abort"]
    assert all(theirs is None or theirs > own for theirs, own in zip(late, ours, strict=True))


def test_the_same_seed_gives_the_same_figures() -> None:
    assert main(3, 5, devices=150) == main(3, 5, devices=150)
    json.dumps(main(3, devices=150), allow_nan=False)


@pytest.mark.parametrize("lag", [0, LAG])
def test_every_device_is_reported_in_order_and_ends_with_an_outcome(lag: int) -> None:
    before = (0, 0, 0)
    for exposed, healthy, failed in reports(0.2, 200, lag, random.Random(1)):
        assert sum((exposed - before[0], healthy - before[1], failed - before[2])) == 1, "one report at a time"
        assert 0 <= exposed - healthy - failed <= lag + 1
        before = (exposed, healthy, failed)
    assert before[1] + before[2] == before[0] == 200


def test_the_judge_remembers_but_does_not_change_verdicts() -> None:
    judge = Judge()
    assert [judge(2, 0, 2), judge(73, 73, 0), judge(72, 72, 0), judge(2, 0, 2)] == [STOP, PASS, "", STOP]
    assert judge.asked() == 3


def test_the_aws_shape_counts_only_devices_with_an_outcome() -> None:
    look = aws_shaped(10, 20)
    assert look(50, 7, 2) == "", "nine have an outcome"
    assert look(50, 8, 2) == STOP
    assert look(50, 9, 2) == ""


def test_the_hawkbit_shape_counts_all_targets_of_the_group() -> None:
    look = HawkbitShaped(10, 20, 50)
    assert look(4, 2, 2) == "", "2 of 10 are not more than 20 %"
    assert look(10, 5, 2) == PASS
    assert look(13, 8, 3) == "", "the next group: nothing failed, none of its own is done"
    assert look(15, 9, 5) == STOP
    assert look(18, 13, 5) == STOP, "a stopped rollout stays so"


def test_the_margin_is_four_standard_deviations() -> None:
    assert margin(0.5, 100) == pytest.approx(0.2)
    assert math.isclose(margin(0.01, 10_000), 0.00398, rel_tol=1e-2)


# ---- with a quality gate


def test_with_metrics_at_their_margins_and_failures_at_their_bound_a_release_is_hardly_ever_stopped(
    told: dict[str, Any],
) -> None:
    assert told["quality"]["result"]["false_abort"] <= 0.01 + margin(0.01, 2 * RUNS)


def test_a_release_with_one_metric_at_its_margin_hardly_ever_passes(told: dict[str, Any]) -> None:
    result = told["quality"]["result"]
    assert result["false_promote_one_metric_at_its_margin"] <= 0.05 + margin(0.05, 2 * RUNS)
    assert 0 < result["false_promote_failures_at_p1"] <= 0.05 + margin(0.05, 2 * RUNS)


def test_a_quality_gate_does_not_make_the_stop_of_failing_releases_late(told: dict[str, Any]) -> None:
    for median, limit in zip(told["quality"]["result"]["median_to_abort"], MEDIAN_LIMITS, strict=True):
        assert median is not None
        assert median <= limit
    assert told["quality"]["result"]["median_to_promote_at_1_pct"] in {73, 129}


def test_the_shipped_rules_agree_with_the_fast_calculation_and_stop_what_others_let_pass(told: dict[str, Any]) -> None:
    quality = told["quality"]
    assert quality["result"]["audited"] >= 20
    assert not quality["failures"]
    assert all(median is not None for median in quality["result"]["median_to_abort_worse"].values())
    others = quality["same_draws"]
    assert others["hawkbit_group100_error3pct_success50pct"]["false_promote"] > 0.9
    assert others["aws_min100_20pct"]["stops_at_4_margins"] == 0
    assert others["mean_over_margin_min10"]["false_abort"] > 0.9
