"""One trial: a model of the zoo, one tool, and what its file is worth on fresh samples. Each runs in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from bench._comparison_files import Ask, Failed, by_edgefleet, fixed_source
from bench.real_models import Case
from bench.zoo import task_metrics
from bench.zoo.entry import Array, Arrays, Entry, Seeds
from bench.zoo.table import ENTRIES
from bench.zoo.tools import TOOLS, ZooTool

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import ModelRuntime, load
from edgefleet_runtime.quantization import real_values, stored_values

Row = dict[str, Any]
PARTS = ("calibration", "gate", "fresh")
VERSION = 1
"""Of how a row is measured; rows of another version are made again."""
_LATENCY_S = 1.0
_WEIGHTS_SHARE = 0.6
_LARGE = 512


@dataclass(frozen=True)
class Material:
    """An entry's files in one half: `model.*`, three `.npz` of inputs and labels, facts. Made once, kept in the cache."""

    folder: Path

    @property
    def model(self) -> Path:
        """The source."""
        return next(path for path in self.folder.iterdir() if path.stem == "model")

    @property
    def facts(self) -> Row:
        """What is known of the source: digest, bytes, is_quantizable."""
        facts: Row = json.loads((self.folder / "facts.json").read_text(encoding="utf-8"))
        return facts

    def part(self, name: str) -> tuple[Arrays, Arrays]:
        """Return inputs and labels of a part of the data."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            kept = {key: arrays[key] for key in arrays.files}
        labels = {key: value for key, value in kept.items() if key.split(".")[0] == "y"}
        return {key: value for key, value in kept.items() if key not in labels}, labels


def apart(function: Any, *given: Any) -> Any:
    """Return what a function of this module returns in a new process. Raises BrokenProcessPool when that process dies."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_hush) as pool:
        return pool.submit(function, *given).result()


