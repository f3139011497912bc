"""Float `.tflite` files as sources: read into the compiler's graph, and smaller forms made of them for both runtimes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.passes.fix_shapes import FixShapes
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.file_graph import NotReadError, read_graph
from edgefleet_converters.tflite.load import read_facts
from edgefleet_converters.tflite.quantize.weights import float16_weights
from edgefleet_converters.tflite.runtimes import RUNTIMES, TFLITE_214
from edgefleet_converters.tflite.writer import write
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.golden import check_golden, load_golden
from edgefleet_runtime.port import load
from tests.converters.graphs import run, samples
from tests.converters.tflite.models import file_in

pytest.importorskip("ai_edge_litert")
from tests.converters.tflite_graphs import classifier, edited

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime ends with Python 3.11")
DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
DATA = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
PROFILES = ("generic-x86_64-litert", "raspberry-pi-armv7-tflite")


def digits(*, half: bool = False) -> bytes:
    """Return the example's net as a float32 or float16 `.tflite` file."""
    model = run_passes(onnx.load(DIGITS / "digits-1.1.0.onnx"), [FixShapes({"image": [1, 1, 8, 8]})]).model
    graph = compile_model(model, TFLITE_214).graph
    return write(float16_weights(graph) if half else graph)


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(data)
    return path


def opened(data: bytes) -> bytes:
    """Return a file whose first dimension is open at both ends, as TensorFlow writes it."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        for index in (*graph.inputs, *graph.outputs):
            tensor = graph.tensors[index]
            tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)

    return edited(data, change)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_a_file_that_is_read_and_written_answers_the_same(half: bool) -> None:
    data = opened(digits(half=half))
    read = read_graph(data)
    assert read.is_half is half
    assert all(t.dtype != "float16" for op in read.graph.ops for t in op.inputs if t is not None)
    image = {"image": np.random.default_rng(0).random((1, 1, 8, 8), np.float32)}
    for runtime in RUNTIMES.values():
        again = write(read.graph)
        assert load(runtime.adapter, again).inputs == load(runtime.adapter, data).inputs
        assert load(runtime.adapter, again).outputs == load(runtime.adapter, data).outputs
        for mine, theirs in zip(file_in(runtime, again, image), file_in(runtime, data, image), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_versions_are_not_lowered() -> None:
    again = write(read_graph(classifier(op_version=9)).graph)
    assert read_facts(again)["nodes"][0]["version"] == 9


def test_what_cannot_be_said_in_full_is_not_read() -> None:
    def two_graphs(model: Any) -> None:
        model.subgraphs.append(model.subgraphs[0])

    def state(model: Any) -> None:
        model.subgraphs[0].tensors[1].isVariable = True

    for change, why in ((two_graphs, "2 graphs"), (state, "is a state")):
        with pytest.raises(NotReadError, match=why):
            read_graph(edited(classifier(), change))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_a_float_file_becomes_int8_on_both_runtimes(tmp_path: Path, half: bool) -> None:
    path = saved(tmp_path, digits(half=half))
    report, _ = run(path, tmp_path / "out", PROFILES, DATA)
    assert not report.refused, report.refused
    for row in report.bundles:
        assert row.precision == "int8"
        assert row.bytes <= (0.6 if half else 0.3) * path.stat().st_size
        assert row.metric.value >= row.metric.baseline - 0.005
        bundle = open_bundle(io.BytesIO(Path(row.path).read_bytes()))
        device = load(bundle.manifest.runtime, bundle.read("model.tflite"))
        assert check_golden(device, load_golden(bundle.read("golden.npz")), bundle.manifest.tolerances).ok


def test_a_float16_file_is_served_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, digits(half=True))
    report, _ = run(path, tmp_path / "out", PROFILES[:1], {"eval": DATA["eval"]}, precision="fp16")
    assert not report.refused, report.refused
    assert (report.bundles[0].candidate, report.bundles[0].ratio) == ("as-given", 1.0)
    report, _ = run(path, tmp_path / "whole", PROFILES[:1], {"eval": DATA["eval"]}, precision="fp32")
    assert "fp16 already" in report.refused[0].reason
    assert report.refused[0].next == "use --precision auto or fp16"


@pytest.mark.parametrize(
    ("precision", "profile"), [("int8-weights", PROFILES[0]), ("dynamic", PROFILES[1]), ("fp16", PROFILES[1])]
)
def test_each_smaller_form_can_be_asked_for_without_calibration(tmp_path: Path, precision: str, profile: str) -> None:
    report, _ = run(saved(tmp_path, digits()), tmp_path / "out", [profile], {"eval": DATA["eval"]}, precision=precision)
    assert not report.refused, report.refused
    assert report.bundles[0].precision == precision
    assert report.bundles[0].ratio <= (0.6 if precision == "fp16" else 0.4)


def test_a_float_file_serves_a_board_of_integers(tmp_path: Path) -> None:
    report, _ = run(saved(tmp_path, digits()), tmp_path / "out", ["coral-tflite-edgetpu"], DATA)
    assert not report.refused, report.refused
    assert report.bundles[0].precision == "int8"


def test_a_file_that_is_not_read_is_served_as_it_is_and_says_why(tmp_path: Path) -> None:
    def two_graphs(model: Any) -> None:
        model.subgraphs.append(model.subgraphs[0])

    path = saved(tmp_path, edited(classifier(), two_graphs))
    x = samples(tmp_path, x=np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32))
    report, _ = run(path, tmp_path / "out", PROFILES[:1], {"eval": x})
    assert not report.refused, report.refused
    assert report.bundles[0].candidate == "as-given"
    assert any("2 graphs" in note["reason"] for note in report.profiles[0].passes)
    report, _ = run(path, tmp_path / "int8", PROFILES[:1], {"eval": x}, precision="int8-weights")
    assert "2 graphs" in report.refused[0].reason
