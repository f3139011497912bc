"""What makes files in the zoo: edgefleet for two profiles, and each peer with its defaults. Each runs in the process of one row."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from bench._comparison_files import (
    Ask,
    Failed,
    Made,
    by_ai_edge_quantizer,
    by_edgefleet,
    by_quantize_dynamic,
    by_quantize_static,
)
from bench.real_models import feed
from tests.support.tool_environments import environment

from edgefleet_runtime.port import load

NNCF = ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0")
_CALIBRATED = 60
_NNCF = """
import sys
import nncf, numpy, onnx
source, out, data = sys.argv[1:]
with numpy.load(data) as arrays:
    kept = {key: arrays[key] for key in arrays.files}
count = len(next(iter(kept.values())))
rows = [{key: value[at] for key, value in kept.items()} for at in range(count)]
onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(rows), subset_size=count), out)
"""


@dataclass(frozen=True)
class ZooTool:
    """One way to make a file. runtime: that it is for; is_ours: rows hang on our code; takes: the format that it starts from."""

    name: str
    runtime: Literal["ort", "litert"]
    is_ours: bool
    takes: Literal["onnx", "tflite", "any"]
    make: Callable[[Ask, bytes], Made]


def by_nncf(ask: Ask) -> Made:
    """Return what NNCF's post-training quantization makes with its defaults. Raises Failed."""
    try:
        python = environment("nncf", NNCF)
    except (subprocess.CalledProcessError, OSError) as error:
        raise Failed("NNCF could not be installed") from error
    inputs, out, data = (
        load("ort", ask.source.read_bytes()).inputs,
        ask.place / "nncf.onnx",
        ask.place / "calibration.npz",
    )
    count = min(_CALIBRATED, len(next(iter(ask.case.data[0].values()))))
    feeds = [feed(inputs, ask.case.data[0], index) for index in range(count)]
    np.savez(data, **{name: np.stack([row[name] for row in feeds]) for name in feeds[0]})
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _NNCF, str(ask.source), str(out), str(data)],
            capture_output=True, text=True, cwd=ask.place, env=kept, timeout=900, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed("no end within 900 s") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Failed(f"exit code {done.returncode}: {said[-1][:160] if said else ''}")
    return Made(out.read_bytes(), "onnx")


def _quantizer(recipe: str) -> Callable[[Ask, bytes], Made]:
    return lambda ask, held: by_ai_edge_quantizer(ask, Made(held, "tflite"), recipe)


TOOLS: tuple[ZooTool, ...] = (
    ZooTool("edgefleet ort", "ort", True, "onnx", lambda ask, _: by_edgefleet(ask, "generic-x86_64-ort", "auto")),
    ZooTool("quantize_dynamic", "ort", False, "onnx", lambda ask, _: by_quantize_dynamic(ask)),
    ZooTool("quantize_static", "ort", False, "onnx", lambda ask, _: by_quantize_static(ask)),
    ZooTool("nncf", "ort", False, "onnx", lambda ask, _: by_nncf(ask)),
    ZooTool("edgefleet litert", "litert", True, "any", lambda ask, _: by_edgefleet(ask, "generic-x86_64-litert", "auto")),
    ZooTool("aeq weight-only", "litert", False, "tflite", _quantizer("weight_only_wi8_afp32")),
    ZooTool("aeq dynamic", "litert", False, "tflite", _quantizer("dynamic_wi8_afp32")),
    ZooTool("aeq static", "litert", False, "tflite", _quantizer("static_wi8_ai8")),
)  # fmt: skip