def _hush() -> None:
    """Send what native libraries print to nowhere: the table is on stderr."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)


def material(entry: Entry, seeds: Seeds, cache: Path, version: str, *, is_made: bool = True) -> Material:
    """Return an entry's files. version: of what makes them. is_made: made when they are not there, else FileNotFoundError.

    Raises what making raises.
    """
    key = hashlib.sha256(f"{version} {entry.name} {seeds}".encode()).hexdigest()[:20]
    folder = cache / "material" / f"{entry.name}-{key}"
    if not (folder / "facts.json").exists():
        if not is_made:
            raise FileNotFoundError("nothing is kept of it")
        folder.mkdir(parents=True, exist_ok=True)
        apart(_make, entry.name, seeds, str(folder))
    return Material(folder)


def _make(name: str, seeds: Seeds, where: str) -> None:
    entry, folder = ENTRIES[name], Path(where)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = entry.make(seeds.model, Path(scratch))
        model = made.replace(folder / f"model{made.suffix}")
    seen: set[bytes] = set()
    for part, count, seed in zip(PARTS, entry.sizes, (seeds.calibration, seeds.gate, seeds.fresh), strict=True):
        np.savez(folder / f"{part}.npz", **apart_from(seen, entry, seeds.model, count, seed))
    data = model.read_bytes()
    facts = {"sha256": sha256_hex(data), "bytes": len(data), "quantizable": is_quantizable(model)}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def apart_from(seen: set[bytes], entry: Entry, task: int, count: int, seed: int) -> Arrays:
    """Return `count` samples that no earlier part has, fewer where there are no more. seen: what they hold, and gains these."""
    for times in (1, 4, 16):  # where real files are few, the same ones come again
        data = entry.draw(task, times * count, seed).as_data(labelled=True)
        inputs = [array for name, array in data.items() if name.split(".")[0] != "y"]
        rows = [b"".join(np.ascontiguousarray(array[at]).tobytes() for array in inputs) for at in range(len(inputs[0]))]
        fresh = [at for at, row in enumerate(rows) if row not in seen][:count]
        if len(fresh) == count:
            break
    seen |= {rows[at] for at in fresh}
    return {name: array[fresh] for name, array in data.items()}


def is_quantizable(model: Path) -> bool:
    """Return whether float32 tensors of at least 512 values are most of the file: those that int8 makes a quarter of."""
    if model.suffix == ".tflite":
        from edgefleet_converters.tflite.load import read_facts

        data = model.read_bytes()
        return bool(read_facts(data)["precision"] == "fp32") and len(data) > 8 * _LARGE
    import onnx

    graph, large = onnx.load(model).graph, 0
    tensors = [*graph.initializer, *(a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute)]
    for tensor in tensors:
        if tensor.data_type == onnx.TensorProto.FLOAT and (count := int(np.prod(tensor.dims or [1]))) >= _LARGE:
            large += 4 * count
    return large >= _WEIGHTS_SHARE * model.stat().st_size


def held_tflite(entry: Entry, source: Material, code: str, *, is_made: bool = True) -> tuple[bytes, str]:
    """Return the float TFLite file that peers start from and latencies are held against, and why there is none.

    code: digest of our compiler. is_made: made when it is not there.
    """
    if source.model.suffix == ".tflite":
        return source.model.read_bytes(), ""
    path = source.folder / f"held-{code[:16]}.tflite"
    refusal = path.with_suffix(".txt")
    if not path.exists() and not refusal.exists():
        if not is_made:
            return b"", "nothing is kept of it"
        try:
            apart(_hold, entry.name, str(source.folder), str(path), str(refusal))
        except BrokenProcessPool:
            refusal.write_text("the process ended", encoding="utf-8")
    return (path.read_bytes(), "") if path.exists() else (b"", refusal.read_text(encoding="utf-8"))


def _hold(name: str, where: str, out: str, refusal: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        try:
            made = by_edgefleet(
                _ask(ENTRIES[name], Material(Path(where)), Path(place), Path()), "generic-x86_64-litert", "fp32"
            )
        except Exception as error:  # noqa: BLE001 - whatever it says stands in the row
            Path(refusal).write_text(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", encoding="utf-8")
            return
    Path(out).write_bytes(made.data)


def _ask(entry: Entry, source: Material, place: Path, tools: Path) -> Ask:
    parts = []
    for name in PARTS[:2]:
        inputs, labels = source.part(name)
        parts.append({**inputs, **(labels if entry.labelled else {})})
    case = Case(source.model, (parts[0], parts[1], parts[1]), None, lambda *_: {}, lambda _: True, "")
    fixed = source.model
    if fixed.suffix == ".onnx":
        fixed = fixed_source(case, place / "fixed.onnx")
    return Ask(case, fixed, tools, place)


def trial(entry: Entry, tool: ZooTool, source: Material, held: bytes, tools: Path) -> Row:
    """Return the row of one tool. A process that dies is a row too."""
    try:
        row: Row = apart(_trial, entry.name, tool.name, str(source.folder), held, str(tools))
    except BrokenProcessPool:
        return {"verdict": "aborted", "why": "the process of the tool or the runtime ended"}
    return row


def _trial(name: str, tool_name: str, where: str, held: bytes, tools: str) -> Row:
    entry, source = ENTRIES[name], Material(Path(where))
    tool = next(tool for tool in TOOLS if tool.name == tool_name)
    with tempfile.TemporaryDirectory() as place:
        ask = _ask(entry, source, Path(place), Path(tools))
        started_s = time.monotonic()
        made, row = None, Row()
        try:
            made = tool.make(ask, held)
        except Failed as error:
            row = {"verdict": "refused", "why": str(error)[:300]}
        except Exception as error:  # noqa: BLE001 - whatever the tool raises is its result
            row = {"verdict": "failed", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        row |= {"seconds": round(time.monotonic() - started_s, 1), "peak_mb": round(peak / 1024)}
    if made is None:
        return row
    row |= {
        "verdict": "made",
        **made.figures,
        "bytes": len(made.data),
        "ratio": round(len(made.data) / source.facts["bytes"], 4),
    }
    try:
        return row | _worth(entry, tool, source, made.data, held)
    except Exception as error:  # noqa: BLE001 - a file that does not run is the result
        return row | {"verdict": "broken", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _worth(entry: Entry, tool: ZooTool, source: Material, made: bytes, held: bytes) -> Row:
    """Return the loss on fresh samples and the latency as a ratio to float32 in the same runtime."""
    inputs, labels = source.part("fresh")
    origin = load("ort" if source.model.suffix == ".onnx" else "litert", source.model.read_bytes())
    small = load(tool.runtime, made)
    order = _order(origin, small)
    wanted = answers(origin, inputs, entry, [spec.name for spec in origin.inputs])
    got = dict(zip(wanted, answers(small, inputs, entry, order).values(), strict=True))
    got = {name: array.reshape(wanted[name].shape) for name, array in got.items()}
    lost, error = task_metrics.loss(entry.metric, got, wanted, labels)
    if not np.isfinite(lost):
        raise Failed("its answers are not finite")
    itself = task_metrics.METRICS[entry.metric](wanted, wanted, labels)
    base = origin if tool.runtime == "ort" else load("litert", held) if held else None
    ratio = _latency_ratio(base, small, inputs, (_order(origin, base), order)) if base else None
    return {
        "loss": round(lost, 6), "loss_error": round(error, 6), "limit": entry.limit, "within": bool(lost <= entry.limit),
        "source_cost": round(float(itself.mean()), 5), "latency_ratio": ratio,
    }  # fmt: skip


def _order(origin: ModelRuntime, small: ModelRuntime) -> list[str]:
    """Return the data's name of each input of the made file: its own, else that of its place."""
    names = [spec.name for spec in origin.inputs]
    if {spec.name for spec in small.inputs} == set(names):
        return [spec.name for spec in small.inputs]
    return names


