"""C sources for boards whose model is linked into the firmware: the model as an array and the operators it needs. Pure but
for reading the model file.

Members: `model.h` (declarations and the arena's size), `model.cc` (the bytes, aligned to 16 as TFLite Micro asks), and
`model-ops.h` (a function that adds exactly the operators of the model to a `MicroMutableOpResolver`).
Source of the method names: `micro_mutable_op_resolver.h` of TFLite Micro.
"""

from collections.abc import Iterable
from typing import Final

from edgefleet_converters.job_steps import ModelFile
from edgefleet_profiles.profile import HardwareProfile

_BYTES_A_LINE: Final = 20
_ODD_METHODS: Final = {
    "AVERAGE_POOL_2D": "AveragePool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "CONV_2D": "Conv2D",
    "CUMSUM": "CumSum",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "L2_POOL_2D": "L2Pool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
"""Operators whose method is not simply their words in capitals."""


def c_array_files(profile: HardwareProfile, file: ModelFile, arena_bytes: int) -> dict[str, bytes]:
    """Return the C members of a bundle for TFLite Micro; none for another runtime. arena_bytes: measured. Reads the file."""
    if profile.runtime.name != "tflm":
        return {}
    operators = sorted(file.facts["operators"])
    return {
        "model.h": _header(file, arena_bytes).encode(),
        "model.cc": _array(file.path.read_bytes()).encode(),
        "model-ops.h": _resolver(operators).encode(),
    }


def resolver_method(operator: str) -> str:
    """Return the method of `MicroMutableOpResolver` that adds a TFLite operator: `CONV_2D` -> `AddConv2D`."""
    return "Add" + _ODD_METHODS.get(operator, "".join(word.capitalize() for word in operator.split("_")))


def _header(file: ModelFile, arena_bytes: int) -> str:
    variables = int(file.facts["operators"].get("VAR_HANDLE", 0))
    return f"""// Model sha256 {file.sha256}.
// The arena was measured on a 64-bit host with the reference kernels; kernels made for a board may need more.
#ifndef EDGEFLEET_MODEL_H_
#define EDGEFLEET_MODEL_H_

#define EDGEFLEET_ARENA_BYTES {arena_bytes}
#define EDGEFLEET_RESOURCE_VARIABLES {variables}  // at most; 0: no MicroResourceVariables are needed

extern const unsigned char edgefleet_model[];
extern const unsigned int edgefleet_model_len;

#endif
"""


def _array(data: bytes) -> str:
    starts = range(0, len(data), _BYTES_A_LINE)
    rows = (",".join(str(byte) for byte in data[start : start + _BYTES_A_LINE]) for start in starts)
    body = ",\n".join(rows)
    return f"""#include "model.h"

alignas(16) const unsigned char edgefleet_model[] = {{
{body}
}};
const unsigned int edgefleet_model_len = {len(data)};
"""


def _resolver(operators: Iterable[str]) -> str:
    methods = [resolver_method(operator) for operator in operators]
    checks = " &&\n         ".join(f"resolver.{method}() == kTfLiteOk" for method in methods)
    return f"""#ifndef EDGEFLEET_MODEL_OPS_H_
#define EDGEFLEET_MODEL_OPS_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using EdgefleetOpResolver = tflite::MicroMutableOpResolver<{len(methods)}>;

// Returns false when the resolver has no room.
inline bool EdgefleetAddOperators(EdgefleetOpResolver& resolver) {{
  return {checks};
}}

#endif
"""
