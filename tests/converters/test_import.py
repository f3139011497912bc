"""Import: what is a model, what is damaged, and external data that must stay inside the upload."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgefleet_converters import errors
from edgefleet_converters.onnx.limits import OnnxLimits
from edgefleet_converters.onnx.load import facts_of, parse, read_checked
from edgefleet_converters.onnx.wire import classify
from edgefleet_converters.source import find_source
from tests.converters.graphs import classifier, model_of, save

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
        ("model.pt", b"PK\x03\x04" + bytes(100), "export the model to ONNX"),
        ("model.pkl", b"\x80\x04\x95" + bytes(100), "pickle"),
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
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: x\n")
    with pytest.raises(errors.NotAModelError, match="flavour"):
        find_source(tmp_path)


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path: Path) -> None:
    save(classifier(), tmp_path)
    before = find_source(tmp_path).sha256
    assert find_source(tmp_path).sha256 == before
    (tmp_path / "extra.bin").write_bytes(np.zeros(4).tobytes())
    assert find_source(tmp_path).sha256 != before
