"""Smaller forms of real models compiled to TFLite: bytes against float32, and the worst error of each form in each runtime.

Each form is calibrated on and compared with one made-up input, so this shows what loads, runs and is of the right size; how
accurate a form is on a task, the gate of `edgectl convert` says with data. Prints one JSON object: model -> runtime -> form ->
{ratio, error: largest difference as a share of the largest float32 answer, operators_int8: [in int8, of all]} or {failed: why}.

    python -m bench.tflite_forms [--model NAME]… [--runtime litert-2.3]…
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.converters.tflite.models import file_in
from tests.converters.tflite.test_real_models import CASES, prepared

from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.quantize.graph_rewrites import made_ready
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.static import quantize_static
from edgefleet_converters.tflite.quantize.weights import dynamic_range, float16_weights, weight_only
from edgefleet_converters.tflite.runtimes import RUNTIMES, TfliteRuntime
from edgefleet_converters.tflite.writer import write

Array = npt.NDArray[Any]


def main() -> int:
    """Make and run each form of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=sorted(CASES), help="default: all")
    parser.add_argument("--runtime", action="append", choices=sorted(RUNTIMES), help="default: both")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in args.model or sorted(CASES):
        _, fixed, arrays = prepared(name)
        figures[name] = {}
        for chosen in args.runtime or sorted(RUNTIMES):
            runtime = RUNTIMES[chosen]
            figures[name][chosen] = _forms(compile_model(fixed, runtime).graph, runtime, arrays)
    print(json.dumps({"bench": "tflite-forms", "models": figures}, indent=2))
    return 0


def _forms(graph: Graph, runtime: TfliteRuntime, arrays: dict[str, Array]) -> dict[str, Any]:
    def static() -> Graph:
        ready = made_ready(graph)
        return quantize_static(ready, observe(ready, lambda _model: [arrays], runtime.adapter), runtime.adapter)

    forms: dict[str, Callable[[], Graph]] = {
        "int8-static": static,
        "int8-dynamic": lambda: dynamic_range(graph, per_channel=True),
        "int8-weight-only": lambda: weight_only(graph),
        "fp16": lambda: float16_weights(graph),
    }
    data = write(graph)
    wanted = file_in(runtime, data, arrays)
    rows: dict[str, Any] = {}
    for form, make in forms.items():
        try:
            made = make()
            written = write(made)
            rows[form] = _row(made, len(written) / len(data), file_in(runtime, written, arrays), wanted)
        except Exception as error:  # noqa: BLE001 - what a runtime raises or dies of is the finding
            rows[form] = {"failed": f"{type(error).__name__}: {error}"[:200]}
    return rows


def _row(made: Graph, ratio: float, got: list[Array], wanted: list[Array]) -> dict[str, Any]:
    errors = [
        float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) / max(float(np.abs(b).max(initial=0.0)), 1e-9)
        for a, b in zip(got, wanted, strict=True)
    ]
    small = sum(op.outputs[0].dtype == "int8" for op in made.ops)
    return {
        "ratio": round(ratio, 4),
        "error": float(f"{max(errors):.3g}"),
        "operators_int8": [small, len(made.ops)],
    }


if __name__ == "__main__":
    sys.exit(main())
