"""The rules for Prometheus, in promtool: each alert fires when it should, and not for the nearest harmless thing."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgefleet_server.alerting.alert_rules.model_fleet_rules import LEAST_N
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.process.integration_files import FOLDER
from tests.house.tree import ROOT

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
FILE = FOLDER / "edgefleet.rules.yml"
Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """Series in promtool's form, one value a minute, that fire an alert at a minute, and the nearest that do not."""

    fires: Series
    harmless: Series
    at_min: int = 60
    always: Series = field(default_factory=dict)


def _devices(online: int, away: int) -> Series:
    return {
        'edgefleet_devices{status="online"}': f"{online}x90",
        'edgefleet_devices{status="offline"}': f"{away}x90",
        'edgefleet_devices{status="revoked"}': "50x90",
        "edgefleet_devices_away": f"{away}x90",
    }


def _model(name: str, n: int, **bad: int) -> Series:
    """Return what a model counts in a minute."""
    kinds = {"predictions": n, "errors": 0, "timeouts": 0, "crashes": 0, "not_finite": 0} | bad
    return {
        f'edgefleet_model_{kind}_total{{model="{name}",version="1"}}': f"0+{each}x200" for kind, each in kinds.items()
    }


def _latency(usual: str, then: str) -> Series:
    """Return a histogram of 60 answers a minute: for three hours they take up to one bound, then up to another."""
    bounds = ("0.005", "0.01", "0.025", "+Inf")
    found = {}
    for bound in bounds:
        before = 60 if bounds.index(bound) >= bounds.index(usual) else 0
        after = 60 if bounds.index(bound) >= bounds.index(then) else 0
        start = before * 180
        name = f'edgefleet_model_latency_seconds_bucket{{model="m",version="1",le="{bound}"}}'
        found[name] = f"0+{before}x180 {start + after}+{after}x120"
    return found


MONTH_S = 30 * 86_400
CASES: Mapping[str, Case] = {
    "EdgefleetDevicesAway": Case(_devices(79, 21), _devices(80, 20)),
    "EdgefleetGroupAway": Case(
        {'edgefleet_group_devices{group="g"}': "5x90", 'edgefleet_group_devices_away{group="g"}': "2x90"},
        {'edgefleet_group_devices{group="g"}': "4x90", 'edgefleet_group_devices_away{group="g"}': "4x90"},
    ),
    "EdgefleetUpdatesFailed": Case(
        {'edgefleet_model_updates{model="m",status="rolled_back"}': "1x90"},
        {'edgefleet_model_updates{model="m",status="failed"}': "0x90", 'edgefleet_model_updates{model="m",status="healthy"}': "9x90"},
    ),
    "EdgefleetDeviceSuspect": Case({"edgefleet_suspect_devices": "1x90"}, {"edgefleet_suspect_devices": "0x90"}),
    "EdgefleetCertificateEnds": Case(
        {"edgefleet_devices_certificate_ends": "2x90"},
        {"edgefleet_devices_certificate_ends": "0x90", "edgefleet_device_certificate_first_end_timestamp_seconds": "1300000x90"},
    ),
    "EdgefleetDeviceDiskFull": Case({"edgefleet_devices_low_disk": "1x90"}, {"edgefleet_devices_low_disk": "0x90"}),
    "EdgefleetAlert": Case(
        {'edgefleet_alerts{rule="site_silent",severity="critical",status="firing"}': "1x90"},
        {'edgefleet_alerts{rule="site_silent",severity="critical",status="suppressed"}': "1x90"},
    ),
    "EdgefleetModelFails": Case(_model("m", 100, errors=2, timeouts=1), _model("m", 100, errors=1, timeouts=1)),
    # 101: a share of just 1 % is sometimes a little more to Prometheus, by its arithmetic of floats
    "EdgefleetModelNotFinite": Case(_model("n", 100, not_finite=2), _model("n", 101, not_finite=1)),
    "EdgefleetModelSlow": Case(_latency("0.005", "0.01"), _latency("0.005", "0.005"), at_min=225),
    "EdgefleetModelDrift": Case(
        {'edgefleet_model_drifting_devices{model="m"}': "1x90"},
        {'edgefleet_model_drifting_devices{model="m"}': "0x30 1x10 0x20 1x13 0x20"},
    ),
    "EdgefleetBudgetBurnsFast": Case(
        {'edgefleet_slo_state{model="m",slo="a",status="burning"}': "1x90"},
        {'edgefleet_slo_state{model="m",slo="a",status="burning"}': "0x90", 'edgefleet_slo_state{model="m",slo="a",status="ok"}': "1x90"},
    ),
    "EdgefleetBudgetBurns": Case(
        {'edgefleet_slo_state{model="m",slo="b",status="slow_burn"}': "1x90"},
        {'edgefleet_slo_state{model="m",slo="b",status="slow_burn"}': "0x90", 'edgefleet_slo_state{model="m",slo="b",status="ok"}': "1x90"},
    ),
    "EdgefleetBudgetSpent": Case(
        {'edgefleet_slo_budget_left_ratio{model="m",slo="a"}': "-0.1x90"},
        {'edgefleet_slo_budget_left_ratio{model="m",slo="a"}': "0.01x90"},
    ),
    "EdgefleetServerDown": Case({'up{job="edgefleet",instance="a"}': "0x90"}, {'up{job="edgefleet",instance="a"}': "1x58 0x20"}),
    "EdgefleetServerDiskFull": Case(
        {"edgefleet_data_disk_free_bytes": "9x90"},
        {"edgefleet_data_disk_free_bytes": "10x90"},
        always={"edgefleet_data_disk_size_bytes": "100x90"},
    ),
    "EdgefleetRootEnds": Case(
        {'edgefleet_metadata_end_timestamp_seconds{role="root"}': f"{MONTH_S}x90"},
        {'edgefleet_metadata_end_timestamp_seconds{role="root"}': f"{MONTH_S + 3600}x90",
         'edgefleet_metadata_end_timestamp_seconds{role="snapshot"}': "86400x90"},
    ),
    "EdgefleetMetadataEnded": Case(
        {'edgefleet_metadata_end_timestamp_seconds{role="timestamp"}': "3590x90"},
        {'edgefleet_metadata_end_timestamp_seconds{role="timestamp"}': "3610x90"},
    ),
    "EdgefleetEngineFails": Case(
        {'edgefleet_engine_ticks_total{result="failed",instance="a"}': "0+1x90"},
        {'edgefleet_engine_ticks_total{result="failed",instance="a"}': "0x55 1 2 2x30",
         'edgefleet_engine_ticks_total{result="ok",instance="a"}': "0+30x90"},
    ),
    "EdgefleetApiFails": Case(
        {'edgefleet_http_requests_total{status="500",instance="a"}': "0+6x90"},
        {'edgefleet_http_requests_total{status="404",instance="a"}': "0+60x90",
         'edgefleet_http_requests_total{status="500",instance="a"}': "0+5x90"},
        always={'edgefleet_http_requests_total{status="200",instance="a"}': "0+100x90"},
    ),
    "EdgefleetRevocationNotInForce": Case(
        {"edgefleet_revocation_in_force": "0x90"}, {"edgefleet_revocation_in_force": "1x57 0x20"}
    ),
}  # fmt: skip


