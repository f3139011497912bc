"""Real models made small: what the pipeline offers, compared with onnxruntime's default quantizers on the same data.

Models and pictures come out of public packages (`tests.support.real_models`, downloaded once); other inputs are made here
(`tests.support.real_data`). For each model: the chosen candidate with bytes and the metric that the goal names, measured on data
that neither calibration nor gate saw; the latency ratio to float32, runs interleaved in one process; wall and processor seconds of
the whole conversion, memory of its largest process, seconds of the same conversion again (`again_s`); with `--twice` whether a
second one from nothing gives the same bytes; the same figures for `quantize_dynamic` and `quantize_static` with their defaults.
Latencies are processor time of the one thread that computes, which a busy machine stretches less. Each model has a process
of its own. Prints one JSON object.

    python bench/real_models.py [digits] [magika] [ocr] [nudenet] [silero] [silero-two-rates] [--profile generic-x86_64-ort]
        [--runs 60] [--twice]
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import real_data  # noqa: E402
from tests.support.real_models import MAGIKA, NUDENET, RAPIDOCR_REC, SILERO_VAD, SILERO_VAD_16K, Wheel, real_model  # noqa: E402

from edgefleet_converters.check.detection import best_scores, detection_f1  # noqa: E402
from edgefleet_converters.check.metrics import judge  # noqa: E402
from edgefleet_converters.pipeline import convert  # noqa: E402
from edgefleet_converters.report import ConversionReport  # noqa: E402
from edgefleet_converters.request import ConversionRequest, DataFiles, Options  # noqa: E402
from edgefleet_profiles import load as load_profile  # noqa: E402
from edgefleet_profiles.profile import HardwareProfile  # noqa: E402
from edgefleet_protocol.bundle import open_bundle  # noqa: E402
from edgefleet_protocol.manifest import TensorSpec  # noqa: E402
from edgefleet_runtime.golden import slice_sample  # noqa: E402
from edgefleet_runtime.port import ModelRuntime  # noqa: E402
from edgefleet_runtime.port import load as load_model  # noqa: E402

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A model with its data and goal. metric: of the gate. measure: figures on the last part of the data; goal: what they hold.

    data: (calibration, gate, final), which share no sample. values: inputs of the source that always have one value.
    """

    model: Path
    data: tuple[Arrays, Arrays, Arrays]
    metric: str | None
    measure: Callable[[Arrays, Arrays, Arrays], dict[str, float]]
    goal: Callable[[dict[str, float]], bool]
    goal_text: str
    values: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Run the benchmark and print its figures; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--profile", default="generic-x86_64-ort")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--twice", action="store_true", help="convert once more and compare the bundles")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(CASES))
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(CASES)}")
    rows = {name: _apart(name, args.profile, args.runs, twice=args.twice) for name in args.names or CASES}
    held = sum(row["goal_held"] for row in rows.values())
    print(
        json.dumps(
            {
                "bench": "real_models", "ok": held == len(rows), "held": held, "of": len(rows), "profile": args.profile,
                "machine": {"cpus": os.cpu_count(), "load_1min": round(os.getloadavg()[0], 2)}, "models": rows,
            },
            indent=2,
        )
    )  # fmt: skip
    return 0 if held == len(rows) else 1


def _apart(name: str, profile: str, runs: int, *, twice: bool) -> dict[str, Any]:
    """Return the row of a model, made in a process of its own: peak memory is that of the largest process so far."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_row, name, profile, runs, twice=twice).result()


def _row(name: str, profile: str, runs: int, *, twice: bool) -> dict[str, Any]:
    logging.getLogger().setLevel(logging.ERROR)
    case = CASES[name]()
    with tempfile.TemporaryDirectory() as folder:
        request = _request(case, profile, Path(folder))
        report, spent = _converted(request)
        if not report.bundles:
            return {"goal": case.goal_text, "goal_held": False, "refused": report.refused[0].reason, **spent}
        bundle = report.bundles[0]
        spent["again_s"] = _converted(request)[1]["seconds"]
        if twice:
            other, _ = _converted(replace(request, out_dir=Path(folder) / "other"))
            spent["same_bytes_twice"] = other.bundles[0].sha256 == bundle.sha256
        opened = open_bundle(io.BytesIO(Path(bundle.path).read_bytes()))
        made = opened.read(opened.manifest.model_member)
        rejected = {c.id: c.reason for c in report.profiles[0].candidates if c.verdict == "rejected"}
        figures = _figures(case, made, runs, runtime=bundle.runtime)
        defaults = {name: _default(case, recipe, runs) for name, recipe in DEFAULTS.items()}
    return {
        "goal": case.goal_text, "goal_held": case.goal(figures), "candidate": bundle.candidate, "precision": bundle.precision,
        **figures, "source_bytes": case.model.stat().st_size, "gate": {"metric": bundle.metric.name, "drop": bundle.metric.drop},
        **spent, "stages_s": report.profiles[0].stages_s, "onnxruntime_defaults": defaults, "rejected": rejected,
    }  # fmt: skip


def _request(case: Case, profile: str, folder: Path) -> ConversionRequest:
    data = [{name: array for name, array in part.items() if name not in case.values} for part in case.data]
    files = {
        name: _saved(arrays, folder / f"{name}.npz")
        for name, arrays in zip(("calibration", "eval"), data, strict=False)
    }
    return ConversionRequest(
        model="bench", version="1.0.0", source=case.model, profiles=(_here(profile),), data=DataFiles(**files),
        options=Options(metric=case.metric, values=case.values), out_dir=folder / "out",
    )  # fmt: skip


def _converted(request: ConversionRequest) -> tuple[ConversionReport, dict[str, Any]]:
    """Return the report and what it took. peak_rss_bytes: of the largest process, this one included."""
    before, started_s = _cpu_s(), time.monotonic()
    report = convert(request, _tell)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = time.monotonic() - started_s
    return report, {
        "seconds": round(seconds, 1), "cpu_s": round(_cpu_s() - before, 1), "peak_rss_bytes": peak * 1024,
    }  # fmt: skip


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _here(name: str) -> HardwareProfile:
    """Return the profile with what this host's processor has more: the bench is about a board that is this host."""
    profile = load_profile(name)
    flags = Path("/proc/cpuinfo")
    has = flags.exists() and "vnni" in flags.read_text(encoding="utf-8")
    return msgspec.structs.replace(profile, features=[*profile.features, *(["vnni"] if has else [])])


