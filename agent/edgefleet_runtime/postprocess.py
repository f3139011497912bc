"""From the model's outputs to an answer that people read, by the steps that the bundle declares.

1. `postprocess.json` is data, versioned; a step is one struct below, chosen by `op`. The last one shapes the answer.
2. Quantized outputs are dequantized first, so one file serves fp32 and int8 bundles.
3. An answer is one JSON value per sample; samples lie on the first axis where the output has one.
4. Suppression as everyone means it: boxes in the order of their score; one that overlaps a kept box of its class by more than `iou`
   (intersection over union) goes. Ties keep the order of the output, so that the answer does not depend on the machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array, RunError
from edgefleet_runtime.quantization import real_values

BoxFormat = Literal["cxcywh", "xywh", "xyxy", "yxyx"]


def corners(values: Array, box_format: BoxFormat) -> Array:
    """Return boxes [n, 4] as x_min, y_min, x_max, y_max. values: float [n, 4] in `box_format`."""
    a, b, c, d = (values[:, i] for i in range(4))
    match box_format:
        case "xyxy":
            columns = (a, b, c, d)
        case "yxyx":
            columns = (b, a, d, c)
        case "xywh":
            columns = (a, b, a + c, b + d)
        case "cxcywh":
            columns = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    return np.stack(columns, axis=1)


def overlap(box: Array, others: Array) -> Array:
    """Return the intersection over union of one box [4] with each of others [n, 4]; 0 where both have no area."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = np.clip(area, 0, None) + np.clip(areas, 0, None) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def suppressed(boxes: Array, scores: Array, classes: Array, *, least: float, iou: float, most: int) -> list[int]:
    """Return the indices of the objects that stay, best first.

    boxes: float [n, 4] corners. scores, classes: [n]. least: lowest score. most: how many at most. NaN scores never stay.
    """
    candidates = [
        i for i in np.argsort(-scores, kind="stable").tolist() if scores[i] >= least and np.isfinite(boxes[i]).all()
    ]
    kept: list[int] = []
    by_class: dict[int, list[int]] = {}
    for i in candidates:
        same = by_class.setdefault(int(classes[i]), [])
        if same and float(overlap(boxes[i], boxes[same]).max()) > iou:
            continue
        same.append(i)
        kept.append(i)
        if len(kept) == most:
            break
    return kept


POSTPROCESS_MEMBER = "postprocess.json"
LABELS_MEMBER = "labels.txt"
_DEFAULT_TOP_K = 3
GLANCE_VALUES = 1 << 20


class PostprocessError(EdgefleetError):
    """The bundle's postprocess.json or labels.txt is not valid, or does not fit its model's outputs."""

    code = "postprocess.bad_declaration"