def alerts() -> list[Mapping[str, Any]]:
    """Return the alert rules of the file."""
    groups = yaml.safe_load(FILE.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def _test(*, fires: bool) -> dict[str, Any]:
    """Return one test of all alerts: their series have nothing in common."""
    series: dict[str, str] = {}
    for case in CASES.values():
        own = {**case.always, **(case.fires if fires else case.harmless)}
        assert not set(own) & set(series)
        series |= own
    asked = []
    for name, case in CASES.items():
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if fires else []
        expr = f'count by (alertname) (ALERTS{{alertname="{name}", alertstate="firing"}})'
        asked.append({"expr": expr, "eval_time": f"{case.at_min}m", "exp_samples": expected})
    return {
        "name": "fires" if fires else "does not fire",
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": asked,
    }


def _promtool(*args: str | Path) -> str:
    done = subprocess.run(["promtool", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_says_how_many_there_are() -> None:
    page = (ROOT / "docs" / "operate" / "monitoring.md").read_text("utf-8")
    assert f"8 recording and {len(alerts())} alert rules" in page


def test_promtool_finds_no_fault() -> None:
    assert f"SUCCESS: {len(alerts()) + 8} rules found" in _promtool("check", "rules", "--lint-fatal", FILE)


def test_each_alert_fires_and_the_nearest_harmless_thing_does_not(tmp_path: Path) -> None:
    assert [one["alert"] for one in alerts()] == list(CASES)
    tests = [_test(fires=True), _test(fires=False)]
    file = tmp_path / "rules_test.yml"
    file.write_text(json.dumps({"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": tests}))
    _promtool("test", "rules", file)


def test_each_alert_says_what_to_do() -> None:
    for rule in alerts():
        severity = rule.get("labels", {}).get("severity", "that of the rule")
        assert severity in {"critical", "warning", "that of the rule"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "next_step"}, rule["alert"]


def test_thresholds_and_severities_are_those_of_the_server() -> None:
    by_name = {one["alert"]: one for one in alerts()}
    same = {
        "EdgefleetDevicesAway": ("offline_share", "> 0.20 "), "EdgefleetGroupAway": ("offline_share", "> 0.20 "),
        "EdgefleetModelFails": ("model_error_share", "> 0.02 "), "EdgefleetModelNotFinite": ("not_finite", "> 0.01 "),
        "EdgefleetModelSlow": ("model_latency_up", "> 1.3 "), "EdgefleetBudgetBurnsFast": ("slo_burn", ""),
        "EdgefleetBudgetBurns": ("slo_burn_slow", ""),
    }  # fmt: skip
    for name, (rule, limit) in same.items():
        assert limit in by_name[name]["expr"], name
        assert by_name[name]["labels"]["severity"] == RULES[rule].severity, name
        if limit:
            assert float(limit[2:]) == RULES[rule].threshold / (100 if RULES[rule].unit == "percent" else 1), name
    assert f">= {LEAST_N}" in by_name["EdgefleetModelFails"]["expr"]


def test_what_is_passed_on_are_rules_of_the_server() -> None:
    [passed] = [one for one in alerts() if one["alert"] == "EdgefleetAlert"]
    names: Sequence[str] = passed["expr"].partition('rule=~"')[2].partition('"')[0].split("|")
    assert set(names) <= set(RULES)
