"""The files that `converters_comparison` compares, each made by one tool as its user would make it."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from bench.real_models import Case, default_dynamic, default_static, feed

from edgefleet_converters.graph_passes import Pass, run_passes
from edgefleet_converters.onnx.passes.fix_shapes import FixShapes
from edgefleet_converters.onnx.passes.strip_inputs import StripStoredInputs
from edgefleet_converters.pipeline import convert
from edgefleet_converters.request import ConversionRequest, DataFiles, Options
from edgefleet_converters.tools.environment import look
from edgefleet_profiles import load as load_profile
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.port import ModelLoadError, load

_CALIBRATED = 60
_TIMEOUT_S = 900
_QUANTIZE = """
import sys
import numpy as np
from ai_edge_quantizer import quantizer, recipe
source, out, name, data = sys.argv[1:]
work = quantizer.Quantizer(source)
work.load_quantization_recipe(getattr(recipe, name)())
ranges = None
if work.need_calibration:
    with np.load(data) as arrays:
        kept = {key: arrays[key] for key in arrays.files}
    count = len(next(iter(kept.values())))
    ranges = work.calibrate({None: [{key: value[at] for key, value in kept.items()} for at in range(count)]})
work.quantize(ranges).export_model(out, overwrite=True)
"""


class Failed(Exception):
    """A tool made no file, or one that cannot be compared: in words."""


@dataclass(frozen=True)
class Ask:
    """What each tool is given. source: the model with fixed shapes, where a tool needs them; place: a folder for files."""

    case: Case
    source: Path
    tools: Path
    place: Path


@dataclass(frozen=True)
class Made:
    """A file. figures: further ones for its row."""

    data: bytes
    format: str
    figures: dict[str, Any] = field(default_factory=dict)


def fixed_source(case: Case, path: Path) -> Path:
    """Write the model with the shapes of its data fixed where it still loads, nothing else changed, and return the path."""
    model, arrays = onnx.load(case.model), case.data[2]
    names = [value.name for value in model.graph.input]
    shapes = {}
    for name in names:
        array = arrays.get(name, arrays.get("x", next(iter(arrays.values()))) if len(names) == 1 else None)
        declared = next(v for v in model.graph.input if v.name == name).type.tensor_type.shape.dim
        if array is not None and any(not dim.HasField("dim_value") or dim.dim_value < 1 for dim in declared):
            sample = list(array.shape[1:])
            shapes[name] = sample if len(sample) == len(declared) else [1, *sample]
    choices: list[list[Pass[onnx.ModelProto]]] = [[StripStoredInputs(), FixShapes(shapes)], [StripStoredInputs()]]
    for passes in choices:
        path.write_bytes(run_passes(model, passes).model.SerializeToString())
        try:
            load("ort", path.read_bytes())
        except ModelLoadError:  # a branch that these shapes never take may not fit them
            continue
        break
    return path


def by_edgefleet(ask: Ask, profile: str, precision: Literal["auto", "fp32", "fp16"]) -> Made:
    """Return what `edgectl convert` offers. Raises Failed with its refusal."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, arrays in zip(("calibration", "eval"), ask.case.data, strict=False):
            files[name] = str(Path(folder) / f"{name}.npz")
            np.savez(files[name], **arrays)
        # What is compared is the conversion: a small board's memory is not in question.
        wide = msgspec.structs.replace(load_profile(profile), free_ram_budget_mb=0, ram_mb=0)
        request = ConversionRequest(
            model="bench", version="1.0.0", source=ask.case.model, profiles=(wide,), data=DataFiles(**files),
            options=Options(metric=ask.case.metric, precision=precision), out_dir=Path(folder) / "out",
        )  # fmt: skip
        report = convert(request, lambda _: None)
        if not report.bundles:
            raise Failed(f"refused: {report.refused[0].reason}")
        row = report.bundles[0]
        member = "model.onnx" if profile.endswith("-ort") else "model.tflite"
        data = open_bundle(io.BytesIO(Path(row.path).read_bytes())).read(member)
        gate = {"metric": row.metric.name, "drop": round(row.metric.drop, 6), "n": row.metric.n}
        figures = {"candidate": row.candidate, "verdict": row.verdict, "gate": gate}
        return Made(data, member.removeprefix("model."), figures)


def by_onnx2tf(ask: Ask) -> Made:
    """Return onnx2tf's float32 file, made with its defaults. Raises Failed."""
    out = ask.place / "onnx2tf"
    _in_tool(ask, "onnx2tf", ["-m", "onnx2tf", "-i", str(ask.source), "-o", str(out), "-n"])
    files = sorted(out.glob("*_float32.tflite"))
    if not files:
        raise Failed("it wrote no float32 file")
    return Made(files[0].read_bytes(), "tflite")


def by_ai_edge_quantizer(ask: Ask, held: Made, recipe: str) -> Made:
    """Return what ai-edge-quantizer makes of a float TFLite file with one of its own recipes. Raises Failed."""
    source, out, data = ask.place / "held.tflite", ask.place / f"{recipe}.tflite", ask.place / "calibration.npz"
    source.write_bytes(held.data)
    runtime = load("litert", held.data)
    count = min(_CALIBRATED, len(next(iter(ask.case.data[0].values()))))
    feeds = [feed(runtime.inputs, ask.case.data[0], index) for index in range(count)]
    np.savez(data, **{name: np.stack([sample[name] for sample in feeds]) for name in feeds[0]})
    _in_tool(ask, "ai-edge-quantizer", ["-I", "-c", _QUANTIZE, str(source), str(out), recipe, str(data)])
    return Made(out.read_bytes(), "tflite")


def by_quantize_dynamic(ask: Ask) -> Made:
    """Return what onnxruntime's dynamic quantizer makes with its defaults. Raises Failed."""
    return _quantized(ask, lambda out: default_dynamic(ask.case, out))


def by_quantize_static(ask: Ask) -> Made:
    """Return what onnxruntime's static quantizer makes with its defaults. Raises Failed."""
    return _quantized(ask, lambda out: default_static(ask.case, out, _CALIBRATED))


def _quantized(ask: Ask, quantize: Callable[[Path], None]) -> Made:
    out = ask.place / "default.onnx"
    try:
        quantize(out)
    except Exception as error:  # whatever the quantizer raises is its result
        raise Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error
    return Made(out.read_bytes(), "onnx")


def _in_tool(ask: Ask, name: str, arguments: list[str]) -> None:
    """Run the Python of a tool environment. Raises Failed with the last line it said."""
    found = look(ask.tools, name)
    if not found.is_usable:
        raise Failed(f"the tool environment {name} is not installed")
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    try:
        done = subprocess.run(
            [str(found.python), *arguments], capture_output=True, text=True, cwd=ask.place, env=kept, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end within {_TIMEOUT_S} s") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Failed(f"exit code {done.returncode}: {said[-1][:160] if said else ''}")
