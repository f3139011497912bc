"""The sandbox step that brings a foreign source to ONNX."""

from pathlib import Path
from typing import Any

from edgefleet_converters.errors import PickleRefusedError
from edgefleet_converters.importers.encoder_decoder.exported_parts import exports_to_onnx
from edgefleet_converters.importers.sklearn_model import estimator_to_onnx
from edgefleet_converters.importers.tool_process import tool_to_onnx


def import_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, kind, tools: path|None, allow_pickle, out}. Writes ONNX to `out`.

    Returns what the import reports about itself: `{kind, versions, compared, …}`.
    """
    source, kind = Path(args["model"]), str(args["kind"])
    tools = Path(args["tools"]) if args["tools"] else None
    if kind == "pickle" and not args["allow_pickle"]:
        raise refused_pickle(source.name)
    if kind == "parts":
        data, facts = exports_to_onnx(source)
    elif kind in ("skops", "pickle"):
        data, facts = estimator_to_onnx(source, tools)
    else:
        data, facts = tool_to_onnx(kind, source, tools)
    Path(args["out"]).write_bytes(data)
    return {"kind": kind, **facts}


def refused_pickle(name: str) -> PickleRefusedError:
    """Return the error for a pickle that was not allowed."""
    return PickleRefusedError(
        f"{name} is a Python pickle: reading it would run whatever code is in it",
        next_step="export the model to ONNX where it was trained, and publish that file",
    )