def _slice(spec: TensorSpec, arrays: Arrays, name: str, index: int) -> Array:
    array = arrays.get(name, arrays.get("x", next(iter(arrays.values()))))
    sample = slice_sample(spec, stored_values(spec, array[index : index + 1]), 0)
    shape = [dim if isinstance(dim, int) and dim > 0 else -1 for dim in spec.shape]
    return (
        sample if sample.shape == tuple(shape) or shape.count(-1) > 0 else np.ascontiguousarray(sample.reshape(shape))
    )


def answers(runtime: ModelRuntime, arrays: Arrays, entry: Entry, order: list[str]) -> Arrays:
    """Return the answers to all samples in turn, as real values; with feedback a state is the file's own."""
    count = len(next(iter(arrays.values())))
    rows: list[list[Array]] = []
    positions: dict[str, int] = {}
    for index in range(count):
        feed = {spec.name: _slice(spec, arrays, name, index) for spec, name in zip(runtime.inputs, order, strict=True)}
        for name, output in entry.feedback.items():
            spec = runtime.inputs[order.index(name)]
            at = positions.setdefault(name, _place(runtime, output))
            before = rows[-1][at] if index % entry.steps else np.zeros_like(feed[spec.name])
            feed[spec.name] = stored_values(spec, before.reshape(feed[spec.name].shape).astype(np.float32))
        out = runtime.run(feed)
        rows.append([real_values(spec, out[spec.name]) for spec in runtime.outputs])
    return {spec.name: np.stack([row[at] for row in rows])[:, 0] if rows[0][at].ndim and rows[0][at].shape[0] == 1
            else np.stack([row[at] for row in rows]) for at, spec in enumerate(runtime.outputs)}  # fmt: skip


def _place(runtime: ModelRuntime, output: str) -> int:
    names = [spec.name for spec in runtime.outputs]
    return names.index(output) if output in names else len(names) - 1


def _latency_ratio(
    base: ModelRuntime, small: ModelRuntime, arrays: Arrays, orders: tuple[list[str], list[str]]
) -> float:
    """Return the ratio of the median processor times, runs in turn. orders: the data's names of the inputs of both."""
    feeds = [
        {spec.name: _slice(spec, arrays, name, 0) for spec, name in zip(runtime.inputs, names, strict=True)}
        for runtime, names in zip((base, small), orders, strict=True)
    ]
    spent: tuple[list[float], list[float]] = ([], [])
    end_s = time.monotonic() + _LATENCY_S
    while len(spent[0]) < 12 or (time.monotonic() < end_s and len(spent[0]) < 400):
        for runtime, feed, times in zip((base, small), feeds, spent, strict=True):
            started_s = time.thread_time()
            runtime.run(feed)
            times.append(time.thread_time() - started_s)
    return round(statistics.median(spent[1][3:]) / max(1e-9, statistics.median(spent[0][3:])), 3)
