"""Measure which TFLite operators a runtime knows: `python -m tests.converters.operator_probe litert|tflite|tflm`.

litert, tflite: a file that only names an operator and a version loads exactly when the runtime has that pair. tflm looks an
operator up when a node uses it and says on stderr when it has none; versions mean nothing to it. Prints a YAML document as in
`firmware-profiles/edgefleet_profiles/operators`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgefleet_converters.tflite.operators import BUILTIN_NAMES, CUSTOM

TOP_VERSION = 24
_NOT_RUN = {CUSTOM, 51}
"""CUSTOM and DELEGATE are no operators of their own."""


def naming(code: int, version: int, *, used: bool) -> bytes:
    """Return a file with one operator code, used by a node float32 [1, 4] -> [1, 4] or by none."""
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.name = [_tensor("x"), _tensor("y")], [0], [1 if used else 0], b"m"
    graph.operators = []
    if used:
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
        graph.operators = [operator]
    operator_code = schema.OperatorCodeT()
    operator_code.builtinCode, operator_code.deprecatedBuiltinCode = code, min(code, 127)
    operator_code.version = version
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.description = 3, [operator_code], [graph], b"probe"
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(512)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(name: str) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), [1, 4], schema.TensorType.FLOAT32, 0
    return tensor


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
    for code, name in BUILTIN_NAMES.items():
        if code in _NOT_RUN:
            continue
        taken = []
        for version in range(1, TOP_VERSION + 1):
            try:
                Interpreter(model_content=naming(code, version, used=False))
            except ValueError:
                continue
            taken.append(version)
        if taken:
            assert taken == list(range(taken[0], taken[-1] + 1)), (name, taken)
            known[name] = taken[-1]
    return known


def _micro() -> dict[str, int | str]:
    importlib.import_module("tflite_micro.python.tflite_micro.runtime")  # once, before the children
    codes = [code for code in BUILTIN_NAMES if code not in _NOT_RUN]
    return {BUILTIN_NAMES[code]: "any" for code in codes if "Didn't find op" not in _told_by_micro(code)}


def _told_by_micro(code: int) -> str:
    """Return what TFLite Micro writes to stderr about a file; in a child, because some operators end the process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 2)
        try:
            from tflite_micro.python.tflite_micro import runtime

            runtime.Interpreter.from_bytes(naming(code, 1, used=True), arena_size=1 << 20)
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
