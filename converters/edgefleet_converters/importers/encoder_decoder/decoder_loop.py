"""Join an encoder and one step of its decoder to one graph: the decoder is the body of an ONNX `Loop` (ADR 0096). Pure.

1. The step reads the token before, what it kept of earlier steps (keys and values) and the encoder's states. What of it depends on the
   encoder alone, such as keys and values of the states, is moved out of the loop and computed once.
2. Weights lie in the outer graph, each once, though several parts use it: a table of words that is also the last product is kept as that
   product's matrix, and words are read as its columns.
3. The body takes the best token that the rules allow (`greedy_search`), and the loop ends when every row has ended.
4. `tokens` int64 [batch, new]: behind an end are padding tokens, as in transformers; the prompt is not in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from edgefleet_converters.importers.encoder_decoder.greedy_search import Decoding
from edgefleet_converters.importers.encoder_decoder.shared_weights import StoredOnce, renamed, share_words
from edgefleet_converters.onnx.walk import subgraphs

Array = npt.NDArray[Any]

OUTPUT: Final = "tokens"
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Step:
    """One step of a decoder. token: its input int64 [batch, 1]. given: its other inputs -> outputs or inputs of the encoder.

    kept: (input, output) of what goes from one step to the next, [batch, heads, length, width], empty at first. logits: its output
    [batch, words] or [batch, 1, words]. place: its input int64 [1] that counts the steps, empty where it has none.
    """

    model: onnx.ModelProto
    token: str
    given: Mapping[str, str]
    kept: tuple[tuple[str, str], ...]
    logits: str
    place: str = ""


def looped(encoder: onnx.ModelProto, step: Step, rules: Decoding) -> onnx.ModelProto:
    """Return one model with the encoder's inputs and the output `tokens`. Takes its arguments apart.

    Raises ValueError where the parts do not fit.
    """
    outer, body = encoder.graph, step.model.graph
    compose.add_prefix_graph(outer, "encoder/", inplace=True, rename_inputs=False)
    compose.add_prefix_graph(body, "decoder/", inplace=True)
    inner = {f"decoder/{name}": _outer_name(encoder, source) for name, source in step.given.items()}
    renamed(body, inner)
    states = next(iter(inner.values()))
    known = StoredOnce(outer)
    renamed(body, known.take(body.initializer))
    variant = {f"decoder/{step.token}", f"decoder/{step.place}", *(f"decoder/{name}" for name, _ in step.kept)}
    still, moving = _parted(body.node, variant)
    if step.place:
        counted = f"decoder/{step.place}"
        moving.insert(0, helper.make_node("Reshape", ["loop/step", "loop/one"], [counted], name=counted))
    outer.node.extend(still)
    kept = [(f"decoder/{a}", f"decoder/{b}") for a, b in step.kept]
    shapes = {value.name: _dims(value) for value in body.input}
    loop = _Loop(rules, f"decoder/{step.token}", f"decoder/{step.logits}", kept, _words(step))
    outer.node.extend(_first_states(states, [shapes[name] for name, _ in kept], rules))
    outer.node.extend(loop.nodes(moving))
    outer.initializer.extend(loop.tables())
    share_words(encoder)
    del outer.output[:], outer.value_info[:]
    batch = next((dim for value in outer.input for dim in _dims(value)[:1]), "batch")
    outer.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.INT64, [batch, rules.new]))
    versions = {entry.domain: entry.version for entry in encoder.opset_import}
    for entry in step.model.opset_import:
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            raise ValueError(f"the encoder has opset {versions[entry.domain]}, the decoder {entry.version}")
    del encoder.opset_import[:]
    encoder.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    encoder.ir_version = max(encoder.ir_version, step.model.ir_version)
    return encoder


def _outer_name(encoder: onnx.ModelProto, name: str) -> str:
    """Return what an input or output of the encoder is called now."""
    return name if any(value.name == name for value in encoder.graph.input) else f"encoder/{name}"


def _parted(nodes: Sequence[onnx.NodeProto], variant: set[str]) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes that give the same in every step, and the others. variant: values that change; is added to."""
    still, moving = [], []
    for node in nodes:
        if node.op_type in _RANDOM or not variant.isdisjoint(_read(node)):
            variant.update(node.output)
            moving.append(node)
        else:
            still.append(node)
    return still, moving


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, those of its subgraphs too."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield from one.input
        for graph in subgraphs(one):
            waiting.extend(graph.node)


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _words(step: Step) -> int:
    """Return the number of words; the last length of the logits. Raises ValueError."""
    words = next((_dims(value)[-1] for value in step.model.graph.output if value.name == f"decoder/{step.logits}"), "")
    if isinstance(words, int):
        return words
    raise ValueError("the decoder does not state how many words it knows")


