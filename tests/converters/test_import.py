"""Import: what is a model, what is damaged, and external data that must stay inside the upload."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgefleet_converters import errors
from edgefleet_converters.importers import with_transformers
from edgefleet_converters.onnx.limits import OnnxLimits
from edgefleet_converters.onnx.load import facts_of, parse, read_checked, specialise
from edgefleet_converters.onnx.protobuf_fields import classify
from edgefleet_converters.source import find_source
from tests.converters.graphs import classifier, model_of, run, save
from tests.converters.hostile import CRAFTED

MODEL = classifier().SerializeToString()


def checked(path: Path, folder: Path | None = None) -> onnx.ModelProto:
    return read_checked(path, folder, OnnxLimits())


def test_a_whole_model_is_complete_and_every_cut_is_seen() -> None:
    assert classify(MODEL) == "complete"
    for end in range(1, len(MODEL) - 1, 97):
        assert classify(MODEL[:end]) == "truncated", end


@given(st.binary(max_size=200))
def test_the_outer_form_of_any_bytes_can_be_told(data: bytes) -> None:
    assert classify(data) in ("complete", "truncated", "foreign")


@given(st.integers(0, len(MODEL) - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_gives_a_model_or_a_named_error(position: int, flip: int) -> None:
    data = bytearray(MODEL)
    data[position] ^= flip
    with contextlib.suppress(errors.SourceError):
        facts_of(parse(bytes(data)))


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("model.onnx", b"\x89PNG\r\n\x1a\n" + bytes(100), "neither an ONNX nor"),
        ("model.onnx", b"hello, this is a text file about models", "neither an ONNX nor"),
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
        ("model.gguf", b"GGUF" + bytes(100), "GGUF"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        ("model.onnx", b"<!DOCTYPE html><html>", "web page"),
        ("model.tflite", b"\x1c\0\0\0ABCD" + bytes(100), "no TFLite header"),
    ],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(errors.NotAModelError, match=told) as caught:
        checked(find_source(path).path)
    assert caught.value.code == "convert.not_a_model"
    assert caught.value.next_step


def test_an_empty_file_and_a_cut_model_are_truncated(tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    with pytest.raises(errors.TruncatedModelError, match="empty"):
        find_source(empty)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(MODEL[:-20])
    with pytest.raises(errors.TruncatedModelError, match="too early") as caught:
        checked(cut)
    assert caught.value.code == "convert.truncated"


def test_a_cut_zip_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(errors.TruncatedModelError, match="ends too early"):
        find_source(path)


@pytest.mark.parametrize("name", ["pipe", "device"])
def test_what_could_be_read_for_ever_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(errors.NotAModelError, match="not a plain file"):
        find_source(path)


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.NotAModelError, match="no file or folder"):
        find_source(tmp_path / "none.onnx")


def test_a_custom_operator_is_refused_with_its_node(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="frob", domain="com.acme")], {}, {"x": [1, 4]}, {"y": [1, 4]}
    )
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(errors.ForeignOperatorError, match=r"'frob'.*com\.acme::Frobnicate"):
        checked(save(model, tmp_path))


def test_an_unknown_standard_operator_is_refused_with_its_node(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Frobnicate", ["x"], ["y"], name="frob")], {}, {"x": [1, 4]}, {"y": [1, 4]})
    with pytest.raises(errors.InvalidModelError, match=r"'frob'.*Frobnicate.*opset 17"):
        checked(save(model, tmp_path))


def test_a_broken_graph_is_refused_by_the_checker(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["nowhere"], ["y"])], {}, {"x": [1, 4]}, {"y": [1, 4]})
    with pytest.raises(errors.InvalidModelError, match="breaks the rules"):
        checked(save(model, tmp_path))


def test_too_many_nodes_and_too_deep_nesting_are_refused(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path)
    with pytest.raises(errors.ModelTooLargeError, match="3 nodes"):
        read_checked(path, None, OnnxLimits(nodes=2))
    with pytest.raises(errors.ModelTooLargeError, match="bytes"):
        read_checked(path, None, OnnxLimits(bytes=100))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "leaf", [], [])
    for depth in range(20):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph.__class__())
        graph = helper.make_graph([node], f"level{depth}", [], [])
    deep = helper.make_model(graph)
    with pytest.raises(errors.ModelTooLargeError, match="nested"):
        checked(save(deep, tmp_path, "deep.onnx"))


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    body = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = model_of([helper.make_node("Twice", ["x"], ["y"], domain="local")], {}, {"x": [1, 4]}, {"y": [1, 4]})
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(body)
    inlined = checked(save(model, tmp_path))
    assert not inlined.functions
    assert [node.op_type for node in inlined.graph.node] == ["Add"]


def external(folder: Path, location: str) -> Path:
    """Write a model whose first weight lies in the file `location`, with no check of that name."""
    model = classifier()
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0")):
        tensor.external_data.add(key=key, value=value)
    return save(model, folder)


def test_external_data_inside_the_folder_is_taken_in(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    model = checked(path, tmp_path)
    assert model.graph.initializer[0].raw_data == classifier().graph.initializer[0].raw_data
    assert not model.graph.initializer[0].external_data


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path, "elsewhere.bin")
    with pytest.raises(errors.ExternalDataMissingError, match=r"elsewhere\.bin") as caught:
        checked(path, tmp_path)
    assert caught.value.code == "convert.external_data_missing"
    with pytest.raises(errors.ExternalDataMissingError, match="not uploaded"):
        checked(path, None)


def test_a_short_weight_file_is_missing_data(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    model = onnx.load_model_from_string(path.read_bytes())
    model.graph.initializer[0].external_data.add(key="length", value="999999")
    with pytest.raises(errors.ExternalDataMissingError, match="which has"):
        checked(save(model, tmp_path), tmp_path)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "", "C:\\weights", "x\\y"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    inner = tmp_path / "upload"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(bytes(5000))
    with pytest.raises(errors.ExternalDataUnsafeError) as caught:
        checked(external(inner, location), inner)
    assert caught.value.code == "convert.external_data_unsafe"


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "folder symlink", "fifo", "directory"])
def test_links_and_odd_files_are_refused(tmp_path: Path, kind: str) -> None:
    inner, outside = tmp_path / "upload", tmp_path / "outside"
    inner.mkdir()
    outside.mkdir()
    secret = outside / "secret"
    secret.write_bytes(bytes(5000))
    location = "link/secret" if kind == "folder symlink" else "link"
    if kind == "symlink":
        (inner / "link").symlink_to(secret)
    elif kind == "hardlink":
        (inner / "link").hardlink_to(secret)
    elif kind == "folder symlink":
        (inner / "link").symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(inner / "link")
    else:
        (inner / "link").mkdir()
    with pytest.raises(errors.ExternalDataUnsafeError):
        checked(external(inner, location), inner)


def test_folders_are_searched_in_a_known_order(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    deep = save(classifier(), tmp_path / "onnx")
    assert find_source(tmp_path).path == deep
    only = save(classifier(), tmp_path, "whatever.onnx")
    deep.unlink()
    assert find_source(tmp_path).path == only
    save(classifier(), tmp_path, "second.onnx")
    with pytest.raises(errors.NotAModelError, match="2 models"):
        find_source(tmp_path)
    first = save(classifier(), tmp_path)
    assert find_source(tmp_path).path == first


def test_mlflow_folders_are_read_and_may_not_point_outside(tmp_path: Path) -> None:
    model = save(classifier(), tmp_path, "m.onnx")
    (tmp_path / "MLmodel").write_text("flavors:\n  onnx:\n    data: m.onnx\n")
    assert find_source(tmp_path).path == model
    (tmp_path / "MLmodel").write_text("flavors:\n  onnx:\n    data: ../m.onnx\n")
    with pytest.raises(errors.NotAModelError, match="not in the folder"):
        find_source(tmp_path)


def test_an_mlflow_folder_of_scikit_learn_names_its_model_file(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04N.")
    (tmp_path / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.pkl\n  python_function: {}\n")
    found = find_source(tmp_path)
    assert (found.kind, found.format, found.path.name) == ("pickle", "onnx", "model.pkl")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("flavors: {python_function: {loader_module: x}}", "python_function, which is code"),
        ("flavors: {spark: {}, python_function: {}}", "it has spark"),
        ("flavors: {onnx: {data: [m.onnx]}}", "names no file"),
        ("flavors: {onnx: {data: m.onnx/x}}", "not in the folder"),
        ("!!python/object/apply:os.system ['true']", "no plain YAML"),
        ("flavors: 2001-99-99", "no plain YAML"),
        ("[" * 5000, "no plain YAML"),
        ("- 1", "no flavours"),
        ("# " * 200_000, "more than"),
    ],
)
def test_an_mlmodel_that_cannot_be_used_says_why(tmp_path: Path, text: str, told: str) -> None:
    save(classifier(), tmp_path, "m.onnx")
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(errors.NotAModelError, match=told):
        find_source(tmp_path)


def test_a_hugging_face_folder_with_weight_files_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "config.json").write_text("{}")
    external(tmp_path / "onnx", "weights.bin")
    found = find_source(tmp_path)
    assert found.folder == tmp_path / "onnx"
    assert checked(found.path, found.folder).graph.initializer[0].raw_data


@pytest.mark.parametrize(
    ("name", "told", "next_step"),
    [
        ("weights.safetensors", "no ONNX model", "optimum-cli export onnx"),
        ("model.safetensors.index.json", "in 1 file", "max_shard_size"),
        ("pytorch_model.bin", "a pickle, which is never read", "save_pretrained"),
    ],
)
def test_a_hugging_face_folder_that_is_not_read_says_what_to_do(
    tmp_path: Path, name: str, told: str, next_step: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(bytes(8))
    if name.endswith(".json"):
        (tmp_path / "model-00001-of-00001.safetensors").write_bytes(bytes(8))
    with pytest.raises(errors.NotAModelError, match=told) as caught:
        find_source(tmp_path)
    assert next_step in caught.value.next_step


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 32}, [32, 32]), ({"size": {"shortest_edge": 48}}, [48, 48]), ({"size": {"height": 32, "width": 64}}, [32, 64]),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, [224, 224]), ({"size": {}}, None),
    ],
)  # fmt: skip
def test_the_size_of_images_is_that_of_the_folder_s_processor(
    tmp_path: Path, settings: dict[str, Any], size: list[int] | None
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    if size is None:
        with pytest.raises(with_transformers.RefusedError, match="how large its images are"):
            with_transformers.image_size(tmp_path)
        return
    assert with_transformers.image_size(tmp_path) == size


def test_safetensors_are_a_model_only_in_a_folder_with_their_configuration(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(errors.NotAModelError, match="weights without the model"):
        find_source(weights)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.NotAModelError, match=r"config\.json"):
        find_source(weights)
    found = find_source(tmp_path)
    assert (found.kind, found.format, found.path) == ("safetensors", "onnx", weights)
    weights.write_bytes(len(header).to_bytes(8, "little") + header[:9])
    with pytest.raises(errors.TruncatedModelError, match="too early"):
        find_source(tmp_path)


@pytest.mark.parametrize("way", ["the file", "its folder"])
def test_a_model_that_lies_outside_the_folder_is_not_followed(tmp_path: Path, way: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "upload"
    outside.mkdir()
    folder.mkdir()
    save(classifier(), outside)
    if way == "its folder":
        (folder / "onnx").symlink_to(outside)
    else:
        (folder / "model.onnx").symlink_to(outside / "model.onnx")
    with pytest.raises(errors.NotAModelError, match="symbolic link") as caught:
        find_source(folder)
    assert "cp -rL" in caught.value.next_step


def test_functions_that_double_and_functions_in_a_circle_are_refused_before_inlining(tmp_path: Path) -> None:
    draw = random.Random(0)
    with pytest.raises(errors.ModelTooLargeError, match="nodes"):
        checked(CRAFTED["doubling-functions"](tmp_path, draw).source)
    with pytest.raises(errors.InvalidModelError, match="calls itself"):
        checked(CRAFTED["recursive-function"](tmp_path, draw).source)


def test_a_value_no_board_can_hold_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelTooLargeError, match="'z' has the shape"):
        checked(CRAFTED["doubling-fold"](tmp_path, random.Random(0)).source)


def test_shapes_and_values_are_fixed_at_the_import(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"])]
    model = model_of(nodes, {}, {"x": ["N", "W"], "gain": []}, {"y": ["N", "W"]})
    fixed = specialise(model, {"x": [1, 4]}, {"gain": 2.0})
    assert [value.name for value in fixed.graph.input] == ["x"]
    assert facts_of(fixed)["inputs"][0]["shape"] == [1, 4]
    for shapes, values, told in (
        ({"z": [1]}, {}, "no input 'z'"), ({"x": [4]}, {}, "does not fit"), ({}, {"x": 1.0}, "open dimensions"),
        ({}, {"z": 1.0}, "no input 'z'"), ({"x": [1, 1]}, {"x": 1.0, "gain": 1.0}, "no input would be left"),
    ):  # fmt: skip
        with pytest.raises(errors.ShapeOptionError, match=told) as caught:
            specialise(model, shapes, values)
        assert "x=N,W" in caught.value.next_step or "x=1,1" in caught.value.next_step


def test_a_whole_number_input_keeps_its_type(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["rate"], ["f"], to=1), helper.make_node("Mul", ["x", "f"], ["y"])]
    model = model_of(nodes, {}, {"x": [1, 4]}, {"y": [1, 4]})
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    fixed = specialise(model, {}, {"rate": 16000.0})
    assert onnx.numpy_helper.to_array(fixed.graph.initializer[0]) == np.int64(16000)
    with pytest.raises(errors.ShapeOptionError, match="does not hold"):
        specialise(model, {}, {"rate": 0.5})


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (TensorProto.FLOAT16, 1e9), (TensorProto.BFLOAT16, 1e39), (TensorProto.FLOAT, 1e300), (TensorProto.BOOL, 5.0),
        (TensorProto.INT4, 20.0), (TensorProto.UINT64, -1.0), (TensorProto.INT64, 2.0**63),
    ],
)  # fmt: skip
def test_a_value_that_the_type_of_an_input_does_not_hold_is_refused(dtype: int, value: float) -> None:
    nodes = [helper.make_node("Cast", ["k"], ["f"], to=1), helper.make_node("Mul", ["x", "f"], ["y"])]
    model = model_of(nodes, {}, {"x": [1, 4]}, {"y": [1, 4]})
    model.graph.input.append(helper.make_tensor_value_info("k", dtype, []))
    with pytest.raises(errors.ShapeOptionError, match="does not hold"):
        specialise(model, {}, {"k": value})
    assert [value.name for value in specialise(model, {}, {"k": 1.0}).graph.input] == ["x"]


def test_a_value_for_an_input_of_an_unknown_type_is_refused_by_its_name() -> None:
    model = model_of([helper.make_node("Mul", ["x", "k"], ["y"])], {}, {"x": [1, 4], "k": []}, {"y": [1, 4]})
    model.graph.input[1].type.tensor_type.elem_type = 29
    with pytest.raises(errors.ShapeOptionError, match="'k' does not hold numbers"):
        specialise(model, {}, {"k": 1.0})


def test_a_value_takes_the_place_of_the_stored_default_of_an_input() -> None:
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    model = model_of(nodes, {"k": np.array(3, np.float32)}, {"x": [1, 4], "k": []}, {"y": [1, 4]})
    fixed = specialise(model, {}, {"k": 2.0})
    assert [(t.name, float(onnx.numpy_helper.to_array(t))) for t in fixed.graph.initializer] == [("k", 2.0)]
    with pytest.raises(errors.ShapeOptionError, match="no input would be left"):
        specialise(model, {}, {"x": 1.0})


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path: Path) -> None:
    save(classifier(), tmp_path)
    before = find_source(tmp_path).sha256
    assert find_source(tmp_path).sha256 == before
    (tmp_path / "extra.bin").write_bytes(np.zeros(4).tobytes())
    assert find_source(tmp_path).sha256 != before


def test_a_model_that_answers_nothing_is_refused(tmp_path: Path) -> None:
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    report, _ = run(save(model, tmp_path), tmp_path / "out", precision="fp32")
    assert [row.code for row in report.refused] == ["convert.transform_failed"]
    assert "empty output 'scores'" in report.refused[0].reason
