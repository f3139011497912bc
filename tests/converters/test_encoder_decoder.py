"""Encoder–decoders as one graph: the loop against a search written in numpy, its weights stored once and in fewer bits."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgefleet_profiles
from edgefleet_converters import errors
from edgefleet_converters.accuracy.output_kinds import TOKENS, kind_of
from edgefleet_converters.accuracy.output_metrics import edit
from edgefleet_converters.importers.encoder_decoder.decoder_loop import Step, looped
from edgefleet_converters.importers.encoder_decoder.exported_parts import exports_to_onnx
from edgefleet_converters.importers.encoder_decoder.greedy_search import Decoding, answers_of, decoding_of
from edgefleet_converters.onnx.calibrate import Samples
from edgefleet_converters.onnx.load import operators_of
from edgefleet_converters.onnx.output_ends import output_ends
from edgefleet_converters.onnx.prepare import prepared
from edgefleet_converters.onnx.quantize import candidate
from edgefleet_converters.onnx.walk import all_nodes
from edgefleet_converters.pipeline import convert
from edgefleet_converters.recipe import default_recipe
from edgefleet_converters.request import ConversionRequest, DataFiles, Options
from edgefleet_converters.source import find_source
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.manifest import TensorSpec
from tests.agent.worker.conftest import Rig

WIDTH, WORDS = 64, 90
LOADS = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.stdin.buffer.read())"
Array = np.ndarray[Any, Any]
RULES = Decoding(
    start=1, prompt=(4, None), languages=(5, 6, 8), eos=(2, 3, *range(70, 84)), pad=0, new=12, banned=(9, 10),
    banned_first=(2, 3, 11), least=2, forced={11: 2}, notes=(),
)  # fmt: skip


def weights() -> dict[str, Array]:
    random = np.random.default_rng(3)
    shapes = {"words": (WORDS, WIDTH), "mix": (WIDTH, WIDTH), "states": (WIDTH, WIDTH)}
    found = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"states": found["states"] * np.float32(0.1)}


def parts(*, is_turned: bool) -> tuple[onnx.ModelProto, Step]:
    """An encoder states = x @ mix, and a step whose scores are words @ (mean of the words read so far @ mix + 2 * states @ states_by).

    Half of what the states give is only moved on its way into the loop, the other half is made by several nodes.

    is_turned: the table of words is stored as it is and turned by a node, as torch exports a large one.
    """
    w = weights()
    info, node = helper.make_tensor_value_info, helper.make_node
    encoder = helper.make_graph(
        [node("MatMul", ["x", "mix"], ["states"])], "encoder", [info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [info("states", TensorProto.FLOAT, ["batch", WIDTH])], [numpy_helper.from_array(w["mix"], "mix")],
    )  # fmt: skip
    turned = [node("Transpose", ["words"], ["scores_by"], perm=[1, 0])] if is_turned else []
    stored = {"words": w["words"], "mix": w["mix"], "states_by": w["states"]}
    stored |= {} if is_turned else {"scores_by": np.ascontiguousarray(w["words"].T)}
    nodes = [
        *turned, node("Gather", ["words", "token"], ["word"]), node("Unsqueeze", ["word", "one"], ["word4"]),
        node("Concat", ["kept", "word4"], ["next"], axis=2), node("ReduceMean", ["next", "axes"], ["mean"], keepdims=0),
        node("MatMul", ["given", "states_by"], ["made"]), node("Transpose", ["made"], ["turned"], perm=[1, 0]),
        node("Neg", ["made"], ["less"]), node("Neg", ["less"], ["more"]), node("Neg", ["more"], ["again"]),
        node("Neg", ["again"], ["theirs"]), node("MatMul", ["mean", "mix"], ["own"]), node("Transpose", ["own"], ["mine"], perm=[1, 0]),
        node("Add", ["mine", "turned"], ["both"]), node("Transpose", ["both"], ["back"], perm=[1, 0]),
        node("Add", ["back", "theirs"], ["sum"]), node("MatMul", ["sum", "scores_by"], ["logits"]),
    ]  # fmt: skip
    step = helper.make_graph(
        nodes, "step",
        [info("token", TensorProto.INT64, ["batch", 1]), info("given", TensorProto.FLOAT, ["batch", WIDTH]),
         info("kept", TensorProto.FLOAT, ["batch", 1, "length", WIDTH])],
        [info("logits", TensorProto.FLOAT, ["batch", WORDS]), info("next", TensorProto.FLOAT, ["batch", 1, "more", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()]
        + [numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.array([1, 2]), "axes")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 20)]
    models = [helper.make_model(graph, opset_imports=opset, ir_version=10) for graph in (encoder, step)]
    return models[0], Step(models[1], "token", {"given": "states"}, (("kept", "next"),), "logits")


def made(*, is_turned: bool = False, rules: Decoding = RULES) -> onnx.ModelProto:
    model = looped(*parts(is_turned=is_turned), rules)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: Array) -> Array:
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])


def searched(x: Array, rules: Decoding = RULES, *, scale: int = 2) -> list[int]:
    """The same search of one row, in numpy. scale: how often the states count."""
    w = weights()
    read = [rules.start]
    tokens: list[int] = []
    while len(tokens) < rules.new:
        place = len(read) - 1 - len(rules.prompt)
        mean = w["words"][read].mean(axis=0)
        scores = (mean @ w["mix"] + scale * x @ w["mix"] @ w["states"]) @ w["words"].T
        if place < 0:
            given = rules.prompt[place]
            token = max(rules.languages, key=lambda one: scores[one]) if given is None else given
        else:
            banned = {
                *rules.banned,
                *(rules.banned_first if place == 0 else ()),
                *(rules.eos if place < rules.least else ()),
            }
            scores[list(banned)] = -np.inf
            token = rules.forced.get(place, int(scores.argmax()))
            tokens.append(token)
        read.append(token)
        if place >= 0 and token in rules.eos:
            break
    return tokens + [rules.pad] * (rules.new - len(tokens))


@pytest.fixture(scope="module")
def samples() -> Array:
    return np.random.default_rng(5).standard_normal((40, WIDTH)).astype(np.float32) * 2


@pytest.mark.parametrize("is_turned", [False, True])
def test_the_loop_writes_what_a_search_by_hand_writes_and_stores_shared_weights_once(
    samples: Array, is_turned: bool
) -> None:
    model = made(is_turned=is_turned)
    got = run(model, samples)
    wanted = [searched(x) for x in samples]
    assert got.tolist() == wanted
    ends = {next(place for place, token in enumerate(row) if token in RULES.eos) for row in wanted}
    assert len(ends) > 3  # or the test is void
    assert run(model, samples[:1]).tolist() == wanted[:1]
    large = [
        tensor.dims for tensor in model.graph.initializer if np.prod(tensor.dims) >= 1000 and tensor.data_type == 1
    ]
    assert sorted(map(list, large)) == [[WIDTH, WIDTH], [WIDTH, WIDTH], [WIDTH, WORDS]]
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    inside = {node.output[0] for node in loop.attribute[0].g.node}
    assert "decoder/theirs" not in inside
    assert "decoder/own" in inside
    assert not loop.attribute[0].g.initializer


@pytest.mark.parametrize(
    ("name", "share", "products", "operator"),
    [
        ("int8-weights", 0.4, 0, ""),
        ("int8-dynamic-matmul", 0.5, 4, "MatMulInteger"),
        ("int8-blocks", 0.45, 4, "GatherBlockQuantized"),
        ("int4-weights", 0.3, 4, "GatherBlockQuantized"),
    ],
)
def test_small_forms_reach_the_loop_and_words_are_read_from_the_last_product(
    samples: Array, name: str, share: float, products: int, operator: str
) -> None:
    recipe = default_recipe(edgefleet_profiles.load("generic-x86_64-ort"), seed=0)
    spec = next(spec for spec in recipe.candidates if spec.id == name)
    source = made()
    small = candidate(source, msgspec.structs.replace(spec, correct_bias=False), None)
    assert small.ByteSize() < share * source.ByteSize(), small.ByteSize() / source.ByteSize()
    assert sum(node.op_type in ("MatMulInteger", "MatMulNBits") for node in all_nodes(small)) == products
    assert not operator or any(node.op_type == operator for node in all_nodes(small))
    figure = edit(run(small, samples), run(source, samples))
    assert figure.drop < (0.3 if "4" in name else 0.15), operators_of(small)


@pytest.mark.parametrize("name", ["int8-static", "int8-static-weighted"])
def test_the_encoder_has_static_int8_and_the_loop_stands_behind_what_it_reads(samples: Array, name: str) -> None:
    recipe = default_recipe(edgefleet_profiles.load("generic-x86_64-ort"), seed=0)
    spec = next(spec for spec in recipe.candidates if spec.id == name)
    inputs = [TensorSpec(name="x", dtype="float32", shape=["batch", WIDTH])]
    model, calibration, _ = prepared(made(), spec, Samples({"x": samples}, inputs))
    small = candidate(model, spec, calibration)
    onnx.checker.check_model(
        small
    )  # onnxruntime 1.32 ends its process where the loop stands before the node that makes the states
    assert any(node.op_type == "QuantizeLinear" for node in small.graph.node)
    assert edit(run(small, samples), run(made(), samples)).drop < 0.15


def test_tokens_are_judged_by_their_edit_distance(samples: Array) -> None:
    model = made()
    answers = run(model, samples)
    assert kind_of(answers, output_ends(model)[0], "tokens") == TOKENS
    wanted = np.array([[5, 6, 7, 2, 0, 0], [5, 6, 2, 0, 0, 0]])
    assert edit(wanted, wanted).drop == 0
    late = np.array([[6, 7, 2, 0, 0, 0], [5, 6, 2, 0, 0, 0]])  # one token is missing, and all others move
    assert edit(late, wanted).drop == pytest.approx((1 / 4 + 0) / 2)


def exported(folder: Path, *, is_merged: bool = False) -> None:
    """Write the same model as optimum exports it: the decoder without a past makes keys of the states, which the other reads."""
    w = weights()
    info, node, number = helper.make_tensor_value_info, helper.make_node, TensorProto.FLOAT
    stored = {
        "words": w["words"],
        "mix": w["mix"],
        "states_by": w["states"],
        "scores_by": np.ascontiguousarray(w["words"].T),
    }
    stored |= {"one": np.array([1]), "axes": np.array([1, 2]), "shape": np.array([-1, 1, 1, WIDTH])}
    ids, states = (
        info("input_ids", TensorProto.INT64, ["batch", 1]),
        info("encoder_hidden_states", number, ["batch", WIDTH]),
    )
    own, theirs = "past_key_values.0.decoder.key", "past_key_values.0.encoder.key"
    past = [info(name, number, ["batch", 1, length, WIDTH]) for name, length in ((own, "length"), (theirs, 1))]
    outputs = [info("logits", number, ["batch", WORDS])]
    outputs += [info(f"present.0.{part}.key", number, ["batch", 1, "length", WIDTH]) for part in ("decoder", "encoder")]

    def read(kept: str) -> list[onnx.NodeProto]:
        """Nodes from the token to the logits; kept: keys of the states."""
        return [
            node("ReduceMean", ["present.0.decoder.key", "axes"], ["mean"], keepdims=0), node("MatMul", ["mean", "mix"], ["mixed"]),
            node("ReduceMean", [kept, "axes"], ["theirs"], keepdims=0), node("Add", ["mixed", "theirs"], ["sum"]),
            node("MatMul", ["sum", "scores_by"], ["logits"]),
        ]  # fmt: skip

    word = [node("Gather", ["words", "input_ids"], ["word"]), node("Unsqueeze", ["word", "one"], ["word4"])]
    keys = [
        node("MatMul", ["encoder_hidden_states", "states_by"], ["keys"]), node("Shape", ["input_ids"], ["batch"], end=1),
        node("Concat", ["batch", "one", "one", "minus"], ["sizes"], axis=0), node("Reshape", ["keys", "sizes"], ["present.0.encoder.key"]),
    ]  # fmt: skip
    stored["minus"] = np.array([-1])
    without = [*word, node("Identity", ["word4"], ["present.0.decoder.key"]), *keys, *read("present.0.encoder.key")]
    going = [*word, node("Concat", [own, "word4"], ["present.0.decoder.key"], axis=2), *read(theirs)]

    def save(name: str, nodes: list[onnx.NodeProto], inputs: Any, outputs: Any, tensors: Any) -> None:
        graph = helper.make_graph(
            nodes, "g", inputs, outputs, [numpy_helper.from_array(a, key) for key, a in tensors.items()]
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / name)

    encoder = [node("MatMul", ["x", "mix"], ["last_hidden_state"])]
    x = info("input_features", number, ["batch", WIDTH])
    encoder[0].input[0] = "input_features"
    save("encoder_model.onnx", encoder, [x], [info("last_hidden_state", number, ["batch", WIDTH])], {"mix": w["mix"]})
    if is_merged:
        going.append(node("Identity", [theirs], ["present.0.encoder.key"]))
        branches = {
            f"{name}_branch": helper.make_graph(nodes, name, [], outputs) for name, nodes in (("then", going), ("else", without))
        }  # fmt: skip
        choice = node("If", ["use_cache_branch"], [value.name for value in outputs], **branches)
        flag = info("use_cache_branch", TensorProto.BOOL, [1])
        save("decoder_model_merged.onnx", [choice], [ids, states, *past, flag], outputs, stored)
    else:  # newer exports are given the place of the token: the mean is the sum over so many
        counted = [
            node("ReduceSum", ["present.0.decoder.key", "axes"], ["total"], keepdims=0), node("Add", ["cache_position", "one"], ["length"]),
            node("Cast", ["length"], ["count"], to=number), node("Div", ["total", "count"], ["mean"]),
        ]  # fmt: skip
        going = [*going[:3], *counted, *going[4:]]
        place = info("cache_position", TensorProto.INT64, [1])
        save("decoder_model.onnx", without, [ids, states], outputs, stored)
        save("decoder_with_past_model.onnx", going, [ids, place, *past], outputs[:2], stored)
    config = {"model_type": "whisper", "is_encoder_decoder": True, "decoder_start_token_id": 1}
    settings = {
        "eos_token_id": list(RULES.eos), "pad_token_id": 0, "forced_decoder_ids": [[1, 4], [2, None]], "max_new_tokens": 12,
        "lang_to_id": {"<|a|>": 5, "<|b|>": 6, "<|c|>": 8}, "suppress_tokens": [9, 10], "begin_suppress_tokens": [2, 3, 11],
        "min_new_tokens": 2, "forced_eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("is_merged", [False, True])
def test_files_of_an_export_become_one_model(tmp_path: Path, samples: Array, is_merged: bool) -> None:
    exported(tmp_path, is_merged=is_merged)
    if is_merged:  # as transformers.js lays it out
        (tmp_path / "onnx").mkdir()
        for path in tmp_path.glob("*.onnx"):
            path.rename(tmp_path / "onnx" / path.name)
    found = find_source(tmp_path)
    assert (found.kind, found.format) == ("parts", "onnx")
    data, facts = exports_to_onnx(found.path)
    assert facts["compared"] == {"samples": 3, "agreeing": 3, "largest_ratio": 0.0}
    got = ort.InferenceSession(data).run(None, {"input_features": samples})[0]
    assert got.tolist() == [searched(x, scale=1) for x in samples]
    large = [
        list(t.dims)
        for t in onnx.load_model_from_string(data).graph.initializer
        if np.prod(t.dims) >= 1000 and t.data_type == 1
    ]
    assert sorted(large) == [[WIDTH, WIDTH], [WIDTH, WIDTH], [WIDTH, WORDS]]


def test_a_release_of_an_export_is_small_judged_by_its_tokens_and_served(tmp_path: Path, samples: Array) -> None:
    exported(tmp_path)
    np.savez(tmp_path / "eval.npz", input_features=samples)
    profiles = tuple(map(edgefleet_profiles.load, ("generic-x86_64-ort", "generic-x86_64-litert")))
    request = ConversionRequest(
        model="m", version="1", source=tmp_path, profiles=profiles,
        data=DataFiles(eval=str(tmp_path / "eval.npz")), options=Options(precision="int8-weights", max_drop=0.1), out_dir=tmp_path / "out",
        tools_dir=None,
    )  # fmt: skip
    report = convert(request, lambda _event: None)
    assert [(row.profile, row.code) for row in report.refused] == [
        ("generic-x86_64-litert", "convert.operator_not_compiled")
    ]
    (bundle,) = report.bundles
    manifest = open_bundle(io.BytesIO(Path(bundle.path).read_bytes())).manifest
    assert manifest.precision == "int8-weights"
    row = next(row for profile in report.profiles for row in profile.candidates if row.verdict == "passed")
    assert row.metric is not None
    assert (row.metric.name, row.metric.outputs[0].kind) == ("edit", TOKENS)
    tensor = {
        "name": "input_features",
        "datatype": "FP32",
        "shape": [4, WIDTH],
        "data": samples[:4].reshape(-1).tolist(),
    }
    with closing(Rig(tmp_path)) as rig:
        rig.start(Path(bundle.path).read_bytes(), model="m", version="1").serve()
        status, answer, _ = rig.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode())
    assert (status, answer["outputs"][0]["name"], answer["outputs"][0]["shape"]) == (200, "tokens", [4, RULES.new])
    written = np.array(answer["outputs"][0]["data"]).reshape(4, -1)
    assert edit(written, np.array([searched(x, scale=1) for x in samples[:4]])).drop < 0.3


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("decoder_with_past_model.onnx", "goes on from what is kept"),
        ("config.json", "no config.json"),
        ("", "than float32"),
    ],
)
def test_what_an_export_lacks_is_said(tmp_path: Path, lost: str, told: str) -> None:
    exported(tmp_path)
    if lost:
        (tmp_path / lost).unlink()
    else:
        path = tmp_path / "decoder_with_past_model.onnx"
        model = onnx.load(path)
        for value in model.graph.input:
            if value.name == "past_key_values.0.decoder.key":
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        onnx.save(model, path)
    with pytest.raises(errors.SourceError, match=told):
        exports_to_onnx(find_source(tmp_path).path)


WHISPER = {
    "model_type": "whisper", "is_encoder_decoder": True, "decoder_start_token_id": 90, "max_target_positions": 40,
}  # fmt: skip
GENERATION = {
    "eos_token_id": 2, "pad_token_id": 2, "lang_to_id": {"<|en|>": 91, "<|de|>": 92}, "task_to_id": {"transcribe": 95, "translate": 96},
    "no_timestamps_token_id": 99, "max_length": 40, "suppress_tokens": [7, -1], "begin_suppress_tokens": [8, 2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "prompt"),
    [
        ({}, (None, 99)),
        ({"language": "en"}, (91, 95, 99)),
        ({"language": "<|de|>", "task": "translate"}, (92, 96, 99)),
        ({"forced_decoder_ids": [[1, None], [2, 96]]}, (None, 96, 99)),
        ({"forced_decoder_ids": [[1, 92], [2, 95], [3, 99]]}, (92, 95, 99)),
        ({"_from_model_config": True}, ()),
    ],
)
def test_whispers_prompt_is_that_of_transformers(change: dict[str, Any], prompt: tuple[int | None, ...]) -> None:
    rules = decoding_of(WHISPER, GENERATION | change)
    assert rules.prompt == prompt
    assert rules.languages == ((91, 92) if None in prompt else ())
    assert rules.new == 40 - 1 - len(prompt)
    assert (rules.banned, rules.banned_first) == ((7,), (8, 2))


def test_settings_of_text_models_are_honoured_noted_or_refused() -> None:
    config = {"decoder_start_token_id": 1, "max_position_embeddings": 64, "eos_token_id": 1}
    told = {
        "pad_token_id": 0, "max_length": 20, "min_length": 4, "forced_bos_token_id": 9, "forced_eos_token_id": [1], "num_beams": 4,
        "bad_words_ids": [[0], [1]], "no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "length_penalty": 2.0,
    }  # fmt: skip
    rules = decoding_of(config, told)
    assert (rules.new, rules.least, dict(rules.forced), rules.banned) == (19, 3, {0: 9, 18: 1}, (0,))
    assert len(rules.notes) == 1
    assert "4 beams" in rules.notes[0]
    assert answers_of(rules, [[1, 9, 5, 1, 0, 0], [9, 5]])[0][:5] == [9, 5, 1, 0, 0]
    assert decoding_of(config, {"max_new_tokens": 500}).new == 63
    assert decoding_of(config, {}).new == 20
    for name, value in (("no_repeat_ngram_size", 3), ("repetition_penalty", 1.2), ("bad_words_ids", [[4, 5]])):
        with pytest.raises(errors.InvalidModelError, match=name):
            decoding_of(config, told | {name: value})
    with pytest.raises(errors.InvalidModelError, match="return_timestamps"):
        decoding_of(WHISPER, GENERATION | {"return_timestamps": True})
    with pytest.raises(errors.InvalidModelError, match="no token"):
        decoding_of({}, told)
