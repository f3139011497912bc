"""The network: a bank of filters over one second of sound, the logarithm of each band's energy, and two small layers.

Filters take the place of a spectrogram: for each band a cosine and a sine under a bell, so that their squares add to its energy. They are
weights of a convolution, which every runtime has; STFT is not in TensorFlow Lite. Needs numpy, onnx and onnxruntime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RATE = 16_000
BANDS, WIDTH, STEP = 24, 256, 128
"""Bands; samples under a filter, and between two places of it: 16 and 8 ms."""
LOWEST, HIGHEST = 25.0, 7000.0
FEATURES = 2 * BANDS
HIDDEN = 16
CLASSES = 4
STEPS, SPEED = 500, 0.01
Layers = dict[str, Any]
"""Weights of the two layers: `first` float64 `[48, 16]`, `bias` `[16]`, `second` `[16, 4]`, `last` `[4]`."""


def filters() -> Any:
    """Return float32 `[48, 1, 256]`: cosines of all bands, then sines. Bands are spaced by pitch, as an ear has them (mel)."""
    low, high = 2595 * np.log10(1 + np.array([LOWEST, HIGHEST]) / 700)
    mel = np.linspace(low, high, BANDS)
    centre = 700 * (10 ** (mel / 2595) - 1)
    at = np.arange(WIDTH) - (WIDTH - 1) / 2
    made = []
    for hz, apart in zip(centre, np.gradient(centre), strict=True):
        length = np.clip(2 * RATE / apart, 24, WIDTH)
        bell = np.where(np.abs(at) < length / 2, 1 + np.cos(2 * np.pi * at / length), 0)
        turn = 2 * np.pi * hz / RATE * at
        made.append(np.stack([np.cos(turn), np.sin(turn)]) * bell / np.sqrt((bell**2).sum()))
    return np.concatenate(np.stack(made, axis=1)).reshape(2 * BANDS, 1, WIDTH).astype(np.float32)


def network(layers: Layers, version: str) -> onnx.ModelProto:
    """Return the whole network. Input `x` float32 `[N, 16000]`, full scale = 1; output `logits` float32 `[N, 4]`."""
    pairs = np.concatenate([np.eye(BANDS), np.eye(BANDS)], axis=1)[:, :, None]
    weights = {
        "one": np.array([1], dtype=np.int64), "filters": filters(), "pairs": pairs, "least": np.array(1e-6), **layers,
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["x", "one"], ["wave"]),
        node("Conv", ["wave", "filters"], ["parts"], strides=[STEP]),
        node("Mul", ["parts", "parts"], ["squares"]),
        node("Conv", ["squares", "pairs"], ["energy"]),
        node("Add", ["energy", "least"], ["audible"]),
        node("Log", ["audible"], ["level"]),
        node("ReduceMean", ["level"], ["loud"], axes=[2], keepdims=1),
        node("Sub", ["level", "loud"], ["apart"]),
        node("Mul", ["apart", "apart"], ["apart2"]),
        node("ReduceMean", ["apart2"], ["rough2"], axes=[2], keepdims=1),
        node("Sqrt", ["rough2"], ["rough"]),
        node("Concat", ["loud", "rough"], ["both"], axis=1),
        node("Flatten", ["both"], ["features"], axis=1),
        node("Gemm", ["features", "first", "bias"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "second", "last"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", RATE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="fan")
    helper.set_model_props(model, {"version": version, "license": "Apache-2.0"})
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model: onnx.ModelProto, x: Any) -> tuple[Any, Any]:
    """Return features float32 `[n, 48]` and logits float32 `[n, 4]` of windows float32 `[n, 16000]`."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES]))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    made = [session.run(["features", "logits"], {"x": x[at : at + 64]}) for at in range(0, len(x), 64)]
    return np.concatenate([one for one, _ in made]), np.concatenate([one for _, one in made])


def layers_of(model: onnx.ModelProto) -> Layers:
    """Return the weights of the two layers of a network that was made here."""
    found = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    return {name: found[name].astype(np.float64) for name in ("first", "bias", "second", "last")}


def fresh(seed: int = 1) -> Layers:
    """Return layers that know nothing yet."""
    rng = np.random.default_rng(seed)
    return {
        "first": rng.normal(0, FEATURES**-0.5, (FEATURES, HIDDEN)),
        "bias": np.zeros(HIDDEN),
        "second": rng.normal(0, HIDDEN**-0.5, (HIDDEN, CLASSES)),
        "last": np.zeros(CLASSES),
    }


def fitted(start: Layers, features: Any, wanted: Any) -> Layers:
    """Return the layers after training by Adam. features: `[n, 48]`; wanted: shares of the classes `[n, 4]`.

    Features are scaled for the training alone: what was learned is written back for features as they come.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    x = (features.astype(np.float64) - mean) / spread
    now = {**start, "first": start["first"] * spread[:, None], "bias": start["bias"] + mean @ start["first"]}
    first_moment, second_moment = ({name: np.zeros_like(one) for name, one in now.items()} for _ in range(2))
    for step in range(1, STEPS + 1):
        hidden = np.maximum(x @ now["first"] + now["bias"], 0)
        score = hidden @ now["second"] + now["last"]
        share = np.exp(score - score.max(axis=1, keepdims=True))
        error = (share / share.sum(axis=1, keepdims=True) - wanted) / len(x)
        back = (error @ now["second"].T) * (hidden > 0)
        slopes = {"first": x.T @ back, "bias": back.sum(axis=0), "second": hidden.T @ error, "last": error.sum(axis=0)}
        for name, slope in slopes.items():
            slope = slope + 3e-3 * now[name]  # noqa: PLW2901
            first_moment[name] = 0.9 * first_moment[name] + 0.1 * slope
            second_moment[name] = 0.999 * second_moment[name] + 0.001 * slope**2
            change = first_moment[name] / (1 - 0.9**step) / (np.sqrt(second_moment[name] / (1 - 0.999**step)) + 1e-8)
            now[name] = now[name] - SPEED * change
    first = now["first"] / spread[:, None]
    return {**now, "first": first, "bias": now["bias"] - mean @ first}
