"""An encoder–decoder that was exported to several ONNX files, in the layout of Hugging Face's optimum, as one graph.

The layout: `encoder_model.onnx`; `decoder_model.onnx`, which reads tokens and the encoder's states; `decoder_with_past_model.onnx`,
which reads one token and what was kept (`past_key_values.0.decoder.key` …). Or, in place of the two decoders,
`decoder_model_merged.onnx` with both as branches. They lie in the folder that has config.json, or in its `onnx/`.

The step is the decoder with a past, with an empty past at first. Keys and values of the encoder's states are made by the part of the
other decoder that makes them. The result is held against the files themselves, which a program runs: the first token from the decoder
without a past, the others from the one with.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from edgefleet_converters.errors import InvalidModelError, NotAModelError
from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.importers.agreement import Samples, check_agreement
from edgefleet_converters.importers.encoder_decoder.decoder_loop import Step
from edgefleet_converters.importers.encoder_decoder.greedy_search import Decoding, best_token
from edgefleet_converters.importers.encoder_decoder.shared_weights import renamed
from edgefleet_converters.importers.encoder_decoder.writer_parts import COMPARED, loop_facts, rules_of, serialised
from edgefleet_converters.importers.folder_layouts import DECODER, DECODERS, ENCODER, MERGED, is_plain
from edgefleet_converters.onnx.limits import OnnxLimits
from edgefleet_converters.onnx.load import opset_of, read_checked
from edgefleet_converters.onnx.passes.fix_inputs import FixInputs
from edgefleet_converters.onnx.passes.inline_if import InlineConstantIf
from edgefleet_converters.onnx.passes.upgrade_opset import UpgradeOpset

Array = npt.NDArray[Any]

_PAST, _PRESENT, _STATES, _MASK = "past_key_values.", "present.", "encoder_hidden_states", "encoder_attention_mask"
_BRANCH: Final = "use_cache_branch"
_LEAST_OPSET: Final = 15
_SAMPLES: Final = 3
_CURE: Final = "export it again: optimum-cli export onnx --model FOLDER --task TASK-with-past OUT"


def exports_to_onnx(source: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes of a folder of parts and `{decoding, compared}`. source: its encoder. Reads files and runs the parts.

    Raises InvalidModelError, NotAModelError, ImportDiffersError and what reading an ONNX file raises.
    """
    folder = source.parent
    settings = folder if is_plain(folder, "config.json") else folder.parent
    rules = rules_of(settings)
    if rules is None:
        raise NotAModelError(
            f"{ENCODER} has decoders next to it, and no config.json says how they write an answer",
            next_step="copy config.json and generation_config.json of the model into the folder",
        )
    encoder, first, step = _part(folder, ENCODER), *_decoders(folder)
    joint = _step(step, encoder.graph.output[0].name)  # says what is no such layout before anything is run
    samples = _inputs(encoder, first)
    wanted = _searched(encoder, first, step, samples, rules)
    _add_crossed(encoder, first, rules)
    data = serialised(encoder, joint, rules)
    compared = check_agreement(data, Samples(samples, [wanted], is_begun=True), source.name)
    return data, loop_facts(rules) | {"compared": compared}


def _part(folder: Path, name: str) -> onnx.ModelProto:
    """Return a checked part, of an operator set that the loop can be written in."""
    model = read_checked(folder / name, folder, OnnxLimits())
    if opset_of(model) < _LEAST_OPSET:
        model = run_passes(model, [UpgradeOpset()]).model
    if opset_of(model) < _LEAST_OPSET:
        raise InvalidModelError(f"{name} has opset {opset_of(model)} and cannot be raised to 17", next_step=_CURE)
    return model


