"""scikit-learn estimators to ONNX: in this process where scikit-learn is installed here, else by the tool environment `sklearn`.

What reads and converts is `with_sklearn`, in both cases. Runs in a sandboxed child only: a pickle is a program.
"""

import importlib.util
from pathlib import Path
from typing import Any, Final

import onnx

from edgefleet_converters.errors import ConversionError, InvalidModelError, ToolFailedError, UntrustedTypeError
from edgefleet_converters.importers import with_sklearn
from edgefleet_converters.importers.agreement import Samples, check_agreement
from edgefleet_converters.importers.tool_process import run_tool
from edgefleet_converters.onnx.passes.drop_zipmap import keep_outputs

PACKAGES: Final = ("sklearn", "skl2onnx", "skops", "joblib")
_ERRORS: Final[dict[str, type[ConversionError]]] = {
    "untrusted": UntrustedTypeError,
    "invalid": InvalidModelError,
    "failed": ToolFailedError,
}


def estimator_to_onnx(source: Path, tools: Path | None) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes of a skops file or a pickle and `{versions, compared, labels, features}`. **A pickle is run.**

    Input: `x` float32 [N, features]. Class names that are text are taken out of the graph and returned as `labels`; features: the
    names of the columns that the estimator was trained on, where it knows them. Raises UntrustedTypeError naming the types,
    InvalidModelError (also for a pickle of another version of scikit-learn), ToolMissingError, ToolFailedError, ImportDiffersError.
    """
    if is_installed():
        try:
            data, facts, arrays = with_sklearn.converted(with_sklearn.read(source), source.name)
        except with_sklearn.RefusedSource as error:
            raise _ERRORS[error.kind](error.message, next_step=error.next_step) from error
    else:
        data, facts, arrays = run_tool("skops", source, tools, _ERRORS)
    model = onnx.load_model_from_string(data)
    numbers = [v.name for v in model.graph.output if v.type.tensor_type.elem_type != onnx.TensorProto.STRING]
    if facts["classes"] and numbers and len(numbers) < len(model.graph.output):
        # A device answers with numbers; it puts the names on them from the bundle's labels.
        keep_outputs(model, numbers)
    whole: bytes = model.SerializeToString(deterministic=True)
    return whole, {
        "versions": dict(facts["versions"]),
        "labels": [str(name) for name in facts["classes"]],
        "features": [str(name) for name in facts["features"]],
        "compared": _compared(model, arrays, str(facts["reason"]), source.name),
    }


def is_installed() -> bool:
    """Whether this Python has what reads scikit-learn models. Imports nothing."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


def _compared(model: onnx.ModelProto, arrays: dict[str, Any], reason: str, name: str) -> dict[str, Any]:
    """Hold the ONNX model against the estimator's own answers."""
    outputs = [arrays[key] for key in sorted(arrays) if key.startswith("out.")]
    if not outputs or len(outputs) > len(model.graph.output):
        return {"samples": 0, "reason": reason or "the original has no answer to compare with"}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    # A decision function has no counterpart to compare with.
    del shown.graph.output[len(outputs) :]
    inputs = {key.removeprefix("in."): value for key, value in arrays.items() if key.startswith("in.")}
    return check_agreement(shown.SerializeToString(), Samples(inputs, outputs), name)
