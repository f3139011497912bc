"""SHAP values of tables, by the package `shap` in its tool environment; the model stays here and is asked over a pipe.

Rules:
1. A hidden column takes its values from each of the comparison samples (the package's `Independent` masker, which is the *interventional*
   SHAP value). Up to 10 columns all sets are asked for, so values are exact; beyond, permutations are drawn.
2. The importance of a column is the mean of the absolute value over samples, of the class that the model answers for each, or of all
   numbers that it answers. Its interval at 95 % is that of the mean over the samples.
"""

import contextlib
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.errors import ToolFailedError
from edgefleet_converters.importers.tool_process import tool_environment
from edgefleet_converters.tools.environment import needed

Floats = npt.NDArray[np.float64]
Asked = Callable[[Floats], Floats]
"""Samples [n, columns] -> answers [n, width]."""

TOOL: Final = "shap"
MOST_COLUMNS: Final = 64
PERMUTATIONS: Final = 10
_MOST_LINE: Final = 64 * 1024
_NORMAL: Final = 1.96


@dataclass(frozen=True)
class ShapValues:
    """values: [samples, columns, width of an answer]. exact: whether all sets were asked for."""

    values: Floats
    exact: bool
    versions: dict[str, str]


class ShapRow(msgspec.Struct, frozen=True, kw_only=True):
    """The importance of one column: mean of |SHAP|, with its interval at 95 %."""

    name: str
    value: float
    low: float
    high: float


def shap_values(
    tools: Path | None, scratch: Path, rows: Floats, others: Floats, model: Asked, seed: int = 0
) -> ShapValues:
    """Return the SHAP values of samples [n, columns] against others. Starts a process and waits for it.

    Raises ToolMissingError, ToolFailedError, and whatever the model raises.
    """
    environment = needed(tools, TOOL, "SHAP")
    command = [str(environment.python), "-I", str(Path(__file__).with_name("with_shap.py"))]
    columns = rows.shape[1]
    head = {
        "rows": len(rows), "others": len(others), "columns": columns, "seed": seed,
        "evaluations": PERMUTATIONS * (2 * columns + 1),
    }  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=scratch, env=tool_environment(scratch)
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(head).encode() + b"\n" + _packed(rows) + _packed(others))
            return _answered(child.stdin, child.stdout, (len(rows), columns), model)
        except (BrokenPipeError, ValueError) as error:
            raise ToolFailedError(
                f"the tool {TOOL} ended before it answered: {error}",
                next_step=f"`edgectl tool install {TOOL}` makes it again",
            ) from error
        finally:
            child.kill()
            with contextlib.suppress(BrokenPipeError):  # what it did not read any more
                child.stdin.close()


def _answered(stdin: IO[bytes], stdout: IO[bytes], shape: tuple[int, int], model: Asked) -> ShapValues:
    n, columns = shape
    while True:
        stdin.flush()
        line = stdout.readline(_MOST_LINE)
        if line.startswith(b"ask "):
            answers = model(_read(stdout, int(line[4:]), columns))
            stdin.write(b"%d\n" % answers.shape[1] + _packed(answers))
            continue
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise ToolFailedError(f"the tool {TOOL} failed: {told['error']}", next_step=f"edgectl tool install {TOOL}")
        values = _read(stdout, n, columns * int(told["width"])).reshape(n, columns, -1)
        return ShapValues(values, bool(told["exact"]), {str(k): str(v) for k, v in told["versions"].items()})


def shap_rows(values: Floats, names: Sequence[str]) -> list[ShapRow]:
    """Return the importance of each column, the largest first. values: of the answer that is explained, [samples, columns]."""
    size = np.abs(values)
    n = len(size)
    means = size.mean(axis=0)
    errors = size.std(axis=0, ddof=1) / sqrt(n) if n > 1 else np.zeros_like(means)
    rows = [
        ShapRow(name=name, value=float(mean), low=float(mean - _NORMAL * error), high=float(mean + _NORMAL * error))
        for name, mean, error in zip(names, means, errors, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.value)


def _packed(values: Floats) -> bytes:
    return np.ascontiguousarray(values, dtype="<f8").tobytes()


def _read(stream: IO[bytes], rows: int, width: int) -> Floats:
    data = stream.read(8 * rows * width)
    return np.frombuffer(data, dtype="<f8").reshape(rows, width).astype(np.float64)
