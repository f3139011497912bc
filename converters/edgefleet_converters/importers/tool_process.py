"""Run a tool environment's Python on a source, inside the sandbox of the step that calls this.

The tool is a child of the step: it has the step's limits on memory, time and files, its process group and its file rules, and
dies with it. Its answers are files in the step's scratch folder; nothing that it prints is read.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from edgefleet_converters.errors import ConversionError, ToolFailedError
from edgefleet_converters.importers.agreement import Array, Samples, check_agreement
from edgefleet_converters.importers.encoder_decoder.writer_parts import joined, loop_facts, rules_of, wanted
from edgefleet_converters.sample_data import load_arrays
from edgefleet_converters.tools.environment import needed

TOOL_OF: Final = {
    "pt2": ("torch", "with_torch.py"),
    "safetensors": ("torch", "with_transformers.py"),
    "keras": ("tensorflow", "with_tensorflow.py"),
    "skops": ("sklearn", "with_sklearn.py"),
}
"""Kind of source -> its tool and the file next to this one that the tool's Python runs."""
MAX_REPORT_BYTES: Final = 64 * 1024


def tool_to_onnx(kind: str, source: Path, tools: Path | None) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX bytes of a source and `{tool, versions, compared}`. Blocks for seconds to minutes.

    kind: a key of TOOL_OF. Raises ToolMissingError, ToolFailedError, ImportDiffersError.
    """
    # Settings that cannot be honoured are said before a minute is spent.
    rules = rules_of(source.parent) if kind == "safetensors" else None
    data, result, arrays = run_tool(kind, source, tools)
    facts: dict[str, Any] = {"tool": TOOL_OF[kind][0], "versions": dict(result.get("versions") or {})}
    if rules is not None:
        data = joined(data, Path.cwd() / "tool.onnx.step", int(result["kept"]), rules)
        arrays = wanted(arrays, rules)
        facts |= loop_facts(rules)
    return data, facts | {"compared": _compared(data, arrays, source.name, is_begun=rules is not None)}


def run_tool(
    kind: str, source: Path, tools: Path | None, errors: Mapping[str, type[ConversionError]] = MappingProxyType({})
) -> tuple[bytes, dict[str, Any], dict[str, Array]]:
    """Return the ONNX bytes of a source, what the tool reported, and its samples: `in.<input>`, `out.<position>`.

    errors: what is raised for a kind of refusal that the tool names. Raises ToolMissingError, ToolFailedError.
    """
    name, script = TOOL_OF[kind]
    environment = needed(tools, name, source.name)
    scratch = Path.cwd()
    out, answers, report = (scratch / file for file in ("tool.onnx", "tool.npz", "tool.json"))
    command = [
        str(environment.python),
        "-I",
        str(Path(__file__).with_name(script)),
        str(source),
        str(out),
        str(answers),
        str(report),
    ]
    done = subprocess.run(
        command,
        env=tool_environment(scratch),
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    result = _report(report)
    if done.returncode != 0 or not result:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:240]
        raise ToolFailedError(
            f"the tool {name} ended with code {done.returncode} on {source.name}: {last}",
            next_step=f"export the model to ONNX where it was made; `edgectl tool list` shows the versions of {name}",
        )
    error = result.get("error")
    if isinstance(error, dict):
        refusal = errors.get(str(error.get("kind")), ToolFailedError)
        raise refusal(str(error.get("message"))[:600], next_step=str(error.get("next"))[:300])
    return out.read_bytes(), result, load_arrays(answers, "tool's")


def _compared(model: bytes, arrays: dict[str, Array], name: str, *, is_begun: bool) -> dict[str, Any]:
    inputs = {key.removeprefix("in."): value for key, value in arrays.items() if key.startswith("in.")}
    outputs = [arrays[f"out.{index}"] for index in range(len(arrays) - len(inputs))]
    if not outputs:
        return {"samples": 0, "reason": "the source carries no example inputs"}
    return check_agreement(model, Samples(inputs, outputs, is_begun), name)


def _report(path: Path) -> dict[str, Any]:
    """Return what the tool wrote; empty when it wrote nothing that can be read. The tool ran a stranger's file."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_REPORT_BYTES:
            return {}
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def tool_environment(scratch: Path) -> dict[str, str]:
    """Return the tool's environment: nothing of ours but what limits its threads and tells it where it may write."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        "PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1",
    } | threads  # fmt: skip