def _first_states(states: str, shapes: list[list[int | str]], rules: Decoding) -> list[onnx.NodeProto]:
    """Return the nodes that make what the first step reads: the start token, no row that has ended, and nothing kept."""
    nodes = [
        helper.make_node("Shape", [states], ["loop/batch"], name="loop/batch", end=1),
        helper.make_node("Concat", ["loop/batch", "loop/one"], ["loop/column"], name="loop/column", axis=0),
        _filled("loop/column", "loop/start", np.array([rules.start], np.int64)),
        _filled("loop/batch", "loop/open", np.array([False])),
    ]
    for place, shape in enumerate(shapes):
        lengths = [int(shape[1]), 0, int(shape[3])]
        tail = f"loop/tail{place}"
        nodes += [
            helper.make_node("Constant", [], [tail], name=tail, value_ints=lengths),
            helper.make_node("Concat", ["loop/batch", tail], [f"{tail}/shape"], name=f"{tail}/shape", axis=0),
            _filled(f"{tail}/shape", f"loop/kept{place}", np.zeros(1, np.float32)),
        ]
    return nodes


def _filled(shape: str, name: str, value: Array) -> onnx.NodeProto:
    return helper.make_node("ConstantOfShape", [shape], [name], name=name, value=numpy_helper.from_array(value))