class _Step(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """Root of the steps."""


class Softmax(_Step, frozen=True, tag="softmax"):
    """Scores over the last axis that sum to 1."""


class Sigmoid(_Step, frozen=True, tag="sigmoid"):
    """1 / (1 + e^-x), each element for itself."""


class Scale(_Step, frozen=True, tag="scale"):
    """x · factor + offset: back to the units of the target."""

    factor: float = 1.0
    offset: float = 0.0


class TopK(_Step, frozen=True, tag="top_k"):
    """Answer: the k best classes of the last axis as `{label, index, score}`, best first."""

    k: int = _DEFAULT_TOP_K


class ArgMax(_Step, frozen=True, tag="argmax"):
    """Answer: the best class of the last axis as `{label, index, score}`."""


class Threshold(_Step, frozen=True, tag="threshold"):
    """Answer: all classes whose score reaches `value`; for an output with one score: `{label, positive, score}`."""

    value: float = 0.5


class Boxes(_Step, frozen=True, tag="boxes"):
    """Answer: the objects of a detector, `{label, index, score, box: [x_min, y_min, x_max, y_max]}`, best first, doubles suppressed.

    The output holds boxes [samples, n, 4 …] (transposed: [samples, 4 …, n]). What says which class: `classes` and `scores` name outputs
    [samples, n] with class numbers and their scores; `scores` alone an output [samples, n, classes]; without them this output has
    the class scores behind the box, after one of objectness where it has that. width, height: what the boxes' numbers are relative
    to (1: they are shares already); answers are shares of the model's image, from 0 to 1, so that they fit an image of any size.
    """

    format: BoxFormat = "cxcywh"
    scores: str | None = None
    classes: str | None = None
    transposed: bool = False
    objectness: bool = False
    sigmoid: bool = False
    width: float = 1.0
    height: float = 1.0
    score: float = 0.25
    iou: float = 0.45
    max: int = 100


class Identity(_Step, frozen=True, tag="identity"):
    """Answer: the numbers as nested lists."""


Transform = Softmax | Sigmoid | Scale
Answer = TopK | ArgMax | Threshold | Boxes | Identity
Step = Transform | Answer


class OutputRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of one output. labels: false when labels.txt is not about this output."""

    name: str
    steps: list[Step]
    labels: bool = True


class Postprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole postprocess.json. Outputs that it does not name are not part of the answer."""

    outputs: list[OutputRecipe]
    v: Literal[1] = 1


@dataclass(frozen=True)
class Postprocessor:
    """The declaration with its labels and the specs of the outputs it reads."""

    declared: Postprocess
    labels: tuple[str, ...]
    specs: Mapping[str, TensorSpec]

    def answers(self, outputs: Mapping[str, Array]) -> list[dict[str, Any]]:
        """Return one answer per sample: output name -> JSON value."""
        columns = {r.name: self._answer(r, outputs) for r in self.declared.outputs}
        samples = max((len(c) for c in columns.values()), default=0)
        # an output without a sample axis holds for every sample
        return [
            {name: column[i] if len(column) == samples else column[0] for name, column in columns.items()}
            for i in range(samples)
        ]

    def classes(self, outputs: Mapping[str, Array]) -> list[int]:
        """Return the class index of each sample when the first output is a classification, else an empty list."""
        recipe = self.declared.outputs[0]
        values = outputs[recipe.name]
        if not isinstance(recipe.steps[-1], TopK | ArgMax) or values.ndim == 0 or values.size == 0:
            return []
        if values.dtype.kind not in "iuf":
            return []
        # dequantize, softmax, sigmoid and positive scales keep the order: the raw arg-max is the class
        best: list[int] = np.atleast_1d(values.argmax(axis=-1)).ravel().tolist()
        return best

    def number(self, output: Array) -> float:
        """Return the first number of the first output as it is answered, quickly; 0 when there is none."""
        if not output.size or output.dtype.kind not in "iuf":
            return 0.0
        recipe = self.declared.outputs[0]
        if any(isinstance(step, Softmax) for step in recipe.steps):
            return float(self._transformed(recipe, output).item(0))
        spec, value = self.specs[recipe.name], float(output.item(0))
        if spec.quantization is not None and output.dtype.kind != "f":
            value = (value - spec.quantization.zero_point) * spec.quantization.scale
        for step in recipe.steps:
            if isinstance(step, Scale):
                value = value * step.factor + step.offset
            elif isinstance(step, Sigmoid):
                value = 0.5 * (1.0 + math.tanh(0.5 * value))
        return value

    def confidence(self, outputs: Mapping[str, Array]) -> float | None:
        """Return the lowest best score among the samples of the first output, None when it is no classification by scores 0 … 1."""
        recipe = self.declared.outputs[0]
        raw = outputs[recipe.name]
        if not isinstance(recipe.steps[-1], TopK | ArgMax) or raw.size == 0 or raw.dtype.kind not in "iuf":
            return None
        values = self._transformed(recipe, raw)
        best = float(values.max(axis=-1).min()) if values.ndim else float(values)
        return best if 0.0 <= best <= 1.0 else None

    def glance(self, outputs: Mapping[str, Array], most: int) -> list[tuple[str, float]]:
        """Return the best `most` of the first sample of the first output as (label, score), quickly whatever the model.

        Numbers without names have the label "". Empty for a class a pixel, for text, and for more than GLANCE_VALUES values.
        Raises RunError as `answers` does.
        """
        recipe = self.declared.outputs[0]
        first = {name: values[:1] if values.ndim else values for name, values in outputs.items()}
        raw, last = first[recipe.name], recipe.steps[-1]
        if raw.size == 0 or raw.size > GLANCE_VALUES or raw.dtype.kind not in "iufb":
            return []
        if not isinstance(last, Boxes | Identity) and raw.ndim > 2:
            return []
        if isinstance(last, Identity):
            values = self._transformed(recipe, raw).ravel()[:most]
            return [("", float(value)) for value in values]
        found = self._answer(recipe, first)[0]
        named = found if isinstance(found, list) else [found]
        return [(one["label"] or "", math.nan if one["score"] is None else one["score"]) for one in named[:most]]

    def _answer(self, recipe: OutputRecipe, outputs: Mapping[str, Array]) -> list[Any]:
        values = self._transformed(recipe, outputs[recipe.name])
        last = recipe.steps[-1]
        labels = self.labels if recipe.labels else ()
        if isinstance(last, Boxes):
            named = {n: real_values(self.specs[n], outputs[n]) for n in (last.scores, last.classes) if n is not None}
            return _objects(last, values, named, labels)
        if values.ndim == 0:
            values = values.reshape(1)
        return [_shape_answer(last, values[i], labels) for i in range(values.shape[0])]

    def _transformed(self, recipe: OutputRecipe, raw: Array) -> Array:
        values = real_values(self.specs[recipe.name], raw)
        for step in recipe.steps[:-1]:
            values = _transform(step, values)
        return values


def parse_labels(data: bytes) -> tuple[str, ...]:
    """Return labels.txt: one label a line, line i for class i. Raises PostprocessError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise PostprocessError(f"labels.txt is not UTF-8: {e}", next_step="save it as UTF-8") from e
    return tuple(line.strip() for line in text.rstrip("\r\n").split("\n")) if text.strip() else ()


def parse_postprocess(data: bytes) -> Postprocess:
    """Return the declaration. Raises PostprocessError."""
    try:
        declared = msgspec.json.decode(data, type=Postprocess)
    except msgspec.MsgspecError as e:
        raise PostprocessError(
            f"postprocess.json is not valid: {e}", next_step="correct it and publish a new version"
        ) from e
    names = [r.name for r in declared.outputs]
    if not names or len(set(names)) != len(names):
        raise PostprocessError("postprocess.json must name at least one output, and each at most once")
    for recipe in declared.outputs:
        answers = [s for s in recipe.steps if isinstance(s, Answer)]
        if len(answers) != 1 or recipe.steps[-1] is not answers[0]:
            raise PostprocessError(
                f"output {recipe.name}: the last step, and only that, must be top_k, argmax, threshold, boxes or identity"
            )
        if isinstance(answers[0], TopK) and answers[0].k < 1:
            raise PostprocessError(f"output {recipe.name}: k must be at least 1")
        if isinstance(answers[0], Boxes):
            _check_boxes(recipe.name, answers[0])
    return declared


def build_postprocessor(
    declared: Postprocess | None, labels: tuple[str, ...], specs: Sequence[TensorSpec]
) -> Postprocessor:
    """Return the postprocessor of a model. Without a declaration: the best labels where labels fit, else plain numbers.

    Raises PostprocessError when the declaration names an output that the model lacks, or labels do not fit.
    """
    by_name = {s.name: s for s in specs}
    chosen = declared or _default(labels, specs)
    for recipe in chosen.outputs:
        spec = by_name.get(recipe.name)
        if spec is None:
            raise PostprocessError(
                f"postprocess.json names the output {recipe.name}; the model has {', '.join(by_name)}",
                next_step="correct the name and publish a new version",
            )
        answer = recipe.steps[-1]
        named = (answer.scores, answer.classes) if isinstance(answer, Boxes) else ()
        unknown = [n for n in named if n is not None and n not in by_name]
        if unknown:
            raise PostprocessError(
                f"the boxes of {recipe.name} name the outputs {', '.join(unknown)}; the model has {', '.join(by_name)}",
                next_step="correct the names and publish a new version",
            )
        last = spec.shape[-1] if spec.shape else 1
        labelled = recipe.labels and labels and isinstance(recipe.steps[-1], TopK | ArgMax)
        if labelled and isinstance(last, int) and last != len(labels):
            raise PostprocessError(
                f"labels.txt has {len(labels)} labels, the output {recipe.name} has {last} classes",
                next_step="give one label a class, in the order of the classes",
            )
    return Postprocessor(chosen, labels, by_name)


def _check_boxes(name: str, step: Boxes) -> None:
    if step.classes is not None and step.scores is None:
        raise PostprocessError(f"output {name}: boxes with classes need the output with their scores, too")
    if not (step.width > 0 and step.height > 0 and 0 <= step.iou <= 1 and step.max >= 1):
        raise PostprocessError(f"output {name}: boxes need width and height above 0, iou from 0 to 1, max from 1 on")


def _default(labels: tuple[str, ...], specs: Sequence[TensorSpec]) -> Postprocess:
    """Return the best labels of outputs that labels fit, then the plain numbers of the others.

    What names classes comes first: by the first output, classes are counted and drift is seen.
    """
    named = [s.name for s in specs if bool(labels) and len(s.shape) >= 1 and s.shape[-1] == len(labels)]
    others = [s.name for s in specs if s.name not in named]
    recipes = [OutputRecipe(name=name, steps=[TopK()]) for name in named]
    recipes += [OutputRecipe(name=name, steps=[Identity()]) for name in others]
    return Postprocess(outputs=recipes)


def _transform(step: Step, values: Array) -> Array:
    real = values.astype(np.float32)
    match step:
        case Softmax():
            exponents = np.exp(real - real.max(axis=-1, keepdims=True))
            return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))
        case Sigmoid():
            # tanh form: never overflows, whatever the sign
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * real)))
        case Scale(factor=factor, offset=offset):
            return np.asarray(real * np.float32(factor) + np.float32(offset))
        case _:
            raise AssertionError(step)


def _shape_answer(step: Step, sample: Array, labels: tuple[str, ...]) -> Any:
    match step:
        case ArgMax() | TopK():
            return _best(step, np.atleast_1d(sample), labels)
        case Threshold(value=value):
            scores = np.atleast_1d(sample)
            if scores.size == 1:
                score = _number(scores.ravel()[0])
                positive = score is not None and score >= value
                label = labels[int(positive)] if len(labels) == 2 else (labels[0] if len(labels) == 1 else None)
                return {"label": label, "positive": positive, "score": score}
            reached = [i for i in np.argsort(-scores.ravel(), kind="stable").tolist() if scores.ravel()[i] >= value]
            return [_class(i, scores.ravel()[i], labels) for i in reached]
        case _:
            return jsonable(sample)


def _objects(step: Boxes, values: Array, named: Mapping[str, Array], labels: tuple[str, ...]) -> list[Any]:
    """Return the objects of each sample. Raises RunError when the outputs have other shapes than `Boxes` says."""
    try:
        found = []
        for i in range(values.shape[0]):
            rows = (values[i].T if step.transposed else values[i]).astype(np.float32)
            scores, classes = _scored(step, rows, {name: other[i] for name, other in named.items()})
            boxes = corners(rows[:, :4], step.format) / np.array([step.width, step.height] * 2, np.float32)
            kept = suppressed(boxes, scores, classes, least=step.score, iou=step.iou, most=step.max)
            sides = np.clip(boxes[kept], 0.0, 1.0).astype(float).round(5).tolist()
            found.append(
                [_class(int(classes[k]), scores[k], labels) | {"box": box} for k, box in zip(kept, sides, strict=True)]
            )
    except (ValueError, IndexError) as e:
        raise RunError(
            f"the outputs do not hold boxes as postprocess.json says: {e}",
            next_step="compare the shapes of the outputs with the boxes step, and publish a new version",
        ) from e
    return found


def _scored(step: Boxes, rows: Array, named: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return the score and the class of each box [n]. rows: [n, 4 …]. named: the other outputs of one sample."""
    if step.scores is not None and step.classes is not None:
        return named[step.scores].reshape(-1).astype(np.float32), named[step.classes].reshape(-1).astype(np.int64)
    table = named[step.scores].astype(np.float32) if step.scores is not None else rows[:, 4:]
    if step.sigmoid:
        table = 0.5 * (1.0 + np.tanh(0.5 * table))
    if step.objectness:
        table = table[:, :1] * table[:, 1:]
    if table.ndim != 2 or table.shape[0] != rows.shape[0] or table.shape[1] == 0:
        raise ValueError(f"{list(rows.shape)} boxes, {list(table.shape)} scores")
    return table.max(axis=1), table.argmax(axis=1)


def _best(step: ArgMax | TopK, scores: Array, labels: tuple[str, ...]) -> Any:
    if scores.ndim > 1:
        return [_best(step, row, labels) for row in scores]
    order = np.argsort(-scores.astype(np.float64), kind="stable").tolist()
    if isinstance(step, ArgMax):
        return _class(order[0], scores[order[0]], labels)
    return [_class(i, scores[i], labels) for i in order[: step.k]]


def _class(index: int, score: Any, labels: tuple[str, ...]) -> dict[str, Any]:
    label = labels[index] if index < len(labels) else str(index)
    return {"label": label, "index": index, "score": _number(score)}


def _number(value: Any) -> float | None:
    """Return a JSON number; NaN and infinities, which JSON lacks, become None."""
    number = float(value)
    return number if np.isfinite(number) else None


def _without_nonfinite(array: Array) -> Array:
    objects = array.astype(object)
    objects[~np.isfinite(array)] = None
    return objects


def jsonable(array: Array) -> Any:
    """Return nested lists of JSON values; NaN and infinities become None."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _without_nonfinite(array).tolist()
    if array.dtype.kind in "OSU":
        return np.vectorize(lambda v: v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v))(array).tolist()
    return array.tolist()
