"""TFLite sources: bounds, operators, and bundles proved in LiteRT and in tflite-runtime."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_converters import errors
from edgefleet_converters.tflite.load import read_facts
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, DTYPES
from edgefleet_profiles.profile import OperatorLimit
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.golden import check_golden, load_golden
from edgefleet_runtime.port import available, load
from tests.converters.graphs import changed, run, samples

pytest.importorskip("ai_edge_litert")
from tests.converters.tflite_graphs import classifier, detections, logarithm

MODEL = classifier()
HAS_TFLITE = any(info.name == "tflite" for info in available()) and sys.version_info < (3, 12)


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(data)
    return path


def test_facts_name_operators_and_precision() -> None:
    facts = read_facts(MODEL)
    assert facts["operators"] == {"FULLY_CONNECTED": 1}
    assert facts["precision"] == "fp32"
    assert facts["nodes"][0]["dtypes"] == ["float32"]


def test_the_schema_tables_are_where_the_schema_has_them() -> None:
    from ai_edge_litert import schema_py_generated as schema

    assert BUILTIN_NAMES[schema.BuiltinOperator.FULLY_CONNECTED] == "FULLY_CONNECTED"
    assert BUILTIN_NAMES[schema.BuiltinOperator.GELU] == "GELU"
    assert DTYPES[schema.TensorType.INT8] == "int8"


def test_every_cut_is_a_named_error() -> None:
    for end in range(8, len(MODEL) - 1, 7):
        with pytest.raises((errors.TruncatedModelError, errors.InvalidModelError)):
            read_facts(MODEL[:end])


@given(st.integers(8, len(MODEL) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_never_leaves_the_buffer(position: int, value: int) -> None:
    data = bytearray(MODEL)
    data[position] = value
    with contextlib.suppress(errors.SourceError):
        read_facts(bytes(data))


def test_other_files_and_custom_operators_are_refused() -> None:
    with pytest.raises(errors.NotAModelError):
        read_facts(b"hello world, no model")
    with pytest.raises(errors.ForeignOperatorError, match="FlexErf"):
        read_facts(classifier(custom="FlexErf"))


def test_a_custom_operator_that_the_runtimes_have_is_served(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    data = samples(
        tmp_path, boxes=rng.normal(0, 1, (24, 12, 4)).astype(np.float32), scores=rng.random((24, 12, 4), np.float32)
    )
    profiles = ["generic-x86_64-litert"] + (["raspberry-pi-armv7-tflite"] if HAS_TFLITE else [])
    report, _ = run(saved(tmp_path, detections()), tmp_path / "out", profiles, {"eval": data}, metric="mae")
    assert not report.refused, report.refused
    assert "custom operator" in report.profiles[0].passes[0]["reason"]


def test_a_custom_operator_that_one_runtime_lacks_names_that_runtime(tmp_path: Path) -> None:
    if not HAS_TFLITE:
        pytest.skip("tflite-runtime is not here")
    path = saved(tmp_path, classifier(custom="aeq.hadamard_rotation"))
    report, _ = run(path, tmp_path / "out", ["raspberry-pi-armv7-tflite"])
    assert "aeq.hadamard_rotation, which tflite 2.14" in report.refused[0].reason


@pytest.mark.parametrize("profile", ["generic-x86_64-litert", "raspberry-pi-4-litert", "raspberry-pi-armv7-tflite"])
def test_a_tflite_file_becomes_a_bundle_for_each_runtime(tmp_path: Path, profile: str) -> None:
    if profile.endswith("-tflite") and not HAS_TFLITE:
        pytest.skip("tflite-runtime is not here")
    x = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)
    report, _ = run(saved(tmp_path, MODEL), tmp_path / "out", [profile], {"eval": samples(tmp_path, x=x)})
    assert not report.refused, report.refused
    (row,) = report.bundles
    assert (row.precision, row.ratio) == ("fp32", 1.0)
    assert row.metric.drop == 0.0
    bundle = open_bundle(io.BytesIO(Path(row.path).read_bytes()))
    manifest = bundle.manifest
    assert bundle.read("model.tflite") == MODEL
    assert (manifest.format, manifest.operators, manifest.opset) == ("tflite", {"FULLY_CONNECTED": 1}, None)
    model = load(manifest.runtime, bundle.read("model.tflite"))
    assert check_golden(model, load_golden(bundle.read("golden.npz")), manifest.tolerances).ok


@pytest.mark.slow
def test_the_same_file_gives_the_same_bundle(tmp_path: Path) -> None:
    path = saved(tmp_path, MODEL)
    digests = {run(path, tmp_path / n, ["generic-x86_64-litert"])[0].bundles[0].sha256 for n in ("a", "b")}
    assert len(digests) == 1


def test_a_tflite_file_that_answers_nan_is_refused(tmp_path: Path) -> None:
    report, _ = run(saved(tmp_path, logarithm()), tmp_path / "out", ["generic-x86_64-litert"])
    assert report.refused[0].code == "convert.not_finite"


def test_a_tflite_file_on_an_onnx_profile_is_refused(tmp_path: Path) -> None:
    report, _ = run(saved(tmp_path, MODEL), tmp_path / "out", ["generic-x86_64-ort"])
    assert report.refused[0].code == "convert.format_not_allowed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("allowed", "told"),
    [
        (
            {"CONV_2D": OperatorLimit(max_version=5)},
            "node 0:0 uses the operator FULLY_CONNECTED version 1.*does not list",
        ),
        ({"FULLY_CONNECTED": OperatorLimit(max_version=0)}, "up to version 0"),
        ({"FULLY_CONNECTED": OperatorLimit(max_version=9, dtypes=["int8"])}, "on float32 tensors.*int8"),
    ],
)
def test_an_operator_outside_the_profiles_list_names_node_and_key(
    tmp_path: Path, allowed: dict[str, OperatorLimit], told: str
) -> None:
    profile = changed("generic-x86_64-litert", tflite_op_allowlist=allowed)
    report, _ = run(saved(tmp_path, MODEL), tmp_path / "out", [profile])
    assert report.refused[0].code == "convert.unsupported_operator"
    import re

    assert re.search(told, report.refused[0].reason)
    assert "tflite_op_allowlist" in report.refused[0].reason


def test_a_damaged_tflite_file_ends_the_conversion(tmp_path: Path) -> None:
    with pytest.raises(errors.TruncatedModelError):
        run(saved(tmp_path, MODEL[: len(MODEL) // 2]), tmp_path / "out", ["generic-x86_64-litert"])
