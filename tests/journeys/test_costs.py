"""Real agents report what two models cost; the server predicts the third, with its error, and holds it against what they report."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent.client import Model
from tests.agent.field import eventually
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.server.fleet.house import PROFILE

pytestmark = pytest.mark.slow
CONVERTS = True

WIDTHS = (512, 1024, 768)
"""So wide that a model takes longer than the tenths of microseconds to which its latency is shown."""
FIGURES = ("latency_p50_ms", "latency_p95_ms", "memory_bytes")
Json = dict[str, Any]
Input = npt.NDArray[np.float32]


def perceptron(path: Path, width: int) -> Input:
    """Write a model of two square layers and return an input for it."""
    chance = np.random.default_rng(width)
    weights = [
        numpy_helper.from_array((chance.standard_normal((width, width)) / width**0.5).astype(np.float32), name)
        for name in ("w", "v")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "perceptron", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return chance.standard_normal((1, width)).astype(np.float32)


def publish(road: Road, devices: list[Traveller], folder: Path, width: int) -> tuple[str, Json, Input]:
    """Publish a model, want it on all devices, wait until they serve it; return its name, its bundle and an input."""
    name = f"wide{width}"
    sample = perceptron(folder / f"{name}.onnx", width)
    flags = ("--name", name, "--version", "1.0.0", "--profile", PROFILE, "--precision", "fp32")
    release = road.edgectl("publish", folder / f"{name}.onnx", *flags)
    road.edgectl("deploy", f"{name}@1.0.0", "--to", f"profile={PROFILE}")
    for device in devices:
        device.told(name, release=f"{name}@1.0.0", phase="committed", serving=True)
    (bundle,) = release["bundles"]
    return name, bundle, sample


def observed(road: Road, devices: list[Traveller], name: str, sample: Input) -> Json:
    """Ask a model on every device until all have reported on it; return `edgectl release performance`."""
    shown: list[Json] = []

    def is_told_by_all() -> bool:
        for device in devices:
            with Model(name, url=device.status()["infer_url"]) as model:
                for _ in range(40):
                    model.infer({"x": sample})
        shown[:] = road.edgectl("release", "performance", f"{name}@1.0.0")["items"]
        return bool(shown[0]["observed"]) and shown[0]["observed"]["devices"] == len(devices)

    assert eventually(is_told_by_all, PATIENCE_S), shown
    return shown[0]


def test_a_third_model_is_predicted_from_two_and_compared_with_what_devices_report(road: Road, tmp_path: Path) -> None:
    devices = [Traveller(road, name, EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S="1") for name in ("one", "other")]
    for width in WIDTHS[:2]:
        name, bundle, sample = publish(road, devices, tmp_path, width)
        assert (bundle["predicted"]["basis"], bundle["predicted"]["latency_p50_ms"]) == ("none", None)
        told = observed(road, devices, name, sample)
        assert (told["error"], told["within"]) == ({}, {})
        assert 0 < told["observed"]["latency_p50_ms"] <= told["observed"]["latency_p95_ms"]
        assert bundle["work"]["macs"] == {"matmul.float": 2 * width * width}
    name, bundle, sample = publish(road, devices, tmp_path, WIDTHS[2])
    predicted = bundle["predicted"]
    assert (predicted["basis"], predicted["models"], predicted["devices"]) == ("ratio", 2, 2)
    told = observed(road, devices, name, sample)
    assert told["predicted"] == predicted
    for figure in FIGURES:
        one, true = predicted[figure], told["observed"][figure]
        assert one["low"] < one["value"] < one["high"]
        assert one["high"] / one["value"] == pytest.approx(1 + one["error"], rel=1e-3)
        assert told["error"][figure] == pytest.approx(one["value"] / true - 1, abs=5e-3)  # shown figures are rounded
        assert told["within"][figure] is (one["low"] <= true <= one["high"])
    state: list[Json] = [{}]

    def has_all() -> bool:
        state[0] = road.edgectl("profile", "cost", PROFILE)
        return bool(state[0]["models"] == 3)

    assert eventually(has_all, PATIENCE_S), state
    assert {one["release"] for one in state[0]["examples"]} == {f"wide{width}@1.0.0" for width in WIDTHS}