@dataclass(frozen=True)
class _Loop:
    """The loop round a step. token, logits, kept: values of the step; words: how many there are."""

    rules: Decoding
    token: str
    logits: str
    kept: list[tuple[str, str]]
    words: int

    def nodes(self, step: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the loop and what makes `tokens` of its outcome."""
        count = len(self.kept)
        given = ["loop/start", "loop/open", *(f"loop/kept{place}" for place in range(count))]
        made = ["loop/last", "loop/ended", *(f"loop/kept{place}/last" for place in range(count)), "loop/written"]
        loop = helper.make_node("Loop", ["loop/steps", "", *given], made, name="loop", body=self._body(step))
        return [
            loop,
            helper.make_node("Transpose", ["loop/written"], ["loop/rows"], name="loop/rows", perm=[1, 0]),
            helper.make_node(
                "Slice", ["loop/rows", "loop/prompt", "loop/steps1", "loop/one"], ["loop/new"], name="loop/new"
            ),
            helper.make_node("Shape", ["loop/new"], ["loop/length"], name="loop/length", start=1),
            helper.make_node("Sub", ["loop/most", "loop/length"], ["loop/missing"], name="loop/missing"),
            helper.make_node("Concat", ["loop/none", "loop/missing"], ["loop/pads"], name="loop/pads", axis=0),
            helper.make_node("Pad", ["loop/new", "loop/pads", "loop/pad"], [OUTPUT], name=OUTPUT),
        ]

    def _body(self, step: list[onnx.NodeProto]) -> onnx.GraphProto:
        info = helper.make_tensor_value_info
        batch = ["loop_batch"]
        inputs = [info("loop/step", TensorProto.INT64, []), info("loop/goes", TensorProto.BOOL, [])]
        inputs += [info(self.token, TensorProto.INT64, [*batch, 1]), info("loop/done", TensorProto.BOOL, batch)]
        inputs += [info(name, TensorProto.FLOAT, [*batch, None, None, None]) for name, _ in self.kept]
        outputs = [info("loop/on", TensorProto.BOOL, []), info("loop/column_next", TensorProto.INT64, [*batch, 1])]
        outputs += [info("loop/done_next", TensorProto.BOOL, batch)]
        outputs += [info(name, TensorProto.FLOAT, [*batch, None, None, None]) for _, name in self.kept]
        outputs.append(info("loop/next", TensorProto.INT64, batch))
        return helper.make_graph([*step, *self._choice()], "decoder", inputs, outputs)

    def _choice(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that take the next token and see whether the answer has ended."""
        node = helper.make_node
        yield node("Reshape", [self.logits, "loop/scores_shape"], ["loop/scores"], name="loop/scores")
        scores = "loop/scores"
        if self._bans():
            yield node("Gather", ["loop/ban_of_step", "loop/step"], ["loop/ban_row"], name="loop/ban_row")
            yield node("Gather", ["loop/bans", "loop/ban_row"], ["loop/banned"], name="loop/banned")
            yield node("Where", ["loop/banned", "loop/least", scores], ["loop/allowed"], name="loop/allowed")
            scores = "loop/allowed"
        yield node("ArgMax", [scores], ["loop/best"], name="loop/best", axis=1, keepdims=0)
        best = "loop/best"
        if self._forced():
            yield node("Gather", ["loop/forced", "loop/step"], ["loop/force"], name="loop/force")
            yield node("Less", ["loop/force", "loop/zero"], ["loop/free"], name="loop/free")
            yield node("Where", ["loop/free", best, "loop/force"], ["loop/taken"], name="loop/taken")
            best = "loop/taken"
        yield node("Where", ["loop/done", "loop/pad", best], ["loop/next"], name="loop/next")
        yield node("Unsqueeze", ["loop/next", "loop/one"], ["loop/column_next"], name="loop/column_next")
        yield node("Equal", ["loop/column_next", "loop/eos"], ["loop/ends"], name="loop/ends")
        yield node("Cast", ["loop/ends"], ["loop/ends_number"], name="loop/ends_number", to=TensorProto.INT32)
        yield node("ReduceSum", ["loop/ends_number", "loop/one"], ["loop/end_count"], name="loop/end_count", keepdims=0)
        yield node("Cast", ["loop/end_count"], ["loop/is_end"], name="loop/is_end", to=TensorProto.BOOL)
        yield node("GreaterOrEqual", ["loop/step", "loop/prompt_end"], ["loop/is_new"], name="loop/is_new")
        yield node("And", ["loop/is_end", "loop/is_new"], ["loop/has_ended"], name="loop/has_ended")
        yield node("Or", ["loop/done", "loop/has_ended"], ["loop/done_next"], name="loop/done_next")
        yield node("Not", ["loop/done_next"], ["loop/still"], name="loop/still")
        yield node("Cast", ["loop/still"], ["loop/still_number"], name="loop/still_number", to=TensorProto.INT32)
        yield node("ReduceSum", ["loop/still_number"], ["loop/still_count"], name="loop/still_count", keepdims=0)
        yield node("Cast", ["loop/still_count"], ["loop/on"], name="loop/on", to=TensorProto.BOOL)

    def tables(self) -> list[onnx.TensorProto]:
        """Return the stored tensors of the loop."""
        rules, prompt = self.rules, len(self.rules.prompt)
        arrays: dict[str, Array] = {
            "one": np.array([1], np.int64), "steps": np.array(rules.steps, np.int64),
            "steps1": np.array([rules.steps], np.int64), "prompt": np.array([prompt], np.int64),
            "prompt_end": np.array(prompt, np.int64), "most": np.array([rules.new], np.int64), "none": np.zeros(3, np.int64),
            "pad": np.array(rules.pad, np.int64), "eos": np.array([rules.eos or (-1,)], np.int64),
            "scores_shape": np.array([-1, self.words], np.int64),
        }  # fmt: skip
        forced, bans = self._forced(), self._bans()
        if forced:
            arrays["zero"] = np.array(0, np.int64)
            arrays["forced"] = np.array([forced.get(at, -1) for at in range(rules.steps)], np.int64)
        if bans:
            kinds = sorted({frozenset(), *bans.values()}, key=sorted)
            rows = np.zeros((len(kinds), self.words), bool)
            for row, kind in zip(rows, kinds, strict=True):
                row[[token for token in kind if token < self.words]] = True
            arrays["bans"], arrays["least"] = rows, np.array(np.finfo(np.float32).min, np.float32)
            arrays["ban_of_step"] = np.array(
                [kinds.index(bans.get(at, frozenset())) for at in range(rules.steps)], np.int64
            )
        return [numpy_helper.from_array(array, f"loop/{name}") for name, array in arrays.items()]

    def _forced(self) -> dict[int, int]:
        """Return step -> the token that it takes in any case."""
        found = {step: self.rules.forced_at(step) for step in range(self.rules.steps)}
        return {step: token for step, token in found.items() if token is not None}

    def _bans(self) -> dict[int, frozenset[int]]:
        """Return step -> the tokens that it must not take."""
        found = {step: self.rules.banned_at(step, self.words) for step in range(self.rules.steps)}
        return {step: tokens for step, tokens in found.items() if tokens}
