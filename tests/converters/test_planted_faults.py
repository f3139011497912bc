"""Every planted fault is refused by the whole pipeline with its own code, naming the key and a cure."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert")
from tests.converters.graphs import run
from tests.converters.planted import CONTROLS, FAULTS, Fault, written

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_refused_by_name(tmp_path: Path, fault: Fault) -> None:
    profile = fault.profile()
    if profile.runtime.name == "tflm":
        pytest.importorskip("tflite_micro")
    report, _ = run(written(fault.model(), tmp_path), tmp_path / "out", [profile], **fault.options)
    assert not report.bundles
    (refused,) = report.refused
    assert refused.code == fault.code, refused.reason
    assert fault.key in refused.reason
    assert profile.name in refused.reason
    for words in fault.words:
        assert words in refused.reason
    assert refused.next


def test_there_are_enough_faults_and_each_has_its_own_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20


@pytest.mark.parametrize("number", range(len(CONTROLS)))
def test_a_model_without_a_fault_becomes_a_bundle(tmp_path: Path, number: int) -> None:
    name, model = CONTROLS[number]
    if name.endswith("-tflm"):
        pytest.importorskip("tflite_micro")
    report, _ = run(written(model(), tmp_path), tmp_path / "out", [name])
    assert not report.refused, report.refused
    assert report.bundles
