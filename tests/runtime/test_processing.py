"""Declared pre- and post-processing: numbers, refusals, and the same answers for float and int8 models."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import Quantization, TensorSpec
from edgefleet_runtime import image, postprocess, preprocess
from edgefleet_runtime import quantization as quantization_quantization

FLOAT = [TensorSpec(name="x", dtype="float32", shape=["n", 1, 2, 2])]
INT8 = [
    TensorSpec(name="x", dtype="int8", shape=[1, 1, 2, 2], quantization=Quantization(scale=1 / 255, zero_point=-128))
]


def _pre(*steps: dict[str, object], source: str = "image", **more: object) -> preprocess.Preprocess:
    recipe = {"name": "x", "from": source, "steps": list(steps), **more}
    return preprocess.parse_preprocess(json.dumps({"v": 1, "inputs": [recipe]}).encode())


def _post(*steps: dict[str, object]) -> postprocess.Postprocess:
    return postprocess.parse_postprocess(json.dumps({"v": 1, "outputs": [{"name": "y", "steps": steps}]}).encode())


def _png(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_an_image_becomes_the_input_of_a_float_and_of_an_int8_model() -> None:
    declared = _pre(
        {"op": "decode", "mode": "grayscale"},
        {"op": "resize", "width": 2, "height": 2, "method": "area"},
        {"op": "scale", "factor": 1 / 255},
        {"op": "layout", "to": "CHW"},
    )
    pixels = np.array([[0, 0, 255, 255], [0, 0, 255, 255], [51, 51, 0, 0], [51, 51, 0, 0]], np.uint8)
    real = preprocess.from_image(declared, _png(pixels), FLOAT)["x"]
    assert (list(real.shape), real.dtype.name) == ([1, 1, 2, 2], "float32")
    np.testing.assert_allclose(real[0, 0], np.array([[0, 1], [0.2, 0]]), atol=1e-6)
    stored = preprocess.from_image(declared, _png(pixels), INT8)["x"]
    assert stored.dtype == np.int8
    assert stored[0, 0].tolist() == [[-128, 127], [-77, -128]]
    np.testing.assert_array_equal(preprocess.from_array(declared, pixels, FLOAT)["x"], real)


def test_colour_normalise_crop_pad_and_layout() -> None:
    declared = _pre(
        {"op": "decode", "mode": "rgb"},
        {"op": "resize", "width": 4, "height": 4, "keep_aspect": True, "method": "nearest"},
        {"op": "pad", "width": 4, "height": 4, "value": 7},
        {"op": "centre_crop", "width": 4, "height": 2},
        {"op": "normalise", "mean": [0, 1, 2], "std": [1, 2, 4]},
        {"op": "layout", "to": "NCHW"},
        {"op": "cast", "dtype": "float16"},
    )
    spec = [TensorSpec(name="x", dtype="float16", shape=[1, 3, 2, 4])]
    pixels = np.full((4, 8, 3), (10, 11, 12), np.uint8)
    result = preprocess.from_image(declared, pixels, spec)["x"]
    assert result.shape == (1, 3, 2, 4)
    assert result[0, :, 0, 0].tolist() == [10, 5, 2.5]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"inputs": []}',
        b'{"v": 2, "inputs": [{"name": "x", "from": "array"}]}',
        b'{"inputs": [{"name": "x", "from": "sound", "steps": []}]}',
        b'{"inputs": [{"name": "x", "from": "image", "steps": []}]}',
        b'{"inputs": [{"name": "x", "from": "image", "steps": [{"op": "rotate"}]}]}',
        b'{"inputs": [{"name": "x", "from": "image", "steps": [{"op": "decode", "colour": 1}]}]}',
        b'{"inputs": [{"name": "x", "from": "columns", "columns": ["a", "a"]}]}',
        b'{"inputs": [{"name": "x", "from": "array"}, {"name": "x", "from": "array"}]}',
        b'{"inputs": [{"name": "x", "from": "array", "steps": [{"op": "normalise", "mean": 0, "std": 0}]}]}',
        b'{"inputs": [{"name": "x", "from": "array", "steps": [{"op": "resize", "width": 0, "height": 1}]}]}',
    ],
)
def test_bad_preprocess_declarations_are_refused(data: bytes) -> None:
    with pytest.raises(preprocess.PreprocessError):
        preprocess.parse_preprocess(data)


def test_a_declaration_must_describe_the_models_inputs() -> None:
    declared = preprocess.default_preprocess([TensorSpec(name="z", dtype="float32", shape=[1])])
    with pytest.raises(preprocess.PreprocessError, match="the model takes"):
        preprocess.check_against(declared, FLOAT)


def test_rows_with_words_and_empty_cells() -> None:
    spec = [TensorSpec(name="x", dtype="float32", shape=["n", 2])]
    declared = _pre(source="columns", columns=["size", "kind"], categories={"kind": ["cat", "dog"]}, missing=-1)
    rows: list[dict[str, object]] = [{"size": "1.5", "kind": "dog"}, {"size": None, "kind": "cat", "other": 3}]
    assert preprocess.from_rows(declared, rows, spec)["x"].tolist() == [[1.5, 1], [-1, 0]]
    for bad, words in (
        ({"kind": "cat"}, "lacks the column size"),
        ({"size": 1, "kind": "cow"}, "must be one of cat, dog"),
        ({"size": "big", "kind": "cat"}, "must be a number"),
    ):
        with pytest.raises(preprocess.BadPayloadError, match=words):
            preprocess.from_rows(declared, [bad], spec)


def test_resizing_is_exact_on_known_cases() -> None:
    row = np.array([[[0.0], [10.0]]], np.float32)
    assert image.resize(row, 4, 1, "bilinear")[0, :, 0].tolist() == [0, 2.5, 7.5, 10]
    assert image.resize(row, 4, 1, "nearest")[0, :, 0].tolist() == [0, 0, 10, 10]
    wide = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
    assert image.resize(wide, 3, 1, "area")[0, :, 0].tolist() == [0.5, 2.5, 4.5]
    np.testing.assert_allclose(image.resize(wide, 4, 1, "area")[0, :, 0], [1 / 3, 5 / 3, 10 / 3, 14 / 3], rtol=1e-6)


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["bilinear", "area"]),
)
def test_resizing_stays_within_the_values(h: int, w: int, hh: int, ww: int, method: image.ResizeMethod) -> None:
    pixels = np.random.default_rng(h * 31 + w).integers(0, 256, (h, w, 3)).astype(np.uint8)
    resized = image.resize(pixels, ww, hh, method)
    assert resized.shape == (hh, ww, 3)
    assert resized.min() >= pixels.min() - 1e-3
    assert resized.max() <= pixels.max() + 1e-3


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.01, 2), st.integers(-128, 127))
def test_quantizing_is_within_half_a_step_inside_the_range(values: list[float], scale: float, zero: int) -> None:
    quantization = Quantization(scale=scale, zero_point=zero)
    real = np.clip(np.array(values), (-128 - zero) * scale, (127 - zero) * scale)
    back = quantization_quantization.dequantize_array(
        quantization_quantization.quantize_array(real, quantization, "int8"), quantization
    )
    assert np.abs(back - real).max() <= scale * 0.5001 + 1e-3


def test_broken_and_huge_images_are_refused() -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n", _png(np.zeros((4, 4), np.uint8))[:40], b"GIF89a"):
        with pytest.raises(image.BadImageError):
            image.decode_image(data, "rgb")
    huge = bytearray(_png(np.zeros((1, 1), np.uint8)))
    huge[16:24] = struct.pack(">II", 9000, 9000)  # width and height in the head, which ends with its checksum
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    with pytest.raises(image.BadImageError, match="9000 × 9000 pixels"):
        image.decode_image(bytes(huge), "rgb")


def test_top_k_softmax_argmax_threshold_and_identity() -> None:
    labels = ("a", "b", "c")
    specs = [TensorSpec(name="y", dtype="float32", shape=["n", 3])]
    y = {"y": np.log(np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]], np.float32))}

    def answers(*steps: dict[str, object]) -> list[Any]:
        return [a["y"] for a in postprocess.build_postprocessor(_post(*steps), labels, specs).answers(y)]

    top = answers({"op": "softmax"}, {"op": "top_k", "k": 2})
    assert [[c["label"] for c in sample] for sample in top] == [["b", "c"], ["a", "c"]]
    assert top[0][0]["score"] == pytest.approx(0.5)
    assert [c["index"] for c in answers({"op": "argmax"})] == [1, 0]
    reached = answers({"op": "softmax"}, {"op": "threshold", "value": 0.25})
    assert [[c["label"] for c in sample] for sample in reached] == [["b", "c"], ["a"]]
    assert np.shape(answers({"op": "identity"})) == (2, 3)
    processor = postprocess.build_postprocessor(_post({"op": "top_k"}), labels, specs)
    assert processor.classes(y) == [1, 0]


def test_int8_and_float_outputs_give_the_same_answer() -> None:
    quantized = TensorSpec(
        name="y", dtype="int8", shape=[1, 2], quantization=Quantization(scale=1 / 256, zero_point=-128)
    )
    plain = TensorSpec(name="y", dtype="float32", shape=[1, 2])
    post = _post({"op": "argmax"})
    stored = postprocess.build_postprocessor(post, (), [quantized]).answers({"y": np.array([[-64, 64]], np.int8)})
    real = postprocess.build_postprocessor(post, (), [plain]).answers({"y": np.array([[0.25, 0.75]], np.float32)})
    assert stored == real == [{"y": {"label": "1", "index": 1, "score": 0.75}}]


def test_nan_and_infinity_become_null_in_answers() -> None:
    specs = [TensorSpec(name="y", dtype="float32", shape=[1, 2])]
    y = {"y": np.array([[np.nan, np.inf]], np.float32)}
    plain = postprocess.build_postprocessor(None, (), specs).answers(y)
    assert plain == [{"y": [None, None]}]
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize(
    "steps", [[], [{"op": "softmax"}], [{"op": "top_k"}, {"op": "softmax"}], [{"op": "top_k", "k": 0}], [{"op": "nms"}]]
)
def test_bad_postprocess_declarations_are_refused(steps: list[dict[str, object]]) -> None:
    with pytest.raises(postprocess.PostprocessError):
        _post(*steps)


def test_an_output_that_names_classes_comes_first_and_is_counted() -> None:
    specs = [
        TensorSpec(name="output_label", dtype="int64", shape=["N"]),
        TensorSpec(name="output_probability", dtype="float32", shape=["N", 2]),
    ]
    processor = postprocess.build_postprocessor(None, ("no", "yes"), specs)
    outputs = {"output_label": np.array([7]), "output_probability": np.array([[0.25, 0.75]], np.float32)}
    assert processor.answers(outputs) == [
        {
            "output_probability": [
                {"label": "yes", "index": 1, "score": 0.75},
                {"label": "no", "index": 0, "score": 0.25},
            ],
            "output_label": 7,
        }
    ]
    assert processor.classes(outputs) == [1]


def test_labels_must_fit_and_outputs_must_exist() -> None:
    specs = [TensorSpec(name="y", dtype="float32", shape=[1, 3])]
    with pytest.raises(postprocess.PostprocessError, match="2 labels"):
        postprocess.build_postprocessor(_post({"op": "top_k"}), ("a", "b"), specs)
    with pytest.raises(postprocess.PostprocessError, match="names the output y"):
        postprocess.build_postprocessor(_post({"op": "top_k"}), (), [])
    assert postprocess.parse_labels(b"eins\nzwei\n") == ("eins", "zwei")
    with pytest.raises(EdgefleetError, match="UTF-8"):
        postprocess.parse_labels(b"\xff")
