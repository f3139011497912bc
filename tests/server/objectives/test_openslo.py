"""Files of objectives: what is taken, and what each mistake says."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.declarative.document_files import read_values
from edgefleet_cli.objectives.slo_file import read_slo_file
from edgefleet_server.objectives.errors import BadSloError
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.objectives.openslo import document_of, parsed
from edgefleet_server.objectives.service import says
from tests.house.tree import ROOT

DAY_S = 86_400


def latency(**changes: Any) -> dict[str, Any]:
    """Return the file of a latency objective. changes: fields of its spec."""
    source = {"type": "edgefleet", "spec": {"metric": "latency_ms"}}
    spec = {
        "service": "digits",
        "indicator": {"metadata": {"name": "p99"}, "spec": {"thresholdMetric": {"metricSource": source}}},
        "timeWindow": [{"duration": "28d", "isRolling": True}],
        "budgetingMethod": "Occurrences",
        "objectives": [{"displayName": "Fast", "op": "lte", "value": 100, "target": 0.99}],
    }
    return {"apiVersion": "openslo/v1", "kind": "SLO", "metadata": {"name": "digits-fast"}, "spec": spec | changes}


def share(metric: str, **source: Any) -> dict[str, Any]:
    """Return the file of an objective about a share."""
    raw = {"metricSource": {"type": "edgefleet", "spec": {"metric": metric, **source}}}
    indicator = {"spec": {"ratioMetric": {"counter": True, "rawType": "success", "raw": raw}}}
    return latency(indicator=indicator, objectives=[{"targetPercent": 99.5}])


def threshold(metric: str, value: float) -> dict[str, Any]:
    """Return the file of an objective with a threshold."""
    source = {"type": "edgefleet", "spec": {"metric": metric}}
    goal = {"op": "lte", "value": value, "target": 0.9}
    return latency(indicator={"spec": {"thresholdMetric": {"metricSource": source}}}, objectives=[goal])


GOOD: list[tuple[dict[str, Any], Slo, str]] = [
    (
        latency(),
        Slo("digits-fast", "digits", Indicator.LATENCY, 0.99, 28 * DAY_S, 100.0, "Fast"),
        "99 % of answers within 100 ms, in 28 days",
    ),
    (
        share("success", site="lyon"),
        Slo("digits-fast", "digits", Indicator.SUCCESS, 0.995, 28 * DAY_S, where=(("site", "lyon"),)),
        "99.5 % of requests succeed, in 28 days, site lyon",
    ),
    (
        share("availability") | {"metadata": {"name": "a", "displayName": "Connected", "labels": {"team": "x"}}},
        Slo("a", "digits", Indicator.AVAILABILITY, 0.995, 28 * DAY_S, title="Connected"),
        "99.5 % of devices that serve it are connected, in 28 days",
    ),
    (
        share("accuracy"),
        Slo("digits-fast", "digits", Indicator.ACCURACY, 0.995, 28 * DAY_S),
        "99.5 % of labelled answers are right, in 28 days",
    ),
    (
        threshold("answer_age_s", 7200),
        Slo("digits-fast", "digits", Indicator.ANSWER_AGE, 0.9, 28 * DAY_S, 7200.0),
        "90 % of minutes with an answer not older than 7200 s, in 28 days",
    ),
    (
        threshold("release_age_days", 30),
        Slo("digits-fast", "digits", Indicator.RELEASE_AGE, 0.9, 28 * DAY_S, 30.0),
        "90 % of devices run a release not older than 30 days, in 28 days",
    ),
    (
        threshold("answer_age_s", 1_209_600),
        Slo("digits-fast", "digits", Indicator.ANSWER_AGE, 0.9, 28 * DAY_S, 1_209_600.0),
        "90 % of minutes with an answer not older than 1209600 s, in 28 days",
    ),
    (
        latency(timeWindow=[{"duration": "24h", "isRolling": True}]),
        Slo("digits-fast", "digits", Indicator.LATENCY, 0.99, DAY_S, 100.0, title="Fast"),
        "99 % of answers within 100 ms, in 1 day",
    ),
]


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_each_indicator_is_read_and_written_back(at: int) -> None:
    document, wanted, words = GOOD[at]
    found = parsed(document)
    assert (found, says(found)) == (wanted, words)
    assert parsed(document_of(found)) == found


def test_the_files_of_the_reference_page_are_read_and_their_mistakes_have_lines(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "slo.md").read_text("utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "slos.yaml"
    file.write_text("---\n".join(examples))
    first, second = read_slo_file(str(file))
    assert [parsed(one.document).indicator for one in (first, second)] == [Indicator.LATENCY, Indicator.SUCCESS]
    line = file.read_text().splitlines().index("      target: 0.99") + 1
    assert first.located("$.spec.objectives[0].target: expected") == (
        f"{file}:{line}: $.spec.objectives[0].target: expected"
    )
    begin = file.read_text().splitlines().index("spec:") + 1
    assert first.located("$.spec.servise") == f"{file}:{begin}: $.spec.servise"


@pytest.mark.parametrize("read", [read_slo_file, lambda file: read_values([file])], ids=["slo", "apply"])
def test_standard_input_that_is_no_text_is_refused(read: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"))
    with pytest.raises(UsageError, match="standard input is not text"):
        read("-")


def test_documents_with_nothing_in_them_are_left_out_and_a_file_in_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "slos.yaml"
    file.write_text("---\nmetadata: {name: a}\n---\n---\nmetadata: {name: b}\n---\n")
    assert [(one.name, one.lines["$.metadata"]) for one in read_slo_file(str(file))] == [("a", 2), ("b", 5)]
    file.write_text("metadata: {name: a}\nspec: &spec\n  again: *spec\n")
    with pytest.raises(UsageError, match="neither YAML nor JSON"):
        read_slo_file(str(file))


def changed(path: str, value: Any) -> Callable[[], dict[str, Any]]:
    """Return what makes the latency file with another value at a place; None removes it."""

    def make() -> dict[str, Any]:
        made: Any = latency()
        *steps, last = [int(one) if one.isdigit() else one for one in path.split(".")]
        inner = made
        for step in steps:
            inner = inner[step]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        return dict(made)

    return make


RATIO = "spec.indicator.spec.ratioMetric.raw.metricSource"
METRIC = "spec.indicator.spec.thresholdMetric.metricSource"
BAD: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: "no file", "$", "expected an object, got 'no file'"),
    (changed("apiVersion", "openslo/v2"), "$.apiVersion", "expected 'openslo/v1', got 'openslo/v2'"),
    (changed("kind", "Service"), "$.kind", "expected 'SLO', got 'Service'"),
    (changed("metadata.name", "Digits fast"), "$.metadata.name", "expected text that matches"),
    (changed("spec.service", None), "$.spec.service", "is missing; write the name of the model"),
    (changed("spec.servise", "x"), "$.spec.servise", "is not a field here; did you mean service?"),
    (changed("spec.alertPolicies", []), "$.spec.alertPolicies", "is not taken here: alerts are built in"),
    (changed("spec.objectives.0.target", 1), "$.spec.objectives[0].target", "expected a number from 0.01 to 0.999999, got 1"),
    (changed("spec.objectives.0.target", None), "$.spec.objectives[0]", "expected one of target (0.99) and targetPercent (99)"),
    (changed("spec.objectives.0.targetPercent", 99), "$.spec.objectives[0]", "expected one of target"),
    (changed("spec.objectives.0.op", "gte"), "$.spec.objectives[0].op", "expected lte: latency_ms is good up to a value; got 'gte'"),
    (changed("spec.objectives.0.value", None), "$.spec.objectives[0].value", "is missing; write the value up to which it"),
    (changed("spec.objectives", []), "$.spec.objectives", "expected a list of one objective, got a list of 0; write objectives"),
    (changed("spec.timeWindow.0.duration", "91d"), "$.spec.timeWindow[0].duration", "expected 1d to 90d, got 91d"),
    (changed("spec.timeWindow.0.isRolling", False), "$.spec.timeWindow[0].isRolling", "expected true, got false"),
    (changed("spec.timeWindow.0.calendar", {}), "$.spec.timeWindow[0].calendar", "windows are rolling"),
    (changed("spec.budgetingMethod", "Timeslices"), "$.spec.budgetingMethod", "expected 'Occurrences', got 'Timeslices'"),
    (changed(f"{METRIC}.type", "prometheus"), f"$.{METRIC}.type", "expected 'edgefleet', got 'prometheus'"),
    (changed(f"{METRIC}.spec.metric", "latency"), f"$.{METRIC}.spec.metric", "'latency' is not a metric; did you mean latency_ms?"),
    (lambda: share("accuracy", site="a"), f"$.{RATIO}.spec", "accuracy is of all devices; remove site"),
    (changed(f"{METRIC}.spec.metric", "success"), "$.spec.indicator.spec.thresholdMetric", "success is a share; write ratioMetric"),
    (lambda: share("latency_ms"), "$.spec.indicator.spec.ratioMetric", "latency_ms is a value; write thresholdMetric"),
    (lambda: share("success", site="a", group="b"), "$.spec.indicator.spec.ratioMetric.raw.metricSource.spec", "expected at most one of"),
    (changed("spec.indicator.spec", {}), "$.spec.indicator.spec", "expected one of thresholdMetric and ratioMetric"),
    (changed("spec.objectives.0.op", "lt"), "$.spec.objectives[0].op", "expected lte: latency_ms is good up to a value; got 'lt'"),
    (changed("metadata.displayName", "a\0b"), "$.metadata.displayName", "expected text, got 'a\\x00b'"),
    (changed("spec.description", "half \ud83d"), "$.spec.description", "expected text, got 'half \\ud83d'"),
    (lambda: share("success", site="a, status=online"), f"$.{RATIO}.spec.site", "expected text that matches"),
    (changed("spec.\ud83d", 1), "$.spec.\\ud83d", "is not a field here"),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(BAD)))
def test_each_mistake_has_its_place_and_what_to_write(at: int) -> None:
    make, path, words = BAD[at]
    with pytest.raises(BadSloError) as refused:
        parsed(make())
    found = {one["path"]: one["message"] for one in refused.value.errors}
    assert words in found[path], found


def test_all_mistakes_are_listed_at_once() -> None:
    document = latency(budgetingMethod="x", timeWindow=None)
    document["spec"]["objectives"][0]["target"] = "high"
    with pytest.raises(BadSloError) as refused:
        parsed(document)
    assert [one["path"] for one in refused.value.errors] == [
        "$.spec.timeWindow",
        "$.spec.budgetingMethod",
        "$.spec.objectives[0].target",
    ]
