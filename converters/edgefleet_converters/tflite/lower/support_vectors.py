"""Support vector machines of ai.onnx.ml. Source: the ai.onnx.ml operator pages, and onnxruntime for how votes are counted.

Scores of classes are decisions between each pair; probabilities by Platt's method are an iteration of unknown length, and refused.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.lower.classical_models import labels_of, largest, rows_of, transformed
from edgefleet_converters.tflite.node import Lowering, Node


def _kernel(b: Builder, n: Node, x: Tensor, vectors: Array) -> Tensor:
    """Return how near each row is to each vector, float32 [N, vectors]."""
    kind = n.text("kernel_type", "LINEAR")
    gamma, shift, degree = (float(v) for v in n.get("kernel_params", [0.0, 0.0, 0.0]))
    if kind == "RBF":
        # Differences are taken before they are squared, as onnxruntime does: x² - 2xy + y² would cancel.
        wide = arithmetic.sub(b, layout_moves.reshape(b, x, [x.shape[0], 1, x.shape[1]]), b.const(vectors[None]))
        apart = arithmetic.reduce(b, "SUM", arithmetic.mul(b, wide, wide), [2], keep=False)
        return arithmetic.unary(b, "EXP", arithmetic.mul(b, apart, -gamma))
    product = arithmetic.matmul(b, x, b.const(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return product
    line = arithmetic.add(b, arithmetic.mul(b, product, gamma), shift)
    if kind == "SIGMOID":
        return arithmetic.unary(b, "TANH", line)
    if kind == "POLY" and degree == int(degree) and 1 <= degree <= _MOST_DEGREES:
        power = line
        for _ in range(int(degree) - 1):
            power = arithmetic.mul(b, power, line)
        return power
    return b.not_compiled(f"{n.op_type} with the kernel {kind} of degree {degree:g}")


_MOST_DEGREES = 8


def svm_regressor(b: Builder, n: Node) -> Sequence[Tensor]:
    """SVMRegressor; of one class it answers 1 or -1."""
    x = rows_of(b, n.input(0))
    count, offset = int(n.get("n_supports", 0)), float(n.get("rho", [0.0])[0])
    weights = np.array(n.get("coefficients"), np.float32).reshape(-1, 1)
    near = _kernel(b, n, x, np.array(n.get("support_vectors"), np.float32).reshape(count, -1)) if count else x
    total = arithmetic.add(b, arithmetic.matmul(b, near, b.const(weights)), offset)
    if n.get("one_class", 0):
        inside = arithmetic.binary(b, "GREATER", total, arithmetic.scalar(b, 0.0, total))
        return [
            layout_moves.select(b, inside, b.const(np.ones((1, 1), np.float32)), b.const(-np.ones((1, 1), np.float32)))
        ]
    return [transformed(b, total, n)]


def svm_classifier(b: Builder, n: Node) -> Sequence[Tensor]:
    """SVMClassifier of three classes or more, by votes of each pair."""
    x = rows_of(b, n.input(0))
    labels = labels_of(b, n, ["classlabels_ints"])
    sizes, classes = list(n.get("vectors_per_class", [])), len(labels)
    if n.get("prob_a") or not sizes or classes < _FEWEST_CLASSES:
        b.not_compiled("SVMClassifier of two classes, without vectors or with probabilities")
    vectors = np.array(n.get("support_vectors"), np.float32).reshape(sum(sizes), -1)
    given = np.array(n.get("coefficients"), np.float32).reshape(classes - 1, sum(sizes))
    first = np.cumsum([0, *sizes])
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    weights = np.zeros((sum(sizes), len(pairs)), np.float32)
    votes = np.zeros((2, len(pairs), classes), np.float32)
    for number, (i, j) in enumerate(pairs):
        weights[first[i] : first[i + 1], number] = given[j - 1, first[i] : first[i + 1]]
        weights[first[j] : first[j + 1], number] = given[i, first[j] : first[j + 1]]
        votes[0, number, i] = votes[1, number, j] = 1.0
    sums = arithmetic.matmul(b, _kernel(b, n, x, vectors), b.const(weights))
    scores = arithmetic.add(b, sums, b.const(np.array(n.get("rho"), np.float32)))
    won = layout_moves.cast(b, arithmetic.binary(b, "GREATER", scores, arithmetic.scalar(b, 0.0, scores)), "float32")
    counted = arithmetic.add(
        b, arithmetic.matmul(b, won, b.const(votes[0] - votes[1])), b.const(votes[1].sum(axis=0, keepdims=True))
    )
    return [largest(b, counted, labels), transformed(b, scores, n)]


_FEWEST_CLASSES = 3

LOWERINGS: dict[str, Lowering] = {"SVMRegressor": svm_regressor, "SVMClassifier": svm_classifier}
