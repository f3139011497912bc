"""The whole pipeline on small models: what is offered, what is refused and why."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgefleet_converters import errors
from edgefleet_profiles.profile import HardwareProfile, ProfileRuntime, QuantRules
from edgefleet_protocol.bundle import Bundle, open_bundle
from edgefleet_runtime.golden import check_golden, load_golden
from edgefleet_runtime.port import load
from tests.converters.crash_models import answering_nan, crashing_at_load
from tests.converters.graphs import changed, classifier, data_for, model_of, run, samples, save


def opened(path: str) -> Bundle:
    bundle = open_bundle(io.BytesIO(Path(path).read_bytes()))
    bundle.verify_members()
    return bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A classifier of 64 features, 200 labelled samples in two files."""
    folder = tmp_path_factory.mktemp("tiny")
    model = classifier(features=64)
    x, y = data_for(model, 300)
    return {
        "model": save(model, folder),
        "calibration": samples(folder, "cal.npz", x=x[:100]),
        "eval": samples(folder, "eval.npz", x=x[100:], y=y[100:]),
        "x": x,
    }


def given(tiny: dict[str, Any], *names: str) -> dict[str, str]:
    return {name: tiny[name] for name in names}


def test_with_data_int8_is_offered_and_its_golden_vectors_hold(tiny: dict[str, Any], tmp_path: Path) -> None:
    report, events = run(tiny["model"], tmp_path, data=given(tiny, "calibration", "eval"), max_drop=0.02)
    (row,) = report.bundles
    assert row.precision == "int8-weights", "products so small are not made faster by integers"
    assert row.ratio < 0.6
    assert row.metric.name == "top1"
    assert row.metric.n == 100
    assert [r.name for r in row.runtimes] == ["ort"]
    bundle = opened(row.path)
    manifest = bundle.manifest
    assert (manifest.profile, manifest.runtime, manifest.precision) == ("generic-x86_64-ort", "ort", row.precision)
    assert [spec.name for spec in manifest.inputs] == ["x"]
    assert manifest.recipe.steps["candidates"][0]["id"] == row.candidate
    golden = load_golden(bundle.read("golden.npz"))
    assert golden.n >= 8
    assert check_golden(load("ort", bundle.read("model.onnx")), golden, manifest.tolerances).ok
    assert {"progress", "candidate", "bundle"} == {event["type"] for event in events}


