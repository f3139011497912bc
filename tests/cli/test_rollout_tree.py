"""The tree of a rollout, as it stands on a terminal of 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from edgefleet_cli.core.api.rollout import Metric, Rollout
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.rollout.stage_tree import metric_text, rollout_tree
from tests.cli.fleet_stub import NOON, cell, counts, rollout, stage


def _typed(shown: dict[str, Any]) -> Rollout:
    return struct_of(shown, Rollout)


def _drawn(view: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(view)
    written = console.file
    assert isinstance(written, io.StringIO)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


_TREE = """\
digits@1.1.0  running  1 of 2 healthy, 1 pending
├── ◐ canary: soaking · 1 per stratum · soak 30s
│   █████▒▒▒▒▒ 1 of 2 healthy, 1 pending
│   ├── ● generic-x86_64-ort-small: passed (weak) · verdict advance
│   │   1 of 1 healthy · by all_healthy · abort e 0.87 of 100
│   │   every exposed device is healthy past its soak; 1 of 1 healthy: failure
│   │   below 95 % at 95 %
│   └── ◐ generic-x86_64-ort: soaking · verdict hold · soak ends in 25s
│       0 of 1 healthy, 1 pending · by all_healthy · abort e 0.87 of 100
│       1 of 1 exposed devices has not been healthy for 30 s yet
└── ○ rest: pending · 100 %
    ├── ○ generic-x86_64-ort-small: pending · 4 devices · by all_healthy
    └── ○ generic-x86_64-ort: pending · 4 devices · by all_healthy"""


def test_a_running_rollout() -> None:
    assert _drawn(rollout_tree(_typed(rollout()), NOON)) == _TREE


_ROLLED_BACK = """\
digits@1.2.0  rolled_back  1 failed
└── ✗ canary: failed · 1 per stratum · soak 30s
    ✗✗✗✗✗✗✗✗✗✗ 0 of 1 healthy, 1 failed
    └── ✗ generic-x86_64-ort: failed · verdict roll back
        0 of 1 healthy, 1 failed · by evidence · abort e 12.5 of 200 · promote e
        0.4 of 10
        1 device answered NaN (nonfinite)"""


def test_a_stratum_that_failed_on_evidence() -> None:
    reason = "1 device answered NaN (nonfinite)"
    failed = cell(
        "generic-x86_64-ort",
        state="failed",
        verdict="roll_back",
        reason=reason,
        rule="evidence",
        e_abort=12.5,
        e_promote=0.4,
        counts=counts(exposed=1, failed=1),
    )
    canary = stage(0, "canary", [failed], state="failed", reason=reason, counts=counts(exposed=1, failed=1))
    spec = {"gates": {"install": {"alpha_abort": 0.005, "alpha_promote": 0.1}}}
    shown = rollout(release="digits@1.2.0", state="rolled_back", stages=[canary], spec=spec, counts=counts(failed=1))
    assert _drawn(rollout_tree(_typed(shown), NOON)) == _ROLLED_BACK


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_tree_fits_the_terminal(width: int) -> None:
    assert (
        max(len(line) for line in _drawn(rollout_tree(_typed(rollout(state="paused")), NOON), width).splitlines())
        <= width
    )


def test_no_text_of_a_device_steers_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    shown = rollout(
        reason=evil, stages=[stage(0, evil, [cell(evil, state="failed", reason=evil, bound=evil)], reason=evil)]
    )
    assert not {"\x1b", "\x07"} & set(_drawn(rollout_tree(_typed(shown), NOON)))


def test_what_the_server_left_out_is_left_out() -> None:
    bare = {"id": "r-1", "release": "digits@1.1.0", "state": "running", "stages": [{"name": "canary", "strata": [{}]}]}
    assert "canary" in _drawn(rollout_tree(_typed(bare), NOON))


def test_a_metric_tells_its_value_what_it_lies_between_and_its_threshold() -> None:
    metric = {
        "name": "latency_p95_ms", "bound": "non_inferior_rel", "verdict": "hold", "value": 3.07, "low": -1.21, "high": 11.9,
        "threshold": 10.0, "unit": "%", "devices": 22, "missing": 2,
    }  # fmt: skip
    told = "hold latency_p95_ms: 3.07 % (-1.21 … 11.9), at most 10 %, 22 devices, 2 without a value"
    assert metric_text(struct_of(metric, Metric)) == told
    agreement = {
        **metric,
        "name": "shadow_agreement",
        "bound": "min",
        "unit": "",
        "value": 0.99,
        "low": 0.975,
        "high": 1.0,
    }
    assert "0.99 (0.975 … 1), at least 0.97" in metric_text(
        struct_of({**agreement, "threshold": 0.97, "missing": 0}, Metric)
    )
    nothing = {"name": "drift", "bound": "max", "verdict": "no_data", "value": None, "threshold": 0.02, "devices": 0}
    assert metric_text(struct_of(nothing, Metric)) == "no data drift: no value, 0 devices"
    shown = rollout()
    shown["stages"][0]["strata"][0]["quality"] = [metric]
    assert "hold latency_p95_ms" in _drawn(rollout_tree(_typed(shown), NOON))