def _decoders(folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the decoder without a past and the one with. Raises InvalidModelError."""
    if all(is_plain(folder, name) for name in DECODERS):
        return _part(folder, DECODERS[0]), _part(folder, DECODERS[1])
    if not is_plain(folder, MERGED):
        raise InvalidModelError(
            f"{DECODER} computes all tokens again for each one: {DECODERS[1]}, which goes on from what is kept, is missing",
            next_step=_CURE,
        )
    return _branch(_part(folder, MERGED), 0), _branch(_part(folder, MERGED), 1)


def _branch(model: onnx.ModelProto, taken: float) -> onnx.ModelProto:
    made = run_passes(model, [FixInputs({_BRANCH: taken}), InlineConstantIf()]).model
    if any(node.op_type == "If" for node in made.graph.node):
        raise InvalidModelError(f"{MERGED} has an If that {_BRANCH} does not decide", next_step=_CURE)
    wanted = [value.name for value in made.graph.output if taken == 0 or ".encoder." not in value.name]
    return _only(made, wanted)


def _only(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """Return a model cut down to some outputs: the nodes, inputs and stored tensors that they need."""
    wanted = set(outputs)
    needed, kept = set(wanted), []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(name for one in _with_inner(node) for name in one.input)
    graph = helper.make_graph(
        kept[::-1], model.graph.name, [value for value in model.graph.input if value.name in needed],
        [value for value in model.graph.output if value.name in wanted],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _with_inner(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    from edgefleet_converters.onnx.walk import subgraphs

    found = [node]
    for one in found:
        found.extend(inner for graph in subgraphs(one) for inner in graph.node)
    return found


def _add_crossed(encoder: onnx.ModelProto, first: onnx.ModelProto, rules: Decoding) -> None:
    """Add keys and values of the states to the encoder's outputs, in place, named `crossed/present.0.encoder.key` …

    Exports take the size of the batch from the tokens, and with it nodes that have no part in them: the start token stands there.
    """
    names = [
        value.name for value in first.graph.output if value.name.startswith(_PRESENT) and ".encoder." in value.name
    ]
    crossed = _only(first, names)
    states = encoder.graph.output[0].name
    given = {_STATES: states, _MASK: "attention_mask", "input_ids": "crossing/start", "cache_position": "crossing/zero"}
    unknown = [value.name for value in crossed.graph.input if value.name not in given]
    if unknown or not names:
        what = f"the input {unknown[0]!r}" if unknown else "no keys and values of the encoder's states as outputs"
        raise InvalidModelError(f"the decoder has {what}, unlike the layout", next_step=_CURE)
    compose.add_prefix_graph(crossed.graph, "crossed/", inplace=True)
    renamed(crossed.graph, {f"crossed/{name}": source for name, source in given.items()})
    start = numpy_helper.from_array(np.array([rules.start], np.int64))
    nodes = [
        helper.make_node("Shape", [states], ["crossing/batch"], end=1),
        helper.make_node("Concat", ["crossing/batch", "crossing/one"], ["crossing/shape"], axis=0),
        helper.make_node("ConstantOfShape", ["crossing/shape"], ["crossing/start"], value=start),
    ]
    stored = {"crossing/one": np.array([1], np.int64), "crossing/zero": np.array([0], np.int64)}
    encoder.graph.node.extend([*nodes, *crossed.graph.node])
    encoder.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    encoder.graph.initializer.extend(crossed.graph.initializer)
    encoder.graph.output.extend(crossed.graph.output)


def _step(model: onnx.ModelProto, states: str) -> Step:
    """Return a decoder with a past as a step. states: the encoder's output.

    Raises InvalidModelError where its names are not those of the layout.
    """
    inputs, outputs = {value.name: value for value in model.graph.input}, {value.name for value in model.graph.output}
    kept, given, place = [], {}, ""
    for name, value in inputs.items():
        present = _PRESENT + name.removeprefix(_PAST)
        if name.startswith(_PAST) and value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise InvalidModelError(
                f"the decoder keeps {name!r} in other numbers than float32", next_step="publish the float32 export"
            )
        if name.startswith(_PAST) and ".encoder." in name:
            given[name] = f"crossed/{present}"
        elif name.startswith(_PAST) and present in outputs:
            kept.append((name, present))
        elif name in (_MASK, _STATES):
            given[name] = "attention_mask" if name != _STATES else states
        elif name == "cache_position":
            place = name
        elif name != "input_ids":
            raise InvalidModelError(
                f"the decoder has an input {name!r}, which the layout does not have", next_step=_CURE
            )
    if not kept or "input_ids" not in inputs or "logits" not in outputs:
        raise InvalidModelError("the decoder has other inputs and outputs than the layout says", next_step=_CURE)
    given = dict(sorted(given.items(), key=lambda pair: not pair[1].startswith("crossed/")))
    return Step(model, "input_ids", given, tuple(kept), "logits", place)


def _inputs(encoder: onnx.ModelProto, first: onnx.ModelProto) -> dict[str, Array]:
    """Return random inputs; lengths that are open are short. Raises InvalidModelError for an input that is not known."""
    words = (
        next(value for value in first.graph.output if value.name == "logits").type.tensor_type.shape.dim[-1].dim_value
    )
    random, length = np.random.default_rng(0), 9
    found: dict[str, Array] = {}
    for value in encoder.graph.input:
        dims = [dim.dim_value or length for dim in value.type.tensor_type.shape.dim]
        shape = (_SAMPLES, *dims[1:])
        if value.name == "input_features":
            found[value.name] = random.standard_normal(shape).astype(np.float32)
        elif value.name == "input_ids":
            found[value.name] = random.integers(2, max(3, words), shape)
        elif value.name == "attention_mask":
            mask = np.ones(shape, np.int64)
            mask[-1, length // 2 :] = 0
            found[value.name] = mask
        else:
            raise InvalidModelError(
                f"the encoder's input {value.name!r} is neither tokens nor features", next_step=_CURE
            )
    return found


def _searched(
    encoder: onnx.ModelProto, first: onnx.ModelProto, step: onnx.ModelProto, inputs: dict[str, Array], rules: Decoding
) -> Array:
    """Return what the files write when a program runs them, sample by sample: [samples, first tokens]."""
    sessions = [_session(model) for model in (encoder, first, step)]
    rows = []
    for at in range(_SAMPLES):
        given = {name: array[at : at + 1] for name, array in inputs.items()}
        known = {_STATES: sessions[0].run(None, given)[0]}
        known |= {_MASK: given["attention_mask"]} if "attention_mask" in given else {}
        tokens: list[int] = []
        while len(tokens) < min(rules.steps, len(rules.prompt) + COMPARED):
            session = sessions[2 if tokens else 1]
            known["input_ids"] = np.array([[tokens[-1] if tokens else rules.start]], np.int64)
            known["cache_position"] = np.array([len(tokens)], np.int64)
            names = [value.name for value in session.get_outputs()]
            asked = {value.name: known[value.name] for value in session.get_inputs()}
            made = dict(zip(names, session.run(names, asked), strict=True))
            known |= {_PAST + name.removeprefix(_PRESENT): made[name] for name in names if name.startswith(_PRESENT)}
            token, ends = best_token(rules, len(tokens), made["logits"].reshape(-1))
            tokens.append(token)
            if ends:
                break
        written = tokens[len(rules.prompt) :]
        rows.append(written + [rules.pad] * (min(rules.new, COMPARED) - len(written)))
    return np.array(rows, np.int64)


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
