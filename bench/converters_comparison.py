"""edgefleet compared with onnx2tf, ai-edge-quantizer and onnxruntime's default recipes, on real models: one table, and JSON.

For each model, on samples that nothing was tuned on:

* float: ONNX to TFLite by edgefleet and by onnx2tf: is a file written, does it load, are inputs and outputs those of the source
  (`strict`; channel-last ones are forgiven and said), largest difference as a share of the largest answer, seconds;
* small: edgefleet for ONNX and for TFLite, `quantize_dynamic` and `quantize_static` with their defaults, ai-edge-quantizer (dynamic and
  static int8) on edgefleet's float TFLite file: bytes, the task's figures, p50 as a ratio to float32 in the same runtime, run in turn
  in one process, seconds. Each .tflite file is run in LiteRT and in tflite-runtime 2.14.

onnx2tf and ai-edge-quantizer run in their tool environments (`edgectl tool install`); one that is missing is made when `--install` is
given, else its rows say so. The table goes to stderr, one JSON object to stdout.

    python -m bench.converters_comparison [digits] [magika] [ocr] [nudenet] [silero] [--part float|small] [--tools DIR] [--install]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench._comparison_files import (
    Ask,
    Failed,
    Made,
    by_ai_edge_quantizer,
    by_edgefleet,
    by_onnx2tf,
    by_quantize_dynamic,
    by_quantize_static,
    fixed_source,
)
from bench.real_models import CASES, Case, labels_of
from tests.support.real_models import cache_folder

from edgefleet_converters.errors import ConversionError
from edgefleet_converters.job_steps import JobSteps, ModelFile
from edgefleet_converters.sample_data import SampleSet
from edgefleet_converters.sandbox import Limits, Sandbox
from edgefleet_converters.tools.environment import look
from edgefleet_protocol.digest import sha256_hex
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import ModelRuntime, load
from edgefleet_runtime.quantization import real_values, stored_values

Row = dict[str, Any]
_TOOLS = ("onnx2tf", "ai-edge-quantizer")
MODELS = {name: make for name, make in CASES.items() if name != "silero-two-rates"}
"""That one needs an input fixed to a value, which the other tools cannot be asked for."""


def main() -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--tools", type=Path, default=cache_folder() / "tools", help="folder of tool environments")
    parser.add_argument("--install", action="store_true", help="make the tool environments that are missing")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--part", choices=["float", "small"], help="only this part; default: both")
    parser.add_argument("--samples", type=int, default=60, help="final samples of each model that are judged")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(MODELS))
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    logging.getLogger().setLevel(logging.ERROR)
    tools = {name: _tool(args.tools, name, install=args.install) for name in _TOOLS}
    models = {}
    for name in args.names or MODELS:
        models[name] = _compared(MODELS[name](), args)
        _tell(name, models[name])
    machine = {"cpus": os.cpu_count(), "load_1min": round(os.getloadavg()[0], 2), "python": sys.version.split()[0]}
    print(
        json.dumps({"bench": "converters-comparison", "machine": machine, "tools": tools, "models": models}, indent=2)
    )
    return 0


def _tool(root: Path, name: str, *, install: bool) -> str:
    """Return the version of a tool, or in words why it is not here."""
    if install and not look(root, name).is_usable:
        command = [sys.executable, "-m", "edgefleet_converters.tools.manage", "install", name, "--tools", str(root)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return f"not installed: {json.loads(done.stdout)['error']['message']}"
    found = look(root, name)
    if not found.is_usable:
        return f"not installed: edgectl tool install {name} --tools {root}"
    return f"{found.versions.get(found.tool.probe, '?')} on Python {found.python_version}"


def _compared(case: Case, args: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as folder, Sandbox(Limits(wall_s=300.0)) as sandbox:
        place = Path(folder)
        source = fixed_source(case, place / "fixed.onnx")
        final = {name: array[: args.samples] for name, array in case.data[2].items()}
        ask = Ask(case, source, args.tools, place)
        judge = _Judge(case, source, final, JobSteps(sandbox, place), args.runs)
        floats: dict[str, Row] = {}
        held = None
        compilers: dict[str, Callable[[Ask], Made]] = {"edgefleet": _float, "onnx2tf": by_onnx2tf}
        for name, make in compilers.items():
            if args.part == "small" and name != "edgefleet":
                continue
            made, floats[name] = _made(make, ask, judge.floating)
            held = made if name == "edgefleet" else held
        small: dict[str, Row] = {}
        ways: dict[str, Callable[[Ask], Made]] = {
            "edgefleet onnx": lambda ask: by_edgefleet(ask, "generic-x86_64-ort", "auto"),
            "quantize_dynamic": by_quantize_dynamic,
            "quantize_static": by_quantize_static,
            "edgefleet tflite": lambda ask: by_edgefleet(ask, "generic-x86_64-litert", "auto"),
            "edgefleet tflite 2.14": lambda ask: by_edgefleet(ask, "raspberry-pi-armv7-tflite", "auto"),
        }
        if held is not None:
            for recipe in ("dynamic_wi8_afp32", "static_wi8_ai8"):
                ways[f"ai-edge-quantizer {recipe}"] = _quantizer(held, recipe)
        for name, make in ways.items() if args.part != "float" else ():
            _, small[name] = _made(make, ask, judge.small(held))
        return {"source_bytes": case.model.stat().st_size, "goal": case.goal_text, "float": floats, "small": small}


def _float(ask: Ask) -> Made:
    return by_edgefleet(ask, "generic-x86_64-litert", "fp32")


def _quantizer(held: Made, recipe: str) -> Callable[[Ask], Made]:
    return lambda ask: by_ai_edge_quantizer(ask, held, recipe)


def _made(make: Callable[[Ask], Made], ask: Ask, judge: Callable[[Made], Row]) -> tuple[Made | None, Row]:
    started_s = time.monotonic()
    try:
        made = make(ask)
    except Failed as error:
        return None, {"failed": str(error), "seconds": round(time.monotonic() - started_s, 1)}
    row = {"bytes": len(made.data), "seconds": round(time.monotonic() - started_s, 1), **made.figures}
    return made, row | judge(made)


class _Judge:
    """Runs what was made, each file in a process of its own, and compares."""

    def __init__(self, case: Case, source: Path, final: dict[str, Any], workshop: JobSteps, runs: int) -> None:
        self._case, self._final, self._workshop, self._runs = case, final, workshop, runs
        self._source = load("ort", source.read_bytes())
        names = {spec.name for spec in self._source.inputs}
        arrays = {name: array for name, array in final.items() if name in names}
        if not arrays:
            arrays = {self._source.inputs[0].name: final.get("x", next(iter(final.values())))}
        self._samples = SampleSet(arrays)
        rows = [self._source.run(_feed(self._source, arrays, index)) for index in range(self._samples.n)]
        self._wanted = {spec.name: np.stack([row[spec.name] for row in rows]) for spec in self._source.outputs}

    def floating(self, made: Made) -> Row:
        """Return how far the answers are from the source's, by runtime."""
        row: Row = {}
        for runtime in ("litert", "tflite"):
            row[runtime] = self._float_in(runtime, made)
        return row

    def _float_in(self, runtime: str, made: Made) -> Row:
        try:
            got, strict = self._answers(runtime, made, forgiving=True)
        except (Failed, ConversionError) as error:
            return {"failed": str(error)[:200]}
        worst = 0.0
        for (name, wanted), value in zip(self._wanted.items(), got, strict=True):
            if value.size != wanted.size:
                return {
                    "failed": f"output {name!r} has the shape {list(value.shape[1:])}, not {list(wanted.shape[1:])}"
                }
            largest = max(float(np.abs(wanted).max()), 1e-9)
            worst = max(worst, float(np.abs(_like(value, wanted) - wanted).max()) / largest)
        return {"strict": strict, "max_rel_error": float(f"{worst:.3g}")}

    def small(self, held: Made | None) -> Callable[[Made], Row]:
        """Return a judge of the task's figures and the latency; held: the float TFLite file."""

        def judge(made: Made) -> Row:
            runtimes = ("ort",) if made.format == "onnx" else ("litert", "tflite")
            return {runtime: self._small_in(runtime, made, held) for runtime in runtimes}

        return judge

    def _small_in(self, runtime: str, made: Made, held: Made | None) -> Row:
        try:
            got, _ = self._answers(runtime, made, forgiving=False)
        except (Failed, ConversionError) as error:
            return {"failed": str(error)[:200]}
        names = list(self._wanted)
        flat = [
            {name: _rows(a) for name, a in zip(names, arrays, strict=True)} for arrays in (got, self._wanted.values())
        ]
        figures = {
            name: round(value, 5)
            for name, value in self._case.measure(flat[0], flat[1], labels_of(self._final)).items()
        }
        base = self._source if made.format == "onnx" else load(runtime, held.data) if held else None
        ratio = self._latency_ratio(base, load(runtime, made.data)) if base else None
        return figures | {"p50_to_fp32": ratio}

    def _answers(self, runtime: str, made: Made, *, forgiving: bool) -> tuple[list[Any], bool]:
        """Return the answers by position, and whether inputs and outputs were the source's."""
        path = self._workshop.folder / f"{sha256_hex(made.data)}.{made.format}"
        path.write_bytes(made.data)
        file = ModelFile(path, sha256_hex(made.data), len(made.data), {})
        inputs, outputs = self._workshop.tensors(file, runtime)
        if len(inputs) != len(self._source.inputs) or len(outputs) != len(self._source.outputs):
            raise Failed(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        arrays, strict = {}, True
        named = {spec.name for spec in inputs} == set(self._samples.arrays)
        for mine, theirs in zip(inputs, self._source.inputs, strict=True):
            array = self._samples.arrays[mine.name if named else theirs.name]
            wanted = [int(dim) if not isinstance(dim, str) else 1 for dim in mine.shape]
            if forgiving and list(array.shape[1:]) != wanted[1:] and array.ndim == len(wanted):
                array, strict = _channel_last(array, wanted), False
            arrays[mine.name] = stored_values(mine, array)
        answers = self._workshop.answers(file, runtime, SampleSet(arrays), key="bench")
        got = [real_values(spec, answers.outputs[spec.name]) for spec in answers.specs]
        same = all(
            a.size == b.size and _rows(a).shape == _rows(b).shape
            for a, b in zip(got, self._wanted.values(), strict=True)
        )
        return got, strict and same and named

    def _latency_ratio(self, base: ModelRuntime, small: ModelRuntime) -> float:
        spent: tuple[list[float], list[float]] = ([], [])
        for index in range(self._runs):
            for runtime, times in zip((base, small), spent, strict=True):
                pairs = zip(runtime.inputs, self._samples.arrays.values(), strict=True)
                arrays = {spec.name: stored_values(spec, array) for spec, array in pairs}
                feed = _feed(runtime, arrays, index % self._samples.n)
                started_s = time.perf_counter()
                runtime.run(feed)
                times.append(time.perf_counter() - started_s)
        return round(statistics.median(spent[1][3:]) / statistics.median(spent[0][3:]), 3)


def _feed(runtime: ModelRuntime, arrays: dict[str, Any], index: int) -> dict[str, Any]:
    return {spec.name: slice_sample(spec, arrays[spec.name], index) for spec in runtime.inputs}


def _rows(array: Any) -> Any:
    """Return answers with one row a sample, without a batch axis of one."""
    return array[:, 0] if array.ndim > 2 and array.shape[1] == 1 else array


def _channel_last(array: Any, wanted: list[int]) -> Any:
    moved = np.moveaxis(array, 1, -1)
    if list(moved.shape[1:]) != wanted[1:]:
        raise Failed(f"its input has the shape {wanted}")
    return np.ascontiguousarray(moved)


def _like(got: Any, wanted: Any) -> Any:
    """Return answers in the source's shape; channel-last ones turned back."""
    one, other = _rows(got), _rows(wanted)
    if one.shape == other.shape:
        return one.reshape(wanted.shape)
    if one.ndim == other.ndim and np.moveaxis(one, -1, 1).shape == other.shape:
        return np.moveaxis(one, -1, 1).reshape(wanted.shape)
    return one.reshape(wanted.shape)


def _tell(name: str, model: Row) -> None:
    """Print a model's part of the table to stderr."""
    lines = [f"\n{name} ({model['source_bytes'] / 1e6:.2f} MB; goal: {model['goal']})"]
    for part in ("float", "small"):
        for tool, row in model[part].items():
            if "failed" in row:
                lines.append(f"  {part:6}{tool:36}{row['seconds']:7.1f} s  failed: {row['failed'][:90]}")
                continue
            for runtime in ("ort", "litert", "tflite"):
                if runtime in row:
                    figures = ", ".join(f"{key} {value}" for key, value in row[runtime].items())
                    lines.append(
                        f"  {part:6}{tool:36}{row['seconds']:7.1f} s {row['bytes'] / 1e6:7.3f} MB  {runtime:7}{figures}"
                    )
    print("\n".join(lines), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