def _figures(case: Case, made: bytes, runs: int, *, runtime: str = "ort") -> dict[str, float]:
    """Return bytes, the case's own figures and the latency as a ratio to the source, on samples that nothing was tuned on.

    runtime: of the made file; the source is run in onnxruntime.
    """
    source, small = load_model("ort", case.model.read_bytes()), load_model(runtime, made)
    arrays = case.data[2]
    wanted, got = _answers(source, arrays), _answers(small, arrays)
    labels = labels_of(arrays)
    got = dict(zip(wanted, got.values(), strict=True))
    slow_ms, quick_ms = _interleaved(source, small, arrays, runs)
    return {
        "bytes": len(made), "ratio": round(len(made) / case.model.stat().st_size, 4),
        **{name: round(value, 5) for name, value in case.measure(got, wanted, labels).items()},
        "fp32_ms": round(slow_ms, 3), "ms": round(quick_ms, 3), "times_faster": round(slow_ms / quick_ms, 2),
    }  # fmt: skip


def _answers(runtime: ModelRuntime, arrays: Arrays) -> Arrays:
    count = len(next(iter(arrays.values())))
    rows = [runtime.run(feed(runtime.inputs, arrays, index)) for index in range(count)]
    return {spec.name: np.concatenate([row[spec.name] for row in rows]) for spec in runtime.outputs}


def labels_of(arrays: Arrays) -> Arrays:
    """Return the arrays named `y` or `y.NAME`, by NAME."""
    return {name.removeprefix("y").removeprefix("."): a for name, a in arrays.items() if name.split(".")[0] == "y"}


def feed(inputs: Sequence[TensorSpec], arrays: Arrays, index: int) -> Arrays:
    """Return a sample as a model takes it. arrays: by input name; of `x`, or of the first, where an input has none."""
    only = arrays.get("x", next(iter(arrays.values())))
    return {spec.name: slice_sample(spec, arrays.get(spec.name, only), index) for spec in inputs}


def _interleaved(one: ModelRuntime, other: ModelRuntime, arrays: Arrays, runs: int) -> tuple[float, float]:
    """Return the median processor ms of both, run in turn so that a busy machine slows both."""
    spent: tuple[list[float], list[float]] = ([], [])
    for index in range(runs):
        for runtime, times in zip((one, other), spent, strict=True):
            sample = feed(runtime.inputs, arrays, index % len(next(iter(arrays.values()))))
            started_s = time.thread_time()
            runtime.run(sample)
            times.append((time.thread_time() - started_s) * 1e3)
    return statistics.median(spent[0][3:]), statistics.median(spent[1][3:])


def _default(case: Case, recipe: Callable[[Case, Path], None], runs: int) -> dict[str, Any]:
    """Return the figures of a default recipe of onnxruntime, or why it has none."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "default.onnx"
        try:
            recipe(case, out)
            figures: dict[str, Any] = _figures(case, out.read_bytes(), max(10, runs // 4))
        except Exception as error:  # noqa: BLE001 - whatever the quantizer raises is its result
            return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}", "goal_held": False}
        return figures | {"goal_held": case.goal(figures)}


def default_dynamic(case: Case, out: Path) -> None:
    """Write what onnxruntime's dynamic quantizer makes with its defaults. Raises whatever that raises."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(case.model, out)


