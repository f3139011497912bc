"""scikit-learn estimators to ONNX: a skops file with an allow-list, or a pickle when that was allowed.

A skops file is a zip of JSON and arrays; what it rebuilds is named in it, and names outside the allow-list are refused before
anything is built. A pickle is a program. Both are read in a sandboxed child only.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from edgefleet_converters.errors import InvalidModelError, ToolFailedError, ToolMissingError, UntrustedTypeError
from edgefleet_converters.importers.agreement import Samples, check_agreement
from edgefleet_converters.onnx.passes.drop_zipmap import keep_outputs

TRUSTED_TYPES: Final = (
    "numpy.dtype",
    "sklearn._loss.link.HalfLogitLink",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.LogLink",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""What is built in addition to the types that skops trusts itself (public estimators of scikit-learn, NumPy arrays, plain values).

Each only holds numbers and has no method that runs a name from the file. Found by saving the estimators of the tests.
"""
OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
ROWS: Final = 64
INPUT: Final = "x"


def skops_to_onnx(source: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes and facts of a skops file.

    Raises UntrustedTypeError naming the types, InvalidModelError, ToolMissingError, ToolFailedError, ImportDiffersError.
    """
    with _extra():
        import skops.io
    try:
        asked = skops.io.get_untrusted_types(file=source)
        refused = sorted(set(map(str, asked)) - set(TRUSTED_TYPES))
        if refused:
            raise UntrustedTypeError(
                f"{source.name} asks for types that are not trusted: {', '.join(refused)[:300]}",
                next_step="publish plain scikit-learn estimators, or export the model to ONNX where it was trained",
            )
        estimator = skops.io.load(source, trusted=list(asked))
    except UntrustedTypeError:
        raise
    except Exception as error:  # the file's own content decides what skops, NumPy and scikit-learn raise
        raise InvalidModelError(
            f"the skops file {source.name} cannot be read: {_line(error)}",
            next_step="save the model again with skops.io.dump",
        ) from error
    return to_onnx(estimator, source.name)


def pickle_to_onnx(source: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes and facts of a pickle or joblib file. **Runs the code that the file holds.**

    Raises InvalidModelError (also when it was saved by another version of scikit-learn), and as `skops_to_onnx`.
    """
    with _extra():
        import joblib
        from sklearn.exceptions import InconsistentVersionWarning
    try:
        with warnings.catch_warnings():
            # Estimators of another version load without an error and may answer differently.
            warnings.simplefilter("error", InconsistentVersionWarning)
            estimator = joblib.load(source)
    except Exception as error:
        raise InvalidModelError(
            f"the pickle {source.name} cannot be loaded here: {_line(error)}",
            next_step="save it with the scikit-learn version of this machine, or export it to ONNX where it was trained",
        ) from error
    return to_onnx(estimator, source.name)


def to_onnx(estimator: Any, name: str) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes of a fitted estimator and `{versions, compared, labels}`.

    Input: `x` float32 [N, features]. Class names that are text are taken out of the graph and returned as `labels`.
    Raises InvalidModelError, ToolFailedError, ImportDiffersError.
    """
    with _extra():
        import skl2onnx
        import sklearn
        from skl2onnx.common.data_types import FloatTensorType
    features = getattr(estimator, "n_features_in_", None)
    if not hasattr(estimator, "predict") or not isinstance(features, int) or not 1 <= features <= 1_000_000:
        raise InvalidModelError(
            f"{name} holds a {type(estimator).__name__}, which is no fitted scikit-learn estimator with `predict`",
            next_step="save the fitted estimator or pipeline itself",
        )
    classes = getattr(estimator, "classes_", None)
    try:
        model = skl2onnx.to_onnx(
            estimator,
            initial_types=[(INPUT, FloatTensorType([None, features]))],
            options={"zipmap": False} if classes is not None else None,
            target_opset=OPSETS,
        )
    except Exception as error:
        raise ToolFailedError(
            f"skl2onnx cannot convert the {type(estimator).__name__} in {name}: {_line(error)}",
            next_step="use an estimator that skl2onnx supports, or export the model to ONNX where it was trained",
        ) from error
    labels = _take_out_text(model, classes)
    data: bytes = model.SerializeToString(deterministic=True)
    versions = {"scikit-learn": str(sklearn.__version__), "skl2onnx": str(skl2onnx.__version__)}
    return data, {
        "versions": versions,
        "labels": labels,
        "compared": _compared(estimator, model, features, name, labels),
    }


def _take_out_text(model: onnx.ModelProto, classes: Any) -> list[str]:
    """Drop outputs that hold text, and the nodes that only they need, in place; return the class names that were text.

    A device answers with numbers; it puts the names on them from the bundle's labels.
    """
    text = [v for v in model.graph.output if v.type.tensor_type.elem_type == onnx.TensorProto.STRING]
    if not text or len(text) == len(model.graph.output):
        return []
    keep_outputs(model, [value.name for value in model.graph.output if value not in text])
    return [str(name) for name in np.ravel(classes)] if classes is not None else []


def _compared(estimator: Any, model: onnx.ModelProto, features: int, name: str, labels: list[str]) -> dict[str, Any]:
    """Hold the ONNX model against the estimator's own answers on `ROWS` random rows of many sizes."""
    random = np.random.default_rng(0)
    scale = 10.0 ** random.uniform(-1, 2, (ROWS, 1))
    x: npt.NDArray[np.float32] = (random.standard_normal((ROWS, features)) * scale).astype(np.float32)
    outputs: list[npt.NDArray[Any]] = []
    try:
        if not labels:
            outputs.append(np.asarray(estimator.predict(x)))
        if hasattr(estimator, "classes_") and hasattr(estimator, "predict_proba"):
            outputs.append(np.asarray(estimator.predict_proba(x)))
    except Exception as error:  # noqa: BLE001 - a pipeline may refuse values that it was not trained on
        return {"samples": 0, "reason": f"the original does not take random values: {_line(error)}"}
    if len(outputs) > len(model.graph.output) or not outputs:
        return {"samples": 0, "reason": "the original has no answer to compare with"}
    return check_agreement(_first_outputs(model, len(outputs)), Samples({INPUT: x}, outputs), name)


def _first_outputs(model: onnx.ModelProto, count: int) -> bytes:
    """Return the model with its first `count` outputs: a decision function has no counterpart to compare with."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[count:]
    data: bytes = shown.SerializeToString()
    return data


@contextmanager
def _extra() -> Iterator[None]:
    """Turn a missing package into ToolMissingError with the command that installs it."""
    try:
        yield
    except ImportError as error:
        raise ToolMissingError(
            f"scikit-learn models need packages that are not installed here: {error}",
            next_step="pip install 'edgefleet[sklearn]'",
        ) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
