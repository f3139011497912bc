"""Open dimensions of inputs: shown by data, said by the folder, decided by the graph, else asked. Nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_converters.importers.folder_layouts import declared_lengths
from edgefleet_converters.open_dimensions import NO_LENGTHS, open_places, question
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.graphs import classifier, model_of, run, samples, save


def convolutional() -> onnx.ModelProto:
    """Return a net that takes images of any size: `image` [batch, 3, height, width] -> `y` [batch, 4]."""
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    return model_of(nodes, weights, {"image": ["batch", 3, "height", "width"]}, {"y": ["batch", 4]})


def with_open_features() -> onnx.ModelProto:
    """Return `graphs.classifier` whose features are open too; its first matrix has 16 rows."""
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    return model


def encoder() -> onnx.ModelProto:
    """Return token ids [batch, tokens], in a table of 64 positions -> `y` [batch, tokens, 8]."""
    random = np.random.default_rng(0)
    weights = {"table": random.standard_normal((50, 8)).astype(np.float32)}
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["y"])]
    inputs = {"input_ids": ["batch", "tokens"]}
    return model_of(nodes, weights, inputs, {"y": ["batch", "tokens", 8]}, dtype=TensorProto.INT64)


@pytest.mark.parametrize("profile", ["generic-x86_64-ort", "generic-x86_64-litert"])
def test_a_size_that_nothing_shows_is_asked_for(tmp_path: Path, profile: str) -> None:
    report, _ = run(save(convolutional(), tmp_path), tmp_path / "out", [profile])
    assert report.bundles == []
    [refused] = report.refused
    assert refused.code == "convert.dynamic_shape"
    assert "input 'image' [batch, 3, height, width] has the open dimensions 'height', 'width'" in refused.reason
    assert "--shape image=1,3,224,224" in refused.next


def test_a_size_that_was_given_is_that_of_the_latency(tmp_path: Path) -> None:
    source = save(convolutional(), tmp_path)
    report, _ = run(source, tmp_path / "fixed", shapes={"image": [1, 3, 20, 24]}, precision="fp32")
    assert report.bundles[0].latency_shapes == {"image": [1, 3, 20, 24]}
    random = np.random.default_rng(0)
    data = {"eval": samples(tmp_path, image=random.standard_normal((24, 3, 12, 16)).astype(np.float32))}
    report, _ = run(source, tmp_path / "shown", data=data, precision="fp32")
    assert report.bundles[0].latency_shapes == {"image": [1, 3, 12, 16]}
    report, _ = run(source, tmp_path / "golden", data={"golden": data["eval"]}, precision="fp32")
    assert report.bundles[0].latency_shapes == {"image": [1, 3, 12, 16]}
    assert report.data["open_dimensions"] == {"image": "1x3x12x16, as the golden or reference data shows"}


@pytest.mark.parametrize("profile", ["generic-x86_64-ort", "generic-x86_64-litert"])
def test_a_length_that_the_graph_decides_is_taken_and_named(tmp_path: Path, profile: str) -> None:
    report, _ = run(save(with_open_features(), tmp_path), tmp_path / "out", [profile], precision="fp32")
    assert report.bundles[0].latency_shapes == {"x": [1, 16]}
    assert report.data["open_dimensions"] == {"x": "1x16, the only length with which the graph runs"}
    assert "the only length with which the graph runs" in (tmp_path / "out" / "report.html").read_text()


def test_the_folder_of_an_encoder_says_how_long_a_text_is(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    save(encoder(), folder)
    asked, _ = run(folder, tmp_path / "asked", precision="fp32")
    assert "--shape input_ids=1,128" in asked.refused[0].next
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    report, _ = run(folder, tmp_path / "out", precision="fp32")
    assert report.bundles[0].latency_shapes == {"input_ids": [1, 64]}
    assert report.data["open_dimensions"] == {"input_ids": "1x64, as the folder's configuration says"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
    report, _ = run(folder, tmp_path / "shorter", precision="fp32")
    assert report.bundles[0].latency_shapes == {"input_ids": [1, 32]}


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": {"image_size": [12, 16], "num_channels": 3}},
        {"config.json": {"num_channels": 3}, "preprocessor_config.json": {"size": {"height": 12, "width": 16}}},
    ],
)
def test_the_folder_of_a_model_of_images_says_how_large_they_are(tmp_path: Path, files: dict[str, object]) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    model = convolutional()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    save(model, folder)
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
    report, _ = run(folder, tmp_path / "out", precision="fp32")
    assert report.bundles[0].latency_shapes == {"image": [1, 3, 12, 16]}


@pytest.mark.parametrize(
    "text", ["[", "[1]", "7", '{"max_position_embeddings": "x", "image_size": [1, 2, 3], "num_channels": true}']
)
def test_a_configuration_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert declared_lengths(tmp_path) == {}


@pytest.mark.parametrize("word", ["?", "None", "-1"])
def test_one_word_for_all_open_dimensions_is_no_name(word: str) -> None:
    inputs = (TensorSpec(name="x", dtype="float32", shape=[word, 3, word, word]),)
    assert list(open_places(inputs)) == [("x", 2), ("x", 3)]
    assert (
        "has the open dimensions number 3, number 4" in question(inputs, [("x", 2), ("x", 3)], is_fixable=True).message
    )


def test_the_batch_is_one_wherever_its_name_stands() -> None:
    inputs = (
        TensorSpec(name="sound", dtype="float32", shape=["batch", "samples"]),
        TensorSpec(name="state", dtype="float32", shape=[2, "batch", 128]),
    )
    assert list(open_places(inputs)) == [("sound", 1)]
    known = NO_LENGTHS.and_of({("sound", 1): 512}, "as told")
    assert known.shapes(inputs) == {"sound": (512,)}
    both = question(
        (inputs[0], TensorSpec(name="z", dtype="float32", shape=[1, 4, "samples"])),
        [("sound", 1), ("z", 2)],
        is_fixable=True,
    )
    assert both.message.startswith(
        "inputs 'sound' [batch, samples] and 'z' [1, 4, samples] have the open dimension 'samples'"
    )
    assert "--shape sound=1,128 --shape z=1,4,100" in both.next_step
