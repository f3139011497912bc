"""How much of a clock is taken away, read from made folders of the kernel's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.reporting.clock_throttle import ClockThrottle

POLICY = "devices/system/cpu/cpufreq/policy{}/{}"
TIME = "devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms"
PI = "devices/platform/soc/soc:firmware/get_throttled"


def put(sys: Path, **told: object) -> None:
    for name, value in told.items():
        path = sys / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", "ascii")


def test_nothing_to_read_is_unknown(tmp_path: Path) -> None:
    assert ClockThrottle(tmp_path).ratio(100) == -1


def test_the_lowest_limit_of_any_core_counts(tmp_path: Path) -> None:
    for policy, allowed in ((0, 2_400_000), (4, 1_500_000)):
        put(tmp_path, **{POLICY.format(policy, "scaling_max_freq"): allowed})
        put(tmp_path, **{POLICY.format(policy, "cpuinfo_max_freq"): 2_400_000})
    assert ClockThrottle(tmp_path).ratio(100) == pytest.approx(0.375)
    put(tmp_path, **{POLICY.format(4, "scaling_max_freq"): 2_600_000})
    assert ClockThrottle(tmp_path).ratio(100) == 0


def test_time_that_was_throttled_is_a_share_of_the_time_since(tmp_path: Path) -> None:
    put(tmp_path, **{TIME: 5_000})
    throttle = ClockThrottle(tmp_path)
    assert throttle.ratio(100) == -1
    put(tmp_path, **{TIME: 20_000})
    assert throttle.ratio(160) == pytest.approx(0.25)
    assert throttle.ratio(220) == 0


@pytest.mark.parametrize(("bits", "ratio"), [("0", 0.0), ("50000", 0.0), ("50005", 0.5), ("8", 0.5), ("rubbish", -1.0)])
def test_a_pi_says_whether_it_throttles_now_not_that_it_did_once(tmp_path: Path, bits: str, ratio: float) -> None:
    put(tmp_path, **{PI: bits})
    assert ClockThrottle(tmp_path).ratio(100) == ratio
