"""A wrong value is never offered: planted faults, the known pair of file and runtime, and what is right all the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("ai_edge_litert")
if sys.version_info >= (3, 12):
    pytest.skip("tflite-runtime ends with Python 3.11", allow_module_level=True)
from edgefleet_converters.check.likeness import difference_ratio
from edgefleet_converters.sandbox import Limits
from edgefleet_runtime.port import load
from tests.converters import tampers
from tests.converters.graphs import run, samples
from tests.converters.sabotage import CASES, Array, Case, converted, digits_data, workplace
from tests.converters.silent_wrong import FAULTS, SOAK_ONLY, Fault, outcome
from tests.converters.tflite_graphs import dynamic_range_by_channel

RIGHT = ("digits", "digits-tflite-int8", "two-headed-int8", "recurrent-tflite", "regression-int8")


@pytest.fixture(scope="module", autouse=True)
def _one_sandbox() -> Iterator[None]:
    with workplace():
        yield


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name not in SOAK_ONLY], ids=lambda fault: fault.name)
def test_a_planted_fault_is_refused_for_its_reason(tmp_path: Path, fault: Fault) -> None:
    assert not outcome(fault, tmp_path)


def test_there_are_enough_faults_and_each_has_its_own_name() -> None:
    names = {fault.name for fault in FAULTS}
    assert len(names) == len(FAULTS)
    assert names >= SOAK_ONLY
    assert len(names - SOAK_ONLY) >= 20


@pytest.mark.parametrize("name", RIGHT)
def test_the_same_model_without_a_fault_is_offered(tmp_path: Path, name: str) -> None:
    report = converted(CASES[name], tmp_path, lambda data: data)
    assert not report.refused, report.refused
    assert report.bundles


def test_one_float_answer_may_round_otherwise_but_not_be_another(tmp_path: Path) -> None:
    sample = digits_data()["eval"]["image"][7:8]
    for by, is_offered in ((0.01, True), (0.5, False)):
        folder = tmp_path / str(by)
        folder.mkdir()
        report = converted(CASES["digits"], folder, tampers.bumped_for(sample, by))
        assert bool(report.bundles) == is_offered, report.refused


def test_an_answer_that_never_comes_is_refused(tmp_path: Path) -> None:
    with workplace(Limits(cpu_s=2)):
        report = converted(CASES["digits"], tmp_path, tampers.endless())
    assert report.refused[0].code == "convert.timed_out"


@pytest.fixture(scope="module")
def known_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example compiled to TFLite, with int8 weights in the form that ai-edge-quantizer writes."""
    folder = tmp_path_factory.mktemp("pair")
    made: list[bytes] = []

    def keep(data: bytes) -> bytes:
        made.append(data)
        return data

    assert converted(CASES["digits-tflite"], folder, keep).bundles
    path = folder / "dynamic.tflite"
    path.write_bytes(dynamic_range_by_channel(made[0]))
    return path


def test_tflite_runtime_answers_the_known_pair_wrong_and_says_nothing(known_pair: Path) -> None:
    images, classes = (digits_data()["eval"][name] for name in ("image", "y"))
    right = _top1("litert", known_pair, images, classes)
    wrong = _top1("tflite", known_pair, images, classes)
    assert right >= 0.97
    assert wrong <= 0.5, "2.14 computes this form right: the pair is no test of the gate any more"


@pytest.mark.parametrize("is_labelled", [True, False])
def test_the_known_pair_is_refused_for_tflite_runtime_and_offered_for_litert(
    tmp_path: Path, known_pair: Path, *, is_labelled: bool
) -> None:
    known = digits_data()["eval"]
    kept = {"image": known["image"]} | ({"y": known["y"]} if is_labelled else {})
    data = {"eval": samples(tmp_path, "eval.npz", **kept)}
    profiles = ["raspberry-pi-armv7-tflite", "generic-x86_64-litert"]
    report, _ = run(known_pair, tmp_path / "out", profiles, data)
    (refused,), (offered,) = report.refused, report.bundles
    assert refused.profile == "raspberry-pi-armv7-tflite"
    assert refused.code == "convert.accuracy"
    assert "tflite 2.14.0" in refused.reason
    assert offered.profile == "generic-x86_64-litert"


def test_the_known_pair_is_refused_without_any_data(tmp_path: Path, known_pair: Path) -> None:
    report, _ = run(known_pair, tmp_path / "out", ["raspberry-pi-armv7-tflite"])
    assert report.refused[0].code in ("convert.accuracy", "convert.differs")


def test_a_source_that_does_not_take_the_batches_it_declares_is_served_one_by_one(tmp_path: Path) -> None:
    one = CASES["digits"]
    row = np.array([1, 10], np.int64)
    reshape = tampers.on_output([helper.make_node("Reshape", ["was", "row"], ["now"])], row=row)

    def export(folder: Path) -> Path:
        path = folder / "one.onnx"
        path.write_bytes(reshape(one.model(folder).read_bytes()))
        return path

    report = converted(Case(export, one.profile, one.data), tmp_path, lambda data: data)
    assert not report.refused, report.refused


def test_likeness_is_of_the_whole_and_of_each_channel() -> None:
    random = np.random.default_rng(0)
    wanted = random.standard_normal((200, 6, 4)).astype(np.float32)
    assert difference_ratio(wanted, wanted) == (0.0, "")
    assert difference_ratio(wanted + random.standard_normal(wanted.shape) * 0.05, wanted)[0] < 0.1
    still = np.broadcast_to(wanted.mean(axis=0), wanted.shape)
    assert difference_ratio(still, wanted)[0] == pytest.approx(1.0, abs=0.01)
    lost = wanted.copy()
    lost[:, 5] = 0
    ratio, where = difference_ratio(lost, wanted)
    assert ratio > 0.9
    assert where == " at [:, 5, :]"
    assert np.isnan(difference_ratio(np.where(wanted > 3, np.nan, wanted), wanted)[0])


def test_whole_numbers_are_like_when_few_are_others_however_far() -> None:
    rare = np.zeros(160, np.int64)
    one = rare.copy()
    one[7] = 900
    assert difference_ratio(one, rare)[0] < 0.5, "one of 160 decisions is within the loss that is allowed"
    assert difference_ratio(rare == 0, rare != 0)[0] >= 0.5
    classes = np.random.default_rng(0).integers(0, 9, (160, 4))
    assert difference_ratio(np.full_like(classes, 4), classes)[0] >= 0.5
    lost = classes.copy()
    lost[:, 2] = 4
    assert difference_ratio(lost, classes)[0] >= 0.5
    pixels = np.random.default_rng(0).integers(0, 200, (40, 64)).astype(np.uint8)
    assert difference_ratio(pixels + np.uint8(1), pixels)[0] < 0.1, "a step of a picture"


def _top1(runtime: str, path: Path, images: Array, classes: Array) -> float:
    model = load(runtime, path.read_bytes())
    name = model.inputs[0].name
    rows = [next(iter(model.run({name: images[i : i + 1]}).values())) for i in range(len(images))]
    return float(np.mean(np.concatenate(rows).argmax(axis=1) == classes))
