"""Bring a scikit-learn estimator to ONNX: from a skops file with an allow-list, or from a pickle.

    python with_sklearn.py SOURCE OUT.onnx ANSWERS.npz REPORT.json

Run as a file by the Python of the tool environment `sklearn`, so it imports nothing of edgefleet; where scikit-learn is installed
next to edgefleet, `sklearn_model` imports it. A zip is a skops file: it names what it rebuilds, and names outside the allow-list are
refused before anything is built. Anything else is a pickle, which is a program: the caller has asked whether it may run.
ANSWERS holds random rows (`in.x`) and the estimator's own answers to them (`out.<i>`). REPORT: `{versions, classes, features, reason}`
or `{error: {kind, message, next}}`; kind: `untrusted`, `invalid` or `failed`.
"""

import ctypes
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

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
_TEXT: Final = 8  # onnx.TensorProto.STRING
_EXPORT: Final = "or export the model to ONNX where it was trained"


class RefusedSource(Exception):
    """The source is not taken. kind: `untrusted`, `invalid` or `failed`."""

    def __init__(self, kind: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.kind, self.message, self.next_step = kind, message, next_step


def main(source: str, out: str, answers: str, report: str) -> None:
    """Convert and write the three files."""
    if sys.platform == "linux":  # prctl PR_SET_PDEATHSIG: a conversion that is stopped leaves no tool running
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    import numpy as np

    try:
        data, facts, arrays = converted(read(Path(source)), Path(source).name)
        Path(out).write_bytes(data)
        np.savez(answers, **arrays)
    except RefusedSource as error:
        facts = {"error": {"kind": error.kind, "message": error.message, "next": error.next_step}}
    Path(report).write_text(json.dumps(facts), encoding="utf-8")


def read(source: Path) -> Any:
    """Return the estimator in a file. **Runs the code in it, if it is a pickle.** Raises RefusedSource."""
    with source.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return _from_skops(source) if is_zip else _from_pickle(source)


def converted(estimator: Any, name: str) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Return the ONNX bytes of a fitted estimator, the facts of the report, and the arrays of ANSWERS.

    Input: `x` float32 [N, features]. Raises RefusedSource.
    """
    import numpy as np
    import skl2onnx
    import sklearn
    from skl2onnx.common.data_types import FloatTensorType

    features = getattr(estimator, "n_features_in_", None)
    if not hasattr(estimator, "predict") or not isinstance(features, int) or not 1 <= features <= 1_000_000:
        raise RefusedSource(
            "invalid",
            f"{name} holds a {type(estimator).__name__}, which is no fitted scikit-learn estimator with `predict`",
            "save the fitted estimator or pipeline itself",
        )
    classes = getattr(estimator, "classes_", None)
    try:
        with whole_numbers():
            model = skl2onnx.to_onnx(
                estimator,
                initial_types=[(INPUT, FloatTensorType([None, features]))],
                options={"zipmap": False} if classes is not None else None,
                target_opset=OPSETS,
            )
    except Exception as error:
        raise RefusedSource(
            "failed",
            f"skl2onnx cannot convert the {type(estimator).__name__} in {name}: {_line(error)}",
            f"use an estimator that skl2onnx supports, {_EXPORT}",
        ) from error
    kinds = [value.type.tensor_type.elem_type for value in model.graph.output]
    drops_text = _TEXT in kinds and any(kind != _TEXT for kind in kinds)
    arrays, reason = _answers(estimator, features, with_label=not drops_text)
    facts = {
        "versions": {"scikit-learn": str(sklearn.__version__), "skl2onnx": str(skl2onnx.__version__)},
        "classes": [str(one) for one in np.ravel(classes)] if drops_text and classes is not None else [],
        "features": [str(one) for one in getattr(estimator, "feature_names_in_", ())],
        "reason": reason,
    }
    data: bytes = model.SerializeToString(deterministic=True)
    return data, facts, arrays


def _from_skops(source: Path) -> Any:
    import skops.io

    try:
        asked = skops.io.get_untrusted_types(file=source)
        refused = sorted(set(map(str, asked)) - set(TRUSTED_TYPES))
        if refused:
            raise RefusedSource(
                "untrusted",
                f"{source.name} asks for types that are not trusted: {', '.join(refused)[:300]}",
                f"publish plain scikit-learn estimators, {_EXPORT}",
            )
        return skops.io.load(source, trusted=list(asked))
    except RefusedSource:
        raise
    except Exception as error:  # the file's own content decides what skops, NumPy and scikit-learn raise
        raise RefusedSource(
            "invalid",
            f"the skops file {source.name} cannot be read: {_line(error)}",
            "save the model again with skops.io.dump",
        ) from error


def _from_pickle(source: Path) -> Any:
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        with warnings.catch_warnings():
            # Estimators of another version load without an error and may answer differently.
            warnings.simplefilter("error", InconsistentVersionWarning)
            return joblib.load(source)
    except Exception as error:
        raise RefusedSource(
            "invalid",
            f"the pickle {source.name} cannot be loaded here: {_line(error)}",
            f"save it with the scikit-learn version of this machine, {_EXPORT}",
        ) from error


def _answers(estimator: Any, features: int, *, with_label: bool) -> tuple[dict[str, Any], str]:
    """Return `ROWS` random rows of many sizes with the estimator's answers, and why there are none."""
    import numpy as np

    random = np.random.default_rng(0)
    scale = 10.0 ** random.uniform(-1, 2, (ROWS, 1))
    x = (random.standard_normal((ROWS, features)) * scale).astype(np.float32)
    outputs: list[Any] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the rows have no column names; the order is that of the training
            if with_label:
                outputs.append(np.asarray(estimator.predict(x)))
            if hasattr(estimator, "classes_") and hasattr(estimator, "predict_proba"):
                outputs.append(np.asarray(estimator.predict_proba(x)))
    except Exception as error:  # noqa: BLE001 - a pipeline may refuse values that it was not trained on
        return {}, f"the original does not take random values: {_line(error)}"
    if not outputs or any(array.dtype.kind not in "iufb" for array in outputs):
        return {}, "the original has no answer to compare with"
    return {f"in.{INPUT}": x, **{f"out.{index}": array for index, array in enumerate(outputs)}}, ""


@contextmanager
def whole_numbers() -> Iterator[None]:
    """Let skl2onnx 1.20 write truth values as numbers: it hands them to protobuf 7, which takes no truth value for a number."""
    from onnx import helper

    original = helper.make_attribute

    def make_attribute(key: str, value: Any, *more: Any, **named: Any) -> Any:
        if isinstance(value, list) and any(isinstance(one, bool) for one in value):
            value = [int(one) for one in value]
        return original(key, value, *more, **named)

    helper.make_attribute = make_attribute
    try:
        yield
    finally:
        helper.make_attribute = original


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"


if __name__ == "__main__":
    main(*sys.argv[1:5])
