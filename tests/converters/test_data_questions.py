"""Wrong data is asked about before anything is made of it, and sound data is not: one table of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from edgefleet_converters import errors
from edgefleet_converters.accuracy.data_questions import Given, questions
from edgefleet_converters.accuracy.output_kinds import plan_of
from edgefleet_converters.check.metrics import with_labels
from edgefleet_protocol.manifest import Quantization, TensorSpec
from tests.converters.graphs import model_of, run, samples, save

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Known:
    """A trained model with samples that it was not trained on. shape: of one sample as the model takes it."""

    model: ModelProto
    x: Array
    y: Array
    end: str
    outputs: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def exported(
    weights: list[Array], biases: list[Array], shape: tuple[int, ...], last: str, scale: Array | None = None
) -> ModelProto:
    """Return Flatten-(Mul)-Gemm-Relu-…-last with these weights."""
    stored: dict[str, Array] = {}
    nodes = [helper.make_node("Flatten", ["x"], ["v"])]
    value = "v"
    if scale is not None:
        stored["scale"] = scale.astype(np.float32)
        nodes.append(helper.make_node("Mul", [value, "scale"], ["scaled"]))
        value = "scaled"
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        stored |= {f"w{i}": w.astype(np.float32), f"b{i}": b.astype(np.float32)}
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"g{i}"]))
        value = f"g{i}"
        if i < len(weights) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"]))
            value = f"r{i}"
    nodes.append(helper.make_node(last, [value], ["y"]))
    return model_of(nodes, stored, {"x": ["N", *shape]}, {"y": ["N", weights[-1].shape[1]]})


def trained(x: Array, y: Array, shape: tuple[int, ...], *, scale: float | None = None) -> Known:
    """Return a classifier of two thirds of the samples, and the last third. scale: multiplies the input in the graph."""
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    cut = 2 * len(x) // 3
    flat = x.reshape(len(x), -1) * (scale or 1.0)
    net = MLPClassifier((32,), max_iter=300, random_state=0, alpha=1e-3).fit(flat[:cut], y[:cut])
    weights, biases = list(net.coefs_), list(net.intercepts_)
    if weights[-1].shape[1] == 1:  # two classes: one score becomes two
        weights[-1], biases[-1] = (
            np.hstack([-weights[-1] / 2, weights[-1] / 2]),
            np.hstack([-biases[-1] / 2, biases[-1] / 2]),
        )
    factor = None if scale is None else np.array(scale)
    return Known(exported(weights, biases, shape, "Softmax", factor), x[cut:].reshape(-1, *shape), y[cut:], "Softmax")


@cache
def digits() -> Known:
    """Pictures [1, 8, 8] from 0 to 1."""
    data = load_digits()
    return trained(data.data / 16, data.target, (1, 8, 8))


@cache
def digit_bytes() -> Known:
    """Pictures [1, 8, 8] from 0 to 255 that the graph itself scales."""
    data = load_digits()
    return trained(np.round(data.data * 255 / 16), data.target, (1, 8, 8), scale=1 / 255)


@cache
def centred() -> Known:
    """Pictures [1, 8, 8] from -1 to 1."""
    data = load_digits()
    return trained(data.data / 8 - 1, data.target, (1, 8, 8))


def blobs(n: int, size: int = 12) -> tuple[Array, Array]:
    """Return smooth pictures [n, 3, size, size] from 0 to 1 and which colour and half is bright: 6 classes."""
    random = np.random.default_rng(4)
    rows, columns = np.mgrid[0:size, 0:size] / size
    y = random.integers(0, 6, n)
    centre = np.where(y < 3, 0.25, 0.75) + random.normal(0, 0.06, n)
    spot = np.exp(-((rows - centre[:, None, None]) ** 2 + (columns - 0.5) ** 2) * 12)
    x = (
        0.15
        + 0.1 * random.random((n, 3, 1, 1))
        + 0.02 * random.random((n, 3, size, size))
        + np.zeros((n, 3, size, size))
    )
    x[np.arange(n), y % 3] += 0.7 * spot
    return np.clip(x, 0, 1), y


@cache
def colours() -> Known:
    """Pictures [3, 12, 12] from 0 to 1."""
    x, y = blobs(600)
    return trained(x, y, (3, 12, 12))


@cache
def wine() -> Known:
    data = load_wine()
    return trained(StandardScaler().fit_transform(data.data), data.target, (13,))


@cache
def cancer() -> Known:
    data = load_breast_cancer()
    return trained(StandardScaler().fit_transform(data.data), data.target, (30,))


@cache
def iris() -> Known:
    data = load_iris()
    return trained(data.data, data.target, (4,))


@cache
def price() -> Known:
    """A regression of 12 numbers."""
    random = np.random.default_rng(3)
    x = random.standard_normal((600, 12))
    y = 20 + x @ random.standard_normal(12) + 0.1 * random.standard_normal(600)
    net = MLPRegressor(hidden_layer_sizes=(24,), max_iter=400, random_state=0).fit(x[:400], y[:400])
    model = exported(list(net.coefs_), list(net.intercepts_), (12,), "Identity")
    return Known(model, x[400:].astype(np.float32), y[400:].astype(np.float64), "Gemm")


def asked(known: Known, x: Array, y: Array | None, **more: Any) -> list[str]:
    """Return the questions about samples for a model."""
    session = ort.InferenceSession(known.model.SerializeToString())

    def ask(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": np.asarray(session.run(None, {"x": arrays["x"].astype(np.float32)})[0])}

    x = np.ascontiguousarray(x, np.float32)
    inputs = [TensorSpec(name="x", dtype="float32", shape=["N", *x.shape[1:]])]
    answers = ask({"x": x})
    labels = {} if y is None else {"": y}
    outputs = [TensorSpec(name="y", dtype="float32", shape=["N", answers["y"].shape[1]])]
    plan = with_labels(plan_of(inputs, outputs, answers, [known.end]), labels, answers)
    return questions(Given(inputs, {"x": x}, labels, answers, plan, **more), ask)


Change = Callable[[Array, Array], tuple[Array, Array | None]]
RANDOM = np.random.default_rng(8)


def interleaved(x: Array) -> Array:
    """Return pictures whose bytes are [height, width, channels] under the shape of [channels, height, width]."""
    return np.ascontiguousarray(np.moveaxis(x, 1, 3)).reshape(x.shape)


WRONG: list[tuple[str, Callable[[], Known], Change, str]] = [
    ("bytes with labels", digits, lambda x, y: (np.round(x * 255), (y + 0)[RANDOM.permutation(len(y))]), "belong"),
    ("bytes that keep their classes", digits, lambda x, y: (np.round(x * 255), y), "scale of the training"),
    ("bytes for a model of -1 to 1", centred, lambda x, y: (np.round((x + 1) * 127.5), y), "divided by 127.5"),
    ("bytes without labels", centred, lambda x, y: (np.round((x + 1) * 127.5), None), "scale of the training"),
    ("0 to 1 for a model of bytes", digit_bytes, lambda x, y: (x / 255, y), "multiplied by 255"),
    ("0 to 1 for a model of bytes, no labels", digit_bytes, lambda x, y: (x / 255, None), "scale of the training"),
    (
        "0 to 1 for a model of -1 to 1",
        centred,
        lambda x, y: ((x + 1) / 8, y),
        "multiplied|stretched|standardised|largest",
    ),
    ("light and dark exchanged", digits, lambda x, y: (1 - x, y), "light and dark"),
    ("raw table for a standardised one", wine, lambda x, y: (x * 300 + 700, y), "standardised"),
    ("raw table, no labels", wine, lambda x, y: (x * 300 + 700, None), "scale of the training"),
    ("height and width exchanged", digits, lambda x, y: (np.swapaxes(x, 2, 3), y), "height and width"),
    (
        "channels last under the shape of channels first",
        colours,
        lambda x, y: (interleaved(x), y),
        "transposed|height, width",
    ),
    ("the same without labels", colours, lambda x, y: (interleaved(x), None), "transposed"),
    ("channels reversed", colours, lambda x, y: (x[:, ::-1], y), "channels reversed|another numbering"),
    (
        "bytes that overflowed in int8",
        colours,
        lambda x, y: (np.round(x * 255).astype(np.int64).astype(np.int8), None),
        "overflow",
    ),
    ("labels from 1", digits, lambda x, y: (x, np.minimum(y + 1, 9)), "counted from 1"),
    ("labels less 1", digits, lambda x, y: (x, np.maximum(y - 1, 0)), "each label"),
    (
        "labels in another order",
        digits,
        lambda x, y: (x, np.array([3, 7, 0, 9, 1, 8, 2, 6, 5, 4])[y]),
        "another numbering",
    ),
    ("labels of other samples", digits, lambda x, y: (x, y[RANDOM.permutation(len(y))]), "belong to these samples"),
    ("two classes exchanged", cancer, lambda x, y: (x, 1 - y), "another numbering|belong"),
    ("one sample many times", digits, lambda x, y: (x[:6].repeat(30, 0), y[:6].repeat(30)), "saved many times"),
    ("a constant input", digits, lambda x, y: (np.full_like(x, 0.5), y), "the same in all"),
    (
        "mostly black pictures",
        digits,
        lambda x, y: (x * (np.arange(len(x)) % 3 == 0)[:, None, None, None], y),
        "one value only",
    ),
    ("targets in other units", price, lambda x, y: (x, y * 1000), "no nearer to the labels"),
    ("targets in another order", price, lambda x, y: (x, y[::-1].copy()), "no nearer to the labels"),
]
SOUND: list[tuple[str, Callable[[], Known], Change]] = [
    ("digits", digits, lambda x, y: (x, y)),
    ("digits without labels", digits, lambda x, y: (x, None)),
    ("bytes for a model that scales them", digit_bytes, lambda x, y: (x, y)),
    ("the same without labels", digit_bytes, lambda x, y: (x, None)),
    ("-1 to 1", centred, lambda x, y: (x, None)),
    ("smooth pictures", colours, lambda x, y: (x, y)),
    ("smooth pictures without labels", colours, lambda x, y: (x, None)),
    ("a table of whole numbers", iris, lambda x, y: (x, y)),
    ("two classes", cancer, lambda x, y: (x, y)),
    ("two classes without labels", cancer, lambda x, y: (x, None)),
    ("a few classes only", digits, lambda x, y: (x[y < 3], y[y < 3])),
    (
        "one rare class",
        cancer,
        lambda x, y: (np.concatenate([x[y == 1], x[y == 0][:5]]), np.r_[y[y == 1], y[y == 0][:5]]),
    ),
    ("some wrong labels", digits, lambda x, y: (x, np.where(np.arange(len(y)) % 5 == 0, (y + 3) % 10, y))),
    ("a regression", price, lambda x, y: (x, y)),
    ("ten samples", digits, lambda x, y: (x[:10], y[:10])),
]


@pytest.mark.parametrize(("known", "change", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_data_is_asked_about(known: Callable[[], Known], change: Change, words: str) -> None:
    model = known()
    found = asked(model, *change(model.x, model.y))
    assert found
    assert re.search(words, " ".join(found)), found


@pytest.mark.parametrize(("known", "change"), [row[1:] for row in SOUND], ids=[row[0] for row in SOUND])
def test_sound_data_is_not(known: Callable[[], Known], change: Change) -> None:
    model = known()
    assert asked(model, *change(model.x, model.y)) == []


def test_a_leak_between_calibration_and_evaluation_is_asked_about() -> None:
    model = digits()
    assert "made of the same data" in asked(model, model.x, model.y, shared=60, calibration=100)[0]
    assert asked(model, model.x, model.y, shared=1, calibration=100) == []


def test_a_conversion_stops_with_the_question_and_goes_on_when_the_data_is_accepted(tmp_path: Path) -> None:
    model = digits()
    path = save(model.model, tmp_path)
    data = {"eval": samples(tmp_path, x=model.x, y=np.minimum(model.y + 1, 9))}
    with pytest.raises(errors.DataDoubtError, match="counted from 1") as caught:
        run(path, tmp_path / "out", data=data, precision="fp32")
    assert "--accept-data" in caught.value.next_step
    assert not list((tmp_path / "out").glob("*.bundle"))
    report, _ = run(path, tmp_path / "out", data=data, precision="fp32", accept_data=True)
    assert len(report.bundles) == 1
    assert "counted from 1" in report.data["accepted"][0]


def test_values_beyond_a_quantised_input_are_asked_about() -> None:
    spec = TensorSpec(name="x", dtype="uint8", shape=[1, 20], quantization=Quantization(scale=1 / 255, zero_point=0))
    x = np.where(RANDOM.random((40, 20)) < 0.7, 255, RANDOM.integers(0, 256, (40, 20))).astype(np.uint8)
    answers = {"y": RANDOM.random((40, 1))}
    given = Given([spec], {"x": x}, {}, answers, ())
    assert "beyond what the model's input can hold" in questions(given, lambda arrays: answers)[0]
    fits = replace(given, arrays={"x": RANDOM.integers(0, 256, (40, 20)).astype(np.uint8)})
    assert questions(fits, lambda arrays: answers) == []