def default_static(case: Case, out: Path, samples: int = 100) -> None:
    """Write what the static quantizer makes with its defaults on so many samples. Raises whatever that raises."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    inputs, arrays = load_model("ort", case.model.read_bytes()).inputs, case.data[0]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[Arrays] = (
                feed(inputs, arrays, index) for index in range(min(samples, len(next(iter(arrays.values())))))
            )

        def get_next(self) -> Arrays | None:
            return next(self._feeds, None)

    quantize_static(case.model, out, Reader())


DEFAULTS: dict[str, Callable[[Case, Path], None]] = {
    "quantize_dynamic": default_dynamic,
    "quantize_static": default_static,
}


def _saved(arrays: Arrays, path: Path) -> str:
    np.savez(path, **arrays)
    return str(path)


def _tell(event: dict[str, Any]) -> None:
    if event["type"] in ("progress", "refused"):
        print(
            f"{event['profile']} {event.get('stage', 'refused')}: {event.get('message', '')}",
            file=sys.stderr,
            flush=True,
        )


def _digits() -> Case:
    folder = ROOT / "examples" / "digits"
    parts = [dict(np.load(folder / "data" / f"{name}.npz")) for name in ("calibration", "eval", "device")]

    def measure(got: Arrays, wanted: Arrays, labels: Arrays) -> dict[str, float]:
        score = judge("top1", got, wanted, labels)
        return {"top1": score.value, "top1_fp32": score.baseline}

    return Case(
        folder / "digits-1.1.0.onnx", (parts[0], parts[1], parts[2]), None, measure,
        lambda f: f["ratio"] <= 0.3 and f["top1"] >= f["top1_fp32"] - 0.005, "<= 0.3 of the bytes at <= 0.5 % loss",
    )  # fmt: skip


def _magika() -> Case:
    rows = real_data.file_heads(700)
    data = ({"bytes": rows[:128]}, {"bytes": rows[128:378]}, {"bytes": rows[378:]})

    def measure(got: Arrays, wanted: Arrays, labels: Arrays) -> dict[str, float]:
        return {"agreement": judge("agreement", got, wanted, {}).value}

    return Case(
        real_model(MAGIKA), data, "agreement", measure, lambda f: f["agreement"] >= 0.99 and f["bytes"] <= 1.2e6,
        "agreement >= 99 % at <= 1.2 MB",
    )  # fmt: skip


def _ocr() -> Case:
    data = tuple({"x": real_data.text_lines(n, seed=seed)} for seed, n in enumerate((80, 100, 100)))

    def measure(got: Arrays, wanted: Arrays, labels: Arrays) -> dict[str, float]:
        return {"sequence": judge("sequence", got, wanted, {}).value}

    return Case(
        real_model(RAPIDOCR_REC), (data[0], data[1], data[2]), "sequence", measure,
        lambda f: f["sequence"] >= 0.99 and f["bytes"] <= 6e6, "sequence agreement >= 99 % at <= 6 MB",
    )  # fmt: skip


def _nudenet() -> Case:
    data = tuple({"images": real_data.photo_crops(n, seed=seed)} for seed, n in enumerate((60, 40, 40)))

    def measure(got: Arrays, wanted: Arrays, labels: Arrays) -> dict[str, float]:
        one, other = next(iter(got.values())), next(iter(wanted.values()))
        return {
            "score_mae": judge("scores", got, wanted, {}).value,
            "class_score_mae": float(np.abs(best_scores(one) - best_scores(other)).mean()),
            "f1": detection_f1(one, other),
        }

    return Case(
        real_model(NUDENET), (data[0], data[1], data[2]), "scores", measure,
        lambda f: f["score_mae"] <= 0.01 and f["bytes"] <= 3.4e6 and f["times_faster"] >= 2,
        "best-score MAE <= 0.01 at <= 3.4 MB and >= 2 x faster",
    )  # fmt: skip


def _silero(wheel: Wheel = SILERO_VAD_16K, values: dict[str, float] | None = None) -> Case:
    model = real_model(wheel)
    data = tuple(real_data.voice_chunks(model, seconds, seed=seed) for seed, seconds in enumerate((6, 8, 12)))

    def measure(got: Arrays, wanted: Arrays, labels: Arrays) -> dict[str, float]:
        name = next(iter(wanted))
        return {"probability_mae": float(np.abs(got[name] - wanted[name]).mean())}

    return Case(
        model, (data[0], data[1], data[2]), "mae", measure,
        lambda f: f["probability_mae"] <= 0.01 and f["bytes"] <= 0.7e6, "MAE of the probability <= 0.01 at <= 0.7 MB",
        values or {},
    )  # fmt: skip


def _silero_two_rates() -> Case:
    """The file for 8 and 16 kHz, of which `--set sr=16000` keeps one."""
    return _silero(SILERO_VAD, {"sr": 16_000})


CASES: dict[str, Callable[[], Case]] = {
    "digits": _digits, "magika": _magika, "ocr": _ocr, "nudenet": _nudenet, "silero": _silero,
    "silero-two-rates": _silero_two_rates,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
