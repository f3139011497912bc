"""onnxruntime's own format, and what a manifest says of operators and execution providers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import helper

from edgefleet_converters.onnx.load import required_operators
from edgefleet_converters.onnx.ort_bytes import in_order
from edgefleet_converters.pack import execution_providers
from edgefleet_converters.pack import required_operators as of_facts
from edgefleet_profiles import load as load_profile
from edgefleet_runtime.golden import check_golden, load_golden
from edgefleet_runtime.port import ModelLoadError, load
from tests.converters.graphs import changed, classifier, data_for, run, samples, save
from tests.converters.test_pipeline import opened
from tests.converters.test_quantize import convolutions, images

BOTH = changed("generic-x86_64-ort-small", formats_allowed=["onnx", "ort"])
FIRST = changed("generic-x86_64-ort", formats_allowed=["ort", "onnx"])
ROOT = Path(__file__).parents[2]


def test_an_ort_file_is_offered_where_the_board_prefers_it_and_loads_as_on_a_device(tmp_path: Path) -> None:
    model = classifier(features=4096)
    x, y = data_for(model, 96)
    data = {"calibration": samples(tmp_path, x=x[:32]), "eval": samples(tmp_path, "eval.npz", x=x[32:], y=y[32:])}
    report, _ = run(save(model, tmp_path), tmp_path / "out", [FIRST, BOTH], data, precision="int8", max_drop=0.3)
    bundle = opened(report.bundles[0].path)
    rows = {row.id: row for row in report.profiles[0].candidates}
    made = rows[f"{report.bundles[0].candidate}.ort"]
    assert made.verdict == "passed", made.reason
    assert (bundle.manifest.format, bundle.manifest.model_member) == ("ort", "model.ort")
    data_bytes = bundle.read("model.ort")
    assert data_bytes[4:8] == b"ORTM"
    assert len(data_bytes) == made.bytes == report.bundles[0].bytes
    assert check_golden(load("ort", data_bytes), load_golden(bundle.read("golden.npz")), bundle.manifest.tolerances).ok
    domains = {entry.domain for entry in bundle.manifest.required_operators or ()}
    assert "com.microsoft" in domains, "the list is that of the optimised file"
    assert report.bundles[0].work, "what it costs is told as of the ONNX file"
    assert report.bundles[0].work == report.bundles[1].work
    # Behind onnx it must be smaller, and with this few nodes it is not.
    other = opened(report.bundles[1].path).manifest
    assert other.format == "onnx"
    assert any(row.id.endswith(".ort") and "as .onnx" in row.reason for row in report.profiles[1].candidates)


def test_an_ort_file_beyond_the_boards_limit_stays_onnx(tmp_path: Path) -> None:
    model = classifier(features=4096)
    x, y = data_for(model, 96)
    data = {"calibration": samples(tmp_path, x=x[:32]), "eval": samples(tmp_path, "eval.npz", x=x[32:], y=y[32:])}
    path, how = save(model, tmp_path), {"precision": "int8", "max_drop": 0.3}
    report, _ = run(path, tmp_path / "free", [FIRST], data, **how)
    sizes = {row.id: row.bytes for row in report.profiles[0].candidates}
    name = report.bundles[0].candidate
    small, large = sizes[name], sizes[f"{name}.ort"]
    assert small is not None
    assert large is not None
    assert small < large, "this model is larger as .ort"
    tight = changed("generic-x86_64-ort", formats_allowed=["ort", "onnx"], max_model_bytes=large - 1)
    report, _ = run(path, tmp_path / "tight", [tight], data, **how)
    assert report.bundles[0].bytes <= large - 1
    assert opened(report.bundles[0].path).manifest.format == "onnx"
    assert any("max_model_bytes" in row.reason for row in report.profiles[0].candidates)


def test_a_profile_without_ort_gets_onnx(tmp_path: Path) -> None:
    model = classifier()
    x, y = data_for(model, 60)
    report, _ = run(save(model, tmp_path), tmp_path / "out", data={"eval": samples(tmp_path, x=x, y=y)})
    manifest = opened(report.bundles[0].path).manifest
    assert manifest.model_member == "model.onnx"
    assert manifest.execution_providers == ["CPUExecutionProvider"]
    assert not any(row.id.endswith(".ort") for row in report.profiles[0].candidates)


def test_float_convolutions_keep_their_onnx_file(tmp_path: Path) -> None:
    data = {"eval": samples(tmp_path, x=images(40))}
    report, _ = run(save(convolutions(), tmp_path), tmp_path / "out", [FIRST], data, precision="fp32")
    assert opened(report.bundles[0].path).manifest.format == "onnx"
    row = next(row for row in report.profiles[0].candidates if row.id == "fp32.ort")
    assert "Conv" in row.reason


def test_a_damaged_ort_file_is_refused() -> None:
    with pytest.raises(ModelLoadError):
        load("ort", b"\x18\x00\x00\x00ORTM" + bytes(200))


def test_operators_are_listed_as_onnxruntime_lists_them() -> None:
    model = classifier(opset=17)
    model.graph.node.append(helper.make_node("Gelu", ["scores"], ["g"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert required_operators(model) == [
        {"domain": "ai.onnx", "version": 17, "operators": ["Gemm", "Relu"]},
        {"domain": "com.microsoft", "version": 1, "operators": ["Gelu"]},
    ]


def test_a_call_of_an_own_function_is_no_required_operator() -> None:
    model = classifier(opset=17)
    body = [helper.make_node("Tanh", ["a"], ["b"])]
    own = helper.make_function("own", "Squash", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    model.functions.append(own)
    model.graph.node.append(helper.make_node("Squash", ["scores"], ["s"], domain="own"))
    assert required_operators(model) == [{"domain": "ai.onnx", "version": 17, "operators": ["Gemm", "Relu", "Tanh"]}]


def test_operators_of_tflite_are_listed_by_version() -> None:
    nodes = [{"name": "CONV_2D", "version": 3}, {"name": "SOFTMAX", "version": 1}, {"name": "ADD", "version": 1}]
    assert [(s.domain, s.version, s.operators) for s in of_facts({"nodes": nodes})] == [
        ("tflite", 1, ["ADD", "SOFTMAX"]), ("tflite", 3, ["CONV_2D"]),
    ]  # fmt: skip


def test_execution_providers_are_those_of_the_board_and_the_processor_last() -> None:
    assert execution_providers(load_profile("jetson-orin-ort")) == [
        "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider",
    ]  # fmt: skip
    assert execution_providers(load_profile("imx8m-plus-litert")) == []


def test_a_list_is_what_onnxruntime_reads(tmp_path: Path) -> None:
    from onnxruntime.tools.reduced_build_config_parser import parse_config

    (entry,) = required_operators(onnx.load(ROOT / "examples" / "digits" / "digits-1.1.0.onnx"))
    path = tmp_path / "required_operators.config"
    path.write_text(f"{entry['domain']};{entry['version']};{','.join(entry['operators'])}\n", encoding="utf-8")
    operators, _ = parse_config(path)
    assert operators is not None
    assert operators[entry["domain"]][entry["version"]] == set(entry["operators"])


_WRITE = """
import sys
from pathlib import Path
from edgefleet_converters.onnx.ort_format import ort_format_step
ort_format_step({"model": sys.argv[1], "out": sys.argv[2]})
"""


def test_two_processes_write_the_same_file_and_it_answers_as_what_onnxruntime_wrote(tmp_path: Path) -> None:
    model = save(classifier(), tmp_path)
    written = []
    for name in ("one.ort", "two.ort"):
        subprocess.run([sys.executable, "-c", _WRITE, str(model), str(tmp_path / name)], check=True)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] == in_order(written[0])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "raw.ort")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    raw = (tmp_path / "raw.ort").read_bytes()
    x = data_for(classifier(), 4)[0]
    answers = [next(iter(load("ort", data).run({"x": x[:1]}).values())) for data in (raw, in_order(raw), written[0])]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == answers[2]).all()


def test_another_file_is_not_sorted() -> None:
    with pytest.raises(ValueError, match="begin as a"):
        in_order(b"\x08\x00\x00\x00TFL3" + bytes(64))
