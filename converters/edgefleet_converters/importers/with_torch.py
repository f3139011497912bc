"""Bring a PyTorch ExportedProgram (.pt2) to ONNX.

    python with_torch.py SOURCE.pt2 OUT.onnx ANSWERS.npz REPORT.json

Run as a file by the Python of the tool environment `torch`, so it imports nothing of edgefleet. ANSWERS holds the program's own
example inputs (`in.<name>`) and its answers to them (`out.<i>`). REPORT: `{versions}` or `{error: {message, next}}`.
Pickles inside the archive are read as plain tensors only (TORCH_FORCE_WEIGHTS_ONLY_LOAD): torch.export.load would run them.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
CURE = "load it with torch.export.load where it was made, or export it to ONNX there"


def main(source: str, out: str, answers: str, report: str) -> None:
    """Convert and write the three files."""
    if sys.platform == "linux":  # prctl PR_SET_PDEATHSIG: a conversion that is stopped leaves no tool running
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    import onnxscript
    import torch

    versions = {"torch": torch.__version__, "onnxscript": onnxscript.__version__}
    result: dict[str, Any] = {"versions": versions}
    step = "read"
    try:
        program = torch.export.load(source)
        step = "converted"
        made = torch.onnx.export(program, dynamo=True, verbose=False)
        made.save(out, external_data=False)
        step = "run"
        _write_answers(program, answers)
    except Exception as error:  # noqa: BLE001 - the file decides what torch raises; the text is shown to the user
        text = " ".join(str(error).split())[:400]
        result = {
            "versions": versions,
            "error": {
                "message": f"the exported program cannot be {step}: {type(error).__name__}: {text}",
                "next": CURE,
            },
        }
    Path(report).write_text(json.dumps(result), encoding="utf-8")


def _write_answers(program: Any, path: str) -> None:
    """Write the example inputs and what the program answers to them; an empty file when it carries no examples."""
    import numpy as np
    import torch
    from torch.utils import _pytree as pytree

    arrays: dict[str, Any] = {}
    if program.example_inputs:
        args, kwargs = program.example_inputs
        flat = pytree.tree_leaves((args, kwargs))
        with torch.no_grad():
            outputs = pytree.tree_leaves(program.module()(*args, **kwargs))
        names = program.graph_signature.user_inputs
        if all(isinstance(value, torch.Tensor) for value in (*flat, *outputs)) and len(names) == len(flat):
            arrays = {f"in.{name}": value.detach().numpy() for name, value in zip(names, flat, strict=True)}
            arrays |= {f"out.{index}": value.detach().numpy() for index, value in enumerate(outputs)}
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:5])
