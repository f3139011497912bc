"""A device may lie about itself; what many devices say together moves by its part at most."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.model import agreement_over
from edgefleet_server.telemetry.plausibility import (
    MAX_ANSWERS_PER_S,
    SLACK_S,
    DeviceSums,
    is_possible,
    mean_error_rate,
    mean_failed_share,
    median_latency_s,
)
from tests.server.conftest import database_url  # noqa: F401  # a fixture
from tests.server.fleet.conftest import any_house  # noqa: F401  # a fixture
from tests.server.fleet.house import House

SHA = "a" * 64
MOST = (60 + SLACK_S) * MAX_ANSWERS_PER_S


def window(**more: Any) -> Window:
    plain = {"t0": 1_764_000_000, "length_s": 60, "model": "m", "lane": "active", "sha256": SHA, "version": "1"}
    return Window(**{**plain, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2**61, "errors": 2**61},
        {"n": MOST + 1},
        {"n": 5, "errors": 6},
        {"n": 5, "nonfinite": 6},
        {"timeouts": MOST + 1},
        {"crashes": 60 + SLACK_S + 1},
        {"n": 5, "latency": [3, 4, 2]},
        {"length_s": 2**30, "n": 1},
    ],
)
def test_what_no_device_can_have_done_is_refused(more: dict[str, Any]) -> None:
    made = window(**more)
    assert not is_possible(made, LatencySketch.unpacked(made.latency).n)


@pytest.mark.parametrize(
    "more",
    [
        {"n": MOST, "errors": MOST, "nonfinite": MOST},
        {"n": 6, "latency": [3, 4, 2]},
        {"length_s": 0, "n": 1},
        {"length_s": 366 * 86_400, "n": 10**9, "timeouts": 10, "crashes": 30},
    ],
)
def test_what_an_outbox_adds_up_is_possible(more: dict[str, Any]) -> None:
    made = window(**more)
    assert is_possible(made, LatencySketch.unpacked(made.latency).n)


counted = st.integers(0, MOST)


@st.composite
def devices(draw: st.DrawFn) -> DeviceSums:
    n = draw(counted)
    errors = draw(st.integers(0, n))
    latency = LatencySketch({draw(st.integers(0, 1400)): draw(st.integers(1, n))} if n else {})
    return DeviceSums(n, errors, draw(counted), draw(st.integers(0, n - errors)), 0, latency)


@given(honest=st.lists(devices(), min_size=1, max_size=8), liar=devices())
def test_one_liar_moves_no_figure_by_more_than_its_share(honest: list[DeviceSums], liar: DeviceSums) -> None:
    for rate in (mean_failed_share, mean_error_rate):
        before, after = rate(honest), rate([*honest, liar])
        told = sum(rate([one]) is not None for one in honest)
        if before is not None and after is not None:
            assert abs(after - before) <= 1 / (told + 1) + 1e-9
    values = sorted(v for one in honest if (v := one.latency.quantile_s(0.95)) is not None)
    after = median_latency_s([*honest, liar], 0.95)
    if len(values) >= 2:
        assert after is not None
        low, high = len(values) // 2 - 1, (len(values) + 1) // 2
        assert values[low] <= after <= values[high], "it moves to a neighbour in the middle at most"


@given(agreed=st.lists(st.integers(0, 100), min_size=1, max_size=8), lie=st.integers(1, 2**50), of=st.integers(0, 1))
def test_one_liar_moves_agreement_by_its_share(agreed: list[int], lie: int, of: int) -> None:
    honest = [ShadowFigures(compared=100, judged=100, agreed=n) for n in agreed]
    liar = ShadowFigures(compared=lie, judged=lie, agreed=lie * of)
    before, after = agreement_over(honest).agreement, agreement_over([*honest, liar]).agreement
    assert before is not None
    assert after is not None
    assert abs(after - before) <= 1 / (len(honest) + 1) + 1e-9


def test_a_liar_neither_counts_a_billion_nor_crowds_others_out(any_house: House) -> None:  # noqa: F811
    telemetry, now = any_house.telemetry, int(any_house.clock.now().timestamp())
    sketch = LatencySketch()
    sketch.add(0.010)
    good = window(t0=now, n=100, errors=1, latency=sketch.packed())
    bad = window(t0=now, n=10**6, errors=10**6, crashes=60)
    lie = window(t0=now, n=2**61, errors=2**61)
    honest = [Telemetry(device=f"d-{n}", boot_id="b", seq=1, ts=1, windows=[good]) for n in range(9)]
    telemetry.ingest(honest)
    telemetry.ingest(
        [Telemetry(device="d-liar", boot_id="b", seq=n, ts=1, windows=[bad] * 20 + [lie]) for n in range(3)]
    )
    assert telemetry.refused() == {"d-liar": 3}
    assert telemetry.refused() == {}
    found = telemetry.recent(SHA, any_house.clock.now() - dt.timedelta(hours=1), 20)
    assert (found.devices, found.windows, found.crashed_devices) == (10, 20, 1)
    assert found.failed_share == pytest.approx((9 * 0.01 + 1) / 10)
    assert found.latency_p95_ms == pytest.approx(10, rel=0.02)