def test_the_same_input_gives_the_same_bytes(tiny: dict[str, Any], tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        data = given(tiny, "calibration", "eval")
        report, _ = run(tiny["model"], tmp_path / str(number), ["generic-aarch64-ort"], data, max_drop=0.05)
        digests.add(report.bundles[0].sha256)
    assert len(digests) == 1


@pytest.mark.slow
def test_every_explicit_precision_gives_that(tiny: dict[str, Any], tmp_path: Path) -> None:
    for precision in ("fp32", "fp16", "int8", "dynamic", "int8-weights", "int4-weights", "int16x8"):
        data = given(tiny, "calibration", "eval")
        report, _ = run(tiny["model"], tmp_path / precision, data=data, precision=precision, max_drop=0.2)
        assert [row.precision for row in report.bundles] == [precision]


@pytest.mark.slow
def test_without_data_the_report_says_random_input_only_and_int8_is_refused(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    report, _ = run(tiny["model"], tmp_path / "auto")
    assert report.bundles[0].precision not in ("int8", "int16x8"), "what needs samples is not made up without"
    assert opened(report.bundles[0].path).manifest.report["parity_on"] == "random input only"
    refused, _ = run(tiny["model"], tmp_path / "int8", precision="int8")
    assert refused.refused[0].code == "convert.precision_unavailable"
    assert "calibration" in refused.refused[0].next


def test_what_only_random_input_judged_is_unproven_and_says_the_shapes_it_was_timed_at(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    report, events = run(tiny["model"], tmp_path / "random", precision="fp32")
    (bundle,) = report.bundles
    assert (bundle.verdict, bundle.metric.is_measured) == ("unproven", False)
    assert {row.verdict for row in report.profiles[0].candidates} == {"unproven"}
    assert {event["verdict"] for event in events if event["type"] == "candidate"} == {"unproven"}
    assert bundle.latency_shapes == {"x": [1, *np.load(tiny["eval"])["x"].shape[1:]]}
    page = (tmp_path / "random" / "report.html").read_text()
    assert "not measured" in page
    assert "random input" in page
    assert "agreement 1" not in page
    proved, _ = run(tiny["model"], tmp_path / "proved", data=given(tiny, "eval"), precision="fp32")
    assert (proved.bundles[0].verdict, proved.bundles[0].metric.is_measured) == ("passed", True)


def test_a_metric_that_is_asked_for_needs_data(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(errors.DataEmptyError, match="no data to measure it on"):
        run(tiny["model"], tmp_path, metric="agreement", precision="fp32")


def test_int8_that_loses_more_than_allowed_is_refused_with_figures(tmp_path: Path) -> None:
    digits = Path(__file__).parents[2] / "examples" / "digits"
    data = {"calibration": str(digits / "data/calibration.npz"), "eval": str(digits / "data/eval.npz")}
    report, _ = run(digits / "bad" / "int8-loses.onnx", tmp_path, data=data, precision="int8")
    assert not report.bundles
    assert report.refused[0].code == "convert.accuracy"
    assert "the source has 99.50%" in report.refused[0].reason
    assert "1 allowed" in report.refused[0].reason
    rows = {row.id: row for row in report.profiles[0].candidates}
    assert {row.verdict for row in rows.values()} == {"rejected"}
    searched = rows.pop("int8-mixed")
    assert "so many layers must stay float" in searched.reason
    assert all(row.metric is not None and row.metric.drop > 0.01 for row in rows.values())


def test_the_example_fits_the_small_profile_only_as_int8(tmp_path: Path) -> None:
    digits = Path(__file__).parents[2] / "examples" / "digits"
    data = {name: str(digits / f"data/{name}.npz") for name in ("calibration", "eval")}
    data |= {
        "labels": str(digits / "labels.txt"), "reference": str(digits / "data" / "reference.npz"),
        "preprocess": str(digits / "preprocess.json"), "postprocess": str(digits / "postprocess.json"),
    }  # fmt: skip
    small = "generic-aarch64-ort-small"
    report, _ = run(digits / "digits-1.1.0.onnx", tmp_path / "auto", [small], data)
    (row,) = report.bundles
    assert row.precision == "int8"
    assert row.ratio <= 0.35
    assert row.metric.drop <= 0.01
    assert set(opened(row.path).names()) == {
        "manifest.json", "model.onnx", "golden.npz", "labels.txt", "reference.msgpack", "preprocess.json",
        "postprocess.json",
    }  # fmt: skip
    refused, _ = run(digits / "digits-1.1.0.onnx", tmp_path / "fp32", [small], data, precision="fp32")
    assert refused.refused[0].code == "convert.over_budget"
    assert "262144" in refused.refused[0].reason


def test_a_model_that_kills_the_runtime_at_load_is_refused(tmp_path: Path) -> None:
    report, _ = run(save(crashing_at_load(), tmp_path), tmp_path / "out", ["generic-x86_64-ort", "generic-aarch64-ort"])
    assert [row.code for row in report.refused] == ["convert.crashed"] * 2
    assert "SIGFPE" in report.refused[0].reason
    assert report.key == "", "memory and time are another day's: it is tried again"


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    report, _ = run(save(answering_nan(), tmp_path), tmp_path / "out")
    assert report.refused[0].code == "convert.not_finite"
    assert "NaN" in report.refused[0].reason
    assert "--eval" in report.refused[0].next, "random input was no input of this model"


def test_a_few_judging_samples_are_enough_for_int8(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    tensors = {
        "c": np.array(0.5, np.float32), "w": random.standard_normal((32, 64)).astype(np.float32),
        "v": random.standard_normal((64, 6)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Sub", ["x", "c"], ["a"], name="centre"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="first"),
        helper.make_node("Relu", ["b"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    model = model_of(nodes, tensors, {"x": ["N", 32]}, {"y": ["N", 6]})
    x = random.random((103, 32)).astype(np.float32)
    data = {"calibration": samples(tmp_path, "c.npz", x=x[:100]), "eval": samples(tmp_path, "e.npz", x=x[100:])}
    report, _ = run(save(model, tmp_path), tmp_path / "out", data=data, precision="int8")
    assert not report.refused, report.refused
    golden = load_golden(opened(report.bundles[0].path).read("golden.npz"))
    assert 0 <= golden.inputs["x"].min() <= golden.inputs["x"].max() <= 1, "of the range that the model is made for"


def test_a_model_without_weights_is_not_called_float16(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["N", 4]}, {"y": ["N", 4]})
    report, _ = run(save(model, tmp_path), tmp_path / "out")
    assert report.bundles[0].precision == "fp32"
    reasons = {row.id: row.reason for row in report.profiles[0].candidates if row.precision == "fp16"}
    assert reasons
    assert all("float16" in reason or "no node" in reason for reason in reasons.values()), reasons


def test_a_model_that_folding_would_blow_up_stays_as_small_as_it_was(tmp_path: Path) -> None:
    stored = {"w": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32), "extent": np.array([500, 500])}
    nodes = [
        helper.make_node("ConstantOfShape", ["extent"], ["zeros"]), helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Expand", ["w", "wide"], ["table"]), helper.make_node("MatMul", ["x", "table"], ["h"]),
        helper.make_node("ReduceMean", ["h"], ["m"], axes=[1], keepdims=0), helper.make_node("Add", ["m", "nothing"], ["y"]),
    ]  # fmt: skip
    stored["wide"] = np.array([3000, 4, 4])
    model = model_of(nodes, stored, {"x": [1, 1, 4]}, {"y": [3000, 4]})
    report, _ = run(save(model, tmp_path), tmp_path / "out", precision="fp32")
    assert report.bundles[0].bytes < 5_000


def test_a_refused_profile_does_not_stop_the_others(tiny: dict[str, Any], tmp_path: Path) -> None:
    profiles: list[str | HardwareProfile] = [
        "generic-x86_64-litert",
        changed("generic-x86_64-ort", max_model_bytes=100),
        "generic-x86_64-ort",
    ]
    report, _ = run(tiny["model"], tmp_path, profiles, precision="fp32")
    assert [row.code for row in report.refused] == ["convert.over_budget"]
    assert [row.profile for row in report.bundles] == ["generic-x86_64-litert", "generic-x86_64-ort"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "code", "told"),
    [
        ({"opset_max": 15}, "convert.opset_too_new", "opset_max"),
        ({"ir_max": 7}, "convert.opset_too_new", "ir_max"),
        ({"max_model_bytes": 100}, "convert.over_budget", "max_model_bytes"),
        ({"free_ram_budget_mb": 8}, "convert.over_budget", "free_ram_budget_mb"),
        ({"quant": QuantRules(io_dtype="int8")}, "convert.format_not_allowed", "quant.io_dtype"),
        ({"runtime": ProfileRuntime(name="ort", version="1.2.3")}, "convert.runtime_unavailable", r"1\.2\.3"),
        (
            {"also_verified_on": [ProfileRuntime(name="tflite", version="1.0.0")]},
            "convert.runtime_unavailable", "tflite 1.0.0",
        ),
    ],
)  # fmt: skip
def test_a_profile_that_cannot_be_served_names_the_key(
    tiny: dict[str, Any], tmp_path: Path, keys: dict[str, Any], code: str, told: str
) -> None:
    data = given(tiny, "calibration", "eval")
    report, _ = run(tiny["model"], tmp_path, [changed("generic-x86_64-ort", **keys)], data, max_drop=0.0)
    assert report.refused[0].code == code
    assert re.search(told, report.refused[0].reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "tried", "against"),
    [("required", {"int8", "dynamic"}, "fp32"), ("forbidden", {"fp16", "fp32"}, "int8")],
)
def test_the_profiles_rule_for_int8_decides_what_is_tried(
    tiny: dict[str, Any], tmp_path: Path, mode: Any, tried: set[str], against: str
) -> None:
    data = given(tiny, "calibration", "eval")
    profile = changed("generic-x86_64-ort", quant=QuantRules(mode=mode))
    report, _ = run(tiny["model"], tmp_path / "auto", [profile], data)
    assert {row.precision for row in report.profiles[0].candidates} == tried
    report, _ = run(tiny["model"], tmp_path / against, [profile], data, precision=against)
    assert report.refused[0].code == "convert.precision_unavailable"
    assert "quant.mode" in report.refused[0].reason


@pytest.mark.slow
def test_open_dimensions_are_fixed_where_the_profile_needs_it(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["N", 3, "T"]}, {"y": ["N", 3, "T"]})
    fixed = changed("generic-x86_64-ort", quant=QuantRules(dynamic_shapes=False))
    report, _ = run(save(model, tmp_path), tmp_path / "out", [fixed])
    assert report.refused[0].code == "convert.dynamic_shape"
    assert "open dimension 'T'" in report.refused[0].reason
    data = {"eval": samples(tmp_path, x=np.arange(135, dtype=np.float32).reshape(9, 3, 5))}
    report, _ = run(save(model, tmp_path), tmp_path / "out2", [fixed], data)
    assert opened(report.bundles[0].path).manifest.inputs[0].shape == [1, 3, 5]


def test_wrong_data_ends_the_whole_conversion(tiny: dict[str, Any], tmp_path: Path) -> None:
    wrong = samples(tmp_path, x=np.ones((20, 5), np.float32))
    with pytest.raises(errors.DataShapeError):
        run(tiny["model"], tmp_path / "out", data={"calibration": wrong})


def test_labels_beyond_the_classes_are_told(tiny: dict[str, Any], tmp_path: Path) -> None:
    wrong = samples(tmp_path, x=tiny["x"][:20], y=np.full(20, 99))
    with pytest.raises(errors.LabelsError, match="99"):
        run(tiny["model"], tmp_path / "out", data={"eval": wrong})


@pytest.mark.slow
def test_side_files_are_checked(tiny: dict[str, Any], tmp_path: Path) -> None:
    bad = {"labels": "a\nb\n", "preprocess": "{", "postprocess": "[]", "reference": "\xc1"}
    for name, text in bad.items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises((errors.LabelsError, errors.SideFileError)):
            run(tiny["model"], tmp_path / "out", data={name: str(path)})


@pytest.mark.slow
def test_the_users_golden_vectors_are_used_and_checked(tiny: dict[str, Any], tmp_path: Path) -> None:
    golden = samples(tmp_path, "golden.npz", x=tiny["x"][:11])
    report, _ = run(tiny["model"], tmp_path / "a", data={"golden": golden}, precision="fp32")
    bundle = opened(report.bundles[0].path)
    vectors = load_golden(bundle.read("golden.npz"))
    assert vectors.n == 11
    assert np.array_equal(vectors.inputs["x"], tiny["x"][:11])
    lying = tmp_path / "lying.npz"
    np.savez(lying, **{"in.x": tiny["x"][:11], "out.scores": np.zeros((11, 4), np.float32)})
    report, _ = run(tiny["model"], tmp_path / "b", data={"golden": str(lying)}, precision="fp32")
    assert report.refused[0].code == "convert.golden"


@pytest.mark.slow
def test_a_recipe_from_a_bundle_gives_the_same_bundle(tiny: dict[str, Any], tmp_path: Path) -> None:
    data = given(tiny, "calibration", "eval")
    first, _ = run(tiny["model"], tmp_path / "a", data=data, max_drop=0.05)
    manifest = opened(first.bundles[0].path).manifest
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(manifest.recipe.steps))
    again, _ = run(tiny["model"], tmp_path / "b", data=data | {"recipe": str(recipe)}, max_drop=0.05)
    assert again.bundles[0].sha256 == first.bundles[0].sha256


def test_a_users_metric_is_called_in_the_sandbox(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    metric = "tests.converters.own_metric:share_of_first_class"
    report, _ = run(tiny["model"], tmp_path, data=given(tiny, "eval"), metric=metric, precision="fp32")
    assert report.bundles[0].metric.name == metric
    assert report.bundles[0].metric.drop == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "told"),
    [("nonsense", "no metric 'nonsense'"), ("json:none", "cannot be imported"), ("no_such_pkg.x:f", "cannot be imported"),
     ("builtins:zip", "no number"), ("tests.converters.own_metric:undefined", "NaN or infinity")],
)  # fmt: skip
def test_a_metric_that_is_none_ends_the_conversion(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, told: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(errors.MetricError, match=told) as caught:
        run(tiny["model"], tmp_path, data=given(tiny, "eval"), metric=metric, precision="fp32")
    assert caught.value.next_step


@pytest.mark.slow
def test_a_metric_that_raises_refuses_the_profile_and_is_quoted(tiny: dict[str, Any], tmp_path: Path) -> None:
    report, _ = run(tiny["model"], tmp_path, data=given(tiny, "eval"), metric="builtins:dict", precision="fp32")
    (refused,) = report.refused
    assert refused.code == "convert.transform_failed"
    assert "builtins:dict failed: TypeError" in refused.reason
    assert refused.next


def test_old_models_with_weights_as_inputs_are_served(tmp_path: Path) -> None:
    model = classifier(ir=3, opset=9)
    for tensor in list(model.graph.initializer):
        info = helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, list(tensor.dims))
        model.graph.input.append(info)
    report, _ = run(save(model, tmp_path), tmp_path / "out", precision="fp32")
    manifest = opened(report.bundles[0].path).manifest
    assert [spec.name for spec in manifest.inputs] == ["x"]
    assert manifest.opset == 17


def test_external_data_ends_up_inside_the_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "upload"
    folder.mkdir()
    onnx.save_model(classifier(features=64), folder / "model.onnx", save_as_external_data=True, location="w.bin",
                    size_threshold=0)  # fmt: skip
    report, _ = run(folder, tmp_path / "out", precision="fp32")
    inside = onnx.load_model_from_string(opened(report.bundles[0].path).read("model.onnx"))
    assert all(not tensor.external_data for tensor in inside.graph.initializer)
    assert sum(numpy_helper.to_array(tensor).size for tensor in inside.graph.initializer) > 2000


def test_the_report_file_holds_every_candidate(tiny: dict[str, Any], tmp_path: Path) -> None:
    run(tiny["model"], tmp_path, data=given(tiny, "calibration", "eval"), max_drop=0.05)
    report = json.loads((tmp_path / "report.json").read_text())
    profile = report["profiles"][0]
    assert {row["verdict"] for row in profile["candidates"]} <= {"passed", "rejected", "not_tried"}
    assert {row["precision"] for row in profile["candidates"]} == {
        "int8", "dynamic", "fp16", "fp32", "int8-weights", "int16-weights", "int4-weights", "int16x8",
    }  # fmt: skip
    assert profile["bundle"]["latency_ms"]["p50"] > 0
    assert profile["stages_s"]["gate"] > 0
