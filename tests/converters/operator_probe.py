"""Measure which TFLite operators a runtime knows: `python -m tests.converters.operator_probe litert|tflite|tflm`.

litert, tflite: a file that only names an operator and a version loads exactly when the runtime has that pair. tflm looks an
operator up when a node uses it and says on stderr when it has none; versions mean nothing to it. Prints a YAML document as in
`firmware-profiles/edgefleet_profiles/operators`.
"""

from __future__ import annotations

import importlib
import os
import sys

from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, CUSTOM
from tests.converters.int8_graphs import TYPES, tensor
from tests.converters.tflite_graphs import code, operator, pack

TOP_VERSION = 24
_NOT_RUN = {CUSTOM, 51}
"""CUSTOM and DELEGATE are no operators of their own."""


def naming(number: int, version: int, *, used: bool) -> bytes:
    """Return a file with one operator code, used by a node float32 [1, 4] -> [1, 4] or by none."""
    tensors = [tensor(name, [1, 4], TYPES["float32"], scales=[]) for name in ("x", "y")]
    operators = [operator([0], [1])] if used else []
    return pack(tensors, operators, [code(number, version)], [], [0], [1 if used else 0])


def measured(runtime: str) -> dict[str, int | str]:
    """Return operator -> highest version that the runtime knows ("any" = it looks at no version), operators by name."""
    known = _micro() if runtime == "tflm" else _with_versions(runtime)
    return dict(sorted(known.items()))


def _with_versions(runtime: str) -> dict[str, int | str]:
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    known: dict[str, int | str] = {}
    for number, name in BUILTIN_NAMES.items():
        if number in _NOT_RUN:
            continue
        taken = []
        for version in range(1, TOP_VERSION + 1):
            try:
                Interpreter(model_content=naming(number, version, used=False))
            except ValueError:
                continue
            taken.append(version)
        if taken:
            assert taken == list(range(taken[0], taken[-1] + 1)), (name, taken)
            known[name] = taken[-1]
    return known


def _micro() -> dict[str, int | str]:
    importlib.import_module("tflite_micro.python.tflite_micro.runtime")  # once, before the children
    numbers = [number for number in BUILTIN_NAMES if number not in _NOT_RUN]
    return {BUILTIN_NAMES[number]: "any" for number in numbers if "Didn't find op" not in _told_by_micro(number)}


def _told_by_micro(number: int) -> str:
    """Return what TFLite Micro writes to stderr about a file; in a child, because some operators end the process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 2)
        try:
            from tflite_micro.python.tflite_micro import runtime

            runtime.Interpreter.from_bytes(naming(number, 1, used=True), arena_size=1 << 20)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    return told


if __name__ == "__main__":
    for name, version in measured(sys.argv[1]).items():
        print(f"{name}: {version}")
