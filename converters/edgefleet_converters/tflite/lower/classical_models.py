"""Classical models of ai.onnx.ml: scalers, linear models, tree ensembles. Source: the ai.onnx.ml operator pages.

A tree is walked on the device: one round of gathers for each level, all trees and rows at once. Comparisons are those of float32,
so a row takes the very branches that it takes in onnxruntime. Class names that are text are refused, as TFLite has none here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.lower.activations import softmax_last
from edgefleet_converters.tflite.node import Lowering, Node

_MODES = {"BRANCH_LEQ": "LESS_EQUAL", "BRANCH_LT": "LESS", "BRANCH_GTE": "GREATER_EQUAL", "BRANCH_GT": "GREATER",
          "BRANCH_EQ": "EQUAL", "BRANCH_NEQ": "NOT_EQUAL"}  # fmt: skip


def rows_of(b: Builder, x: Tensor) -> Tensor:
    """Return the input as float32 rows."""
    if x.dtype in ("float64", "int64", "uint64"):
        b.lacks(f"ai.onnx.ml operators on {x.dtype}, which float32 does not hold")
    wide = layout_moves.cast(b, x, "float32")
    return wide if wide.rank == 2 else layout_moves.reshape(b, wide, [1, *wide.shape])


def scaler(b: Builder, n: Node) -> Sequence[Tensor]:
    """Scaler: (x - offset) · scale."""
    x = rows_of(b, n.input(0))
    offset = b.const(np.array(n.get("offset", [0.0]), np.float32))
    scale = b.const(np.array(n.get("scale", [1.0]), np.float32))
    return [layout_moves.reshape(b, arithmetic.mul(b, arithmetic.sub(b, x, offset), scale), n.input(0).shape)]


def normalizer(b: Builder, n: Node) -> Sequence[Tensor]:
    """Normalizer of each row: by its largest, its sum of sizes, or its length."""
    x = rows_of(b, n.input(0))
    kind = n.text("norm", "MAX")
    if kind == "MAX":
        norm = arithmetic.reduce(b, "REDUCE_MAX", x, [-1], keep=True)
    elif kind == "L1":
        norm = arithmetic.reduce(b, "SUM", arithmetic.unary(b, "ABS", x), [-1], keep=True)
    else:
        norm = arithmetic.unary(b, "SQRT", arithmetic.reduce(b, "SUM", arithmetic.mul(b, x, x), [-1], keep=True))
    nothing = arithmetic.binary(b, "EQUAL", norm, arithmetic.scalar(b, 0.0, norm))
    safe = layout_moves.select(b, nothing, arithmetic.scalar(b, 1.0, norm), norm)
    return [layout_moves.reshape(b, arithmetic.div(b, x, safe), n.input(0).shape)]


def transformed(b: Builder, scores: Tensor, n: Node, kind: str = "") -> Tensor:
    kind = kind or n.text("post_transform", "NONE")
    if kind == "NONE":
        return scores
    if kind == "SOFTMAX":
        return softmax_last(b, scores)
    if kind == "LOGISTIC":
        return arithmetic.unary(b, "LOGISTIC", scores)
    return b.not_compiled(f"{n.op_type} with post_transform {kind}")


def labels_of(b: Builder, n: Node, names: Sequence[str]) -> Array:
    for name in names:
        if name in n.attributes:
            return np.array(n.get(name), np.int64)
    return b.lacks("string tensors (class names that are text)")


def largest(b: Builder, scores: Tensor, labels: Array) -> Tensor:
    """Return the label of the first largest score of each row."""
    best = b.emit("ARG_MAX", [scores, b.const(np.int32(1))], "int32", scores.shape[:1], output_type="int32")
    return layout_moves.gather(b, b.const(labels), best, 0)


def linear_classifier(b: Builder, n: Node) -> Sequence[Tensor]:
    """LinearClassifier with a row of coefficients for each class."""
    x = rows_of(b, n.input(0))
    labels = labels_of(b, n, ["classlabels_ints"])
    weights = np.array(n.get("coefficients"), np.float32).reshape(-1, x.shape[1])
    if len(weights) != len(labels):
        b.not_compiled("LinearClassifier with fewer rows of coefficients than classes")
    offset = b.const(np.array(n.get("intercepts", [0.0] * len(labels)), np.float32))
    scores = arithmetic.add(b, arithmetic.matmul(b, x, b.const(weights.T)), offset)
    return [largest(b, scores, labels), transformed(b, scores, n)]


def linear_regressor(b: Builder, n: Node) -> Sequence[Tensor]:
    """LinearRegressor."""
    x = rows_of(b, n.input(0))
    targets = int(n.get("targets", 1))
    weights = np.array(n.get("coefficients"), np.float32).reshape(targets, x.shape[1])
    offset = b.const(np.array(n.get("intercepts", [0.0] * targets), np.float32))
    return [transformed(b, arithmetic.add(b, arithmetic.matmul(b, x, b.const(weights.T)), offset), n)]


@dataclass(frozen=True)
class _Forest:
    """Nodes of all trees in one table; a leaf points at itself. roots: one a tree. weights: float32 [nodes, outputs].

    modes: the comparisons that occur; mode_of: which one each node makes.
    """

    roots: Array
    features: Array
    values: Array
    true: Array
    false: Array
    weights: Array
    modes: tuple[str, ...]
    mode_of: Array
    depth: int
    used: tuple[int, ...]


def _forest(b: Builder, n: Node, kind: str, outputs: int) -> _Forest:
    """Read the attributes of an ensemble. kind: `class` or `target`, the prefix of its weights."""
    trees, ids = list(n.get("nodes_treeids")), list(n.get("nodes_nodeids"))
    place = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
    modes = [m.decode() if isinstance(m, bytes) else m for m in n.get("nodes_modes")]
    branch = np.array([mode != "LEAF" for mode in modes])
    kinds = {mode for mode in modes if mode != "LEAF"} or {"BRANCH_LEQ"}
    if not kinds <= set(_MODES):
        b.not_compiled(f"{n.op_type} with branches of the kinds {', '.join(sorted(kinds))}")
    if any(n.get("nodes_missing_value_tracks_true", [])):
        b.not_compiled(f"{n.op_type} that follows missing values")
    own = np.arange(len(ids))
    sides = []
    for name in ("nodes_truenodeids", "nodes_falsenodeids"):
        targets = [place.get((tree, child), 0) for tree, child in zip(trees, n.get(name), strict=True)]
        sides.append(np.where(branch, targets, own).astype(np.int32))
    weights = np.zeros((len(ids), outputs), np.float32)
    columns = list(n.get(f"{kind}_ids"))
    for tree, node, column, weight in zip(
        n.get(f"{kind}_treeids"), n.get(f"{kind}_nodeids"), columns, n.get(f"{kind}_weights"), strict=True
    ):
        weights[place[tree, node], column] += np.float32(weight)
    first = {tree: place[tree, node] for tree, node in reversed(list(zip(trees, ids, strict=True)))}
    roots = np.array([first[tree] for tree in dict.fromkeys(trees)], np.int32)
    return _Forest(
        roots, np.where(branch, n.get("nodes_featureids"), 0).astype(np.int32), np.array(n.get("nodes_values"), np.float32),
        sides[0], sides[1], weights, *_comparisons([m if m != "LEAF" else min(kinds) for m in modes]),
        _depth(roots, sides[0], sides[1]), tuple(sorted(set(columns))),
    )  # fmt: skip


def _comparisons(modes: Sequence[str]) -> tuple[tuple[str, ...], Array]:
    """Return the comparisons that occur, and which one each node makes."""
    codes = tuple(sorted({_MODES[mode] for mode in modes}))
    return codes, np.array([codes.index(_MODES[mode]) for mode in modes], np.int32)


def _depth(roots: Array, true: Array, false: Array) -> int:
    """Return the number of branches on the longest way to a leaf."""
    level, depth = set(roots.tolist()), 0
    while True:
        below = {int(side[node]) for node in level for side in (true, false) if side[node] != node}
        if not below or depth > len(true):
            return depth
        level, depth = below, depth + 1


def _walked(b: Builder, x: Tensor, forest: _Forest) -> Tensor:
    """Return the sum of the leaf weights that each row reaches, float32 [N, outputs]."""
    count, trees = x.shape[0], len(forest.roots)
    node: Tensor = b.const(np.tile(forest.roots, (count, 1)))
    flat = layout_moves.flatten(b, x)
    base = b.const((np.arange(count, dtype=np.int32) * x.shape[1]).reshape(count, 1))
    features, values = b.const(forest.features), b.const(forest.values)
    true, false = b.const(forest.true), b.const(forest.false)
    for _ in range(forest.depth):
        seen = layout_moves.gather(b, flat, arithmetic.add(b, layout_moves.gather(b, features, node, 0), base), 0)
        taken = _taken(b, forest, node, seen, layout_moves.gather(b, values, node, 0))
        node = layout_moves.select(
            b, taken, layout_moves.gather(b, true, node, 0), layout_moves.gather(b, false, node, 0)
        )
    leaves = layout_moves.gather(b, b.const(forest.weights), node, 0)
    assert leaves.shape == (count, trees, forest.weights.shape[1])
    # Votes often tie to the last bit. CUMSUM adds tree after tree, as onnxruntime does; SUM adds in an order of its own.
    sums = b.emit("CUMSUM", [leaves, b.const(np.int32(1))], "float32", leaves.shape, exclusive=False, reverse=False)
    return layout_moves.index(b, sums, 1, trees - 1)


def _taken(b: Builder, forest: _Forest, node: Tensor, seen: Tensor, value: Tensor) -> Tensor:
    """Return whether each row takes the true branch of its node."""
    taken = arithmetic.binary(b, forest.modes[0], seen, value)
    mode = layout_moves.gather(b, b.const(forest.mode_of), node, 0) if forest.modes[1:] else node
    for number, code in enumerate(forest.modes[1:], 1):
        is_this = arithmetic.binary(b, "EQUAL", mode, b.const(np.int32(number)))
        taken = layout_moves.select(b, is_this, arithmetic.binary(b, code, seen, value), taken)
    return taken


_MODE_NAMES = (*_MODES, "BRANCH_MEMBER")
"""By the numbers of TreeEnsemble 5."""
_HOW = ("AVERAGE", "SUM", "MIN", "MAX")
_AFTER = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def tree_ensemble(b: Builder, n: Node) -> Sequence[Tensor]:
    """TreeEnsemble of opset 5: leaves are a table of their own, and a node may ask whether a value is in a set."""
    x = rows_of(b, n.input(0))
    how, kind = _HOW[int(n.get("aggregate_function", 1))], _AFTER[int(n.get("post_transform", 0))]
    if how not in ("SUM", "AVERAGE"):
        b.not_compiled(f"TreeEnsemble with {how}")
    if any(n.get("nodes_missing_value_tracks_true", [])):
        b.not_compiled("TreeEnsemble that follows missing values")
    forest = _with_leaves(n)
    total = _walked(b, x, forest)
    total = arithmetic.div(b, total, float(len(forest.roots))) if how == "AVERAGE" else total
    return [transformed(b, total, n, kind)]


def _with_leaves(n: Node) -> _Forest:
    """Return nodes, then the questions that stand for a set (one for each further member), then leaves."""
    modes = [_MODE_NAMES[int(m)] for m in _values(n, "nodes_modes")]
    splits = [float(v) for v in _values(n, "nodes_splits")]
    features = [int(f) for f in n.get("nodes_featureids")]
    sets = _sets(_values(n, "membership_values")) if "membership_values" in n.attributes else []
    count, leaves = len(modes), len(n.get("leaf_targetids"))
    further = sum(max(0, len(members) - 1) for members in sets)
    below = [
        [
            int(at) + (count + further if leaf else 0)
            for at, leaf in zip(n.get(f"nodes_{s}nodeids"), n.get(f"nodes_{s}leafs"), strict=True)
        ]
        for s in ("true", "false")
    ]
    for node in [i for i, mode in enumerate(modes) if mode == "BRANCH_MEMBER"]:
        members, last = sets.pop(0), node
        other = below[1][node]
        modes[node], splits[node] = "BRANCH_EQ", members[0]
        for member in members[1:]:
            below[1][last], last = len(modes), len(modes)
            modes.append("BRANCH_EQ")
            splits.append(member)
            features.append(features[node])
            below[0].append(below[0][node])
            below[1].append(other)
    own = list(range(len(modes), len(modes) + leaves))
    targets = [int(t) for t in n.get("leaf_targetids")]
    weights = np.zeros((len(modes) + leaves, int(n.get("n_targets"))), np.float32)
    weights[own, targets] = _values(n, "leaf_weights")
    true, false = (np.array(side + own, np.int32) for side in below)
    codes, mode_of = _comparisons(modes + [modes[0]] * leaves)
    roots = np.array(n.get("tree_roots"), np.int32)
    return _Forest(
        roots, np.array(features + [0] * leaves, np.int32), np.array(splits + [0.0] * leaves, np.float32), true, false, weights,
        codes, mode_of, _depth(roots, true, false), tuple(sorted(set(targets))),
    )  # fmt: skip


def _values(n: Node, name: str) -> Array:
    """Return an attribute that is a tensor."""
    value = n.get(name)
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _sets(values: Array) -> list[list[float]]:
    """Return the sets of members, which NaN parts."""
    found: list[list[float]] = [[]]
    for value in values:
        if np.isnan(value):
            found.append([])
        else:
            found[-1].append(float(value))
    return [members for members in found if members]


def tree_regressor(b: Builder, n: Node) -> Sequence[Tensor]:
    """TreeEnsembleRegressor by sum or average."""
    x = rows_of(b, n.input(0))
    outputs = int(n.get("n_targets", 1))
    forest = _forest(b, n, "target", outputs)
    total = _walked(b, x, forest)
    how = n.text("aggregate_function", "SUM")
    if how == "AVERAGE":
        total = arithmetic.div(b, total, float(len(forest.roots)))
    elif how != "SUM":
        b.not_compiled(f"TreeEnsembleRegressor with {how}")
    base = n.get("base_values")
    total = arithmetic.add(b, total, b.const(np.array(base, np.float32))) if base is not None else total
    return [transformed(b, total, n)]


def tree_classifier(b: Builder, n: Node) -> Sequence[Tensor]:
    """TreeEnsembleClassifier; two classes may share one score, whose sign or half decides."""
    x = rows_of(b, n.input(0))
    labels = labels_of(b, n, ["classlabels_int64s"])
    forest = _forest(b, n, "class", len(labels))
    total = _walked(b, x, forest)
    base = np.array(n.get("base_values", [0.0] * len(labels)), np.float32)
    if len(labels) == 2 and len(forest.used) == 1:
        return _one_score(b, n, layout_moves.take(b, total, 1, forest.used[0], 1), base, labels)
    if len(base) != len(labels):
        b.not_compiled("TreeEnsembleClassifier whose base values are not one a class")
    scores = arithmetic.add(b, total, b.const(base))
    return [largest(b, scores, labels), transformed(b, scores, n)]


def _one_score(b: Builder, n: Node, score: Tensor, base: Array, labels: Array) -> Sequence[Tensor]:
    """Return label and both scores of two classes that share one score.

    Weights that are all positive make a probability, decided at one half; others a margin, decided at zero.
    """
    kind = n.text("post_transform", "NONE")
    shift = float(base[-1]) if len(base) == 2 else float(base.sum())
    score = arithmetic.add(b, score, shift)
    probability = min(n.get("class_weights")) >= 0
    over = arithmetic.binary(b, "GREATER", score, arithmetic.scalar(b, 0.5 if probability else 0.0, score))
    label = layout_moves.select(b, over, b.const(labels[1:]), b.const(labels[:1]))
    if probability and kind == "NONE":
        both = [arithmetic.sub(b, 1.0, score), score]
    elif not probability and kind in ("NONE", "LOGISTIC"):
        other = arithmetic.unary(b, "NEG", score)
        both = [other, score] if kind == "NONE" else [arithmetic.unary(b, "LOGISTIC", t) for t in (other, score)]
    else:
        b.not_compiled(f"TreeEnsembleClassifier of one score with post_transform {kind}")
    return [layout_moves.reshape(b, label, [label.shape[0]]), layout_moves.concat(b, both, 1)]


def label_encoder(b: Builder, n: Node) -> Sequence[Tensor]:
    """LabelEncoder of numbers to numbers."""
    x = n.input(0)
    keys, values = (_column(n, kind) for kind in ("keys", "values"))
    if keys is None or values is None or x.dtype not in ("int64", "float32"):
        b.lacks("string tensors (labels that are text)")
    given = _values(n, "default_tensor") if "default_tensor" in n.attributes else None
    name, standard = ("default_int64", -1) if values.dtype == np.int64 else ("default_float", -0.0)
    default = np.asarray(n.get(name, standard) if given is None else given, values.dtype).reshape(1)
    wide = layout_moves.reshape(b, x, [layout_moves.size(x.shape), 1])
    same = layout_moves.cast(b, arithmetic.binary(b, "EQUAL", wide, b.const(keys.reshape(1, -1))), "float32")
    # The last column is larger than nothing and smaller than a key that fits.
    none = b.const(np.full((wide.shape[0], 1), 0.5, np.float32))
    chosen = largest(b, layout_moves.concat(b, [same, none], 1), np.concatenate([values, default]))
    return [layout_moves.reshape(b, chosen, x.shape)]


def _column(n: Node, kind: str) -> Array | None:
    """Return the keys or values of a LabelEncoder, None where they are text."""
    for name, dtype in ((f"{kind}_int64s", np.int64), (f"{kind}_floats", np.float32)):
        if name in n.attributes:
            return np.array(n.get(name), dtype)
    if f"{kind}_tensor" in n.attributes:
        found = _values(n, f"{kind}_tensor")
        return found if found.dtype in (np.int64, np.float32) else None
    return None


LOWERINGS: dict[str, Lowering] = {
    "Scaler": scaler, "Normalizer": normalizer, "LinearClassifier": linear_classifier,
    "LinearRegressor": linear_regressor, "TreeEnsembleRegressor": tree_regressor,
    "TreeEnsembleClassifier": tree_classifier, "TreeEnsemble": tree_ensemble, "LabelEncoder": label_encoder,
}  # fmt: skip
