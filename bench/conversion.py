"""Conversion time: one model through the whole pipeline, compared with onnxruntime's own `quantize_static` in the same run.

Prints one JSON object: wall seconds, peak memory of the steps, seconds by stage, the ratio to the bare quantizer, machine
facts. The pipeline does far more than the quantizer (checks, folding, gate, golden vectors, bundle), so the ratio says what
the proof costs. Then `edgectl publish` at a real server: the seconds of the first publication, of the same under new versions (the
server knows the content, the bundle is packed again) and of the same once more, whole commands as a user waits for them. Goal: 3 s
under a new version; `again_cpu_s` is the processor time of that in command and server, which a busy machine does not stretch.

    python bench/conversion.py [--model FILE --calibration FILE.npz --eval FILE.npz] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.support
DIGITS = ROOT / "examples" / "digits"
GOAL_AGAIN_S = 3.0
"""A repeated publication, as a user waits for it."""


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DIGITS / "digits-1.1.0.onnx")
    parser.add_argument("--calibration", type=Path, default=DIGITS / "data" / "calibration.npz")
    parser.add_argument("--eval", type=Path, default=DIGITS / "data" / "eval.npz")
    parser.add_argument("--profile", default="generic-x86_64-ort")
    parser.add_argument("--also", action="append", default=[], metavar="PROFILE", help="more profiles to publish for")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    if not args.model.exists():
        print(json.dumps({"bench": "conversion", "ok": False, "error": f"no model at {args.model}"}))
        return 1
    runs = [_pipeline(args) for _ in range(max(1, args.runs))]
    bare = [_bare_quantizer(args.model, args.calibration) for _ in range(max(1, args.runs))]
    best = min(runs, key=lambda run: float(run["wall_s"]))
    digests = {run["sha256"] for run in runs}
    published = _publish(args)
    print(
        json.dumps(
            {
                "bench": "conversion", "ok": len(digests) == 1 and bool(published["again_kept"]), "n": len(runs),
                "model": args.model.name, "model_bytes": args.model.stat().st_size, "profile": args.profile,
                "wall_s": best["wall_s"], "wall_s_all": [run["wall_s"] for run in runs], "stages_s": best["stages_s"],
                "peak_rss_bytes": best["peak_rss_bytes"], "precision": best["precision"], "bytes": best["bytes"],
                "candidates_tried": best["candidates_tried"], "identical_bundles": len(digests) == 1,
                "ort_quantize_static_s": round(min(bare), 4),
                "ratio_to_ort_quantize_static": round(float(best["wall_s"]) / min(bare), 3),
                "publish": published,
                "machine": _machine(),
            },
            indent=2,
        )
    )  # fmt: skip
    return 0


def _pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """Convert in a process of its own, as the server does, and return its figures; memory is that of its largest step."""
    import edgefleet_profiles
    from edgefleet_profiles.profile import profile_to_dict

    with tempfile.TemporaryDirectory() as folder:
        request = {
            "v": 1, "model": "bench", "version": "1.0.0", "source": {"path": str(args.model)},
            "profiles": [profile_to_dict(edgefleet_profiles.load(args.profile))],
            "data": {"calibration": str(args.calibration), "eval": str(args.eval)}, "out_dir": folder,
        }  # fmt: skip
        started_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "edgefleet_converters.job"], input=json.dumps(request).encode(), capture_output=True,
            check=False,
        )  # fmt: skip
        wall_s = time.monotonic() - started_s
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        result = json.loads(done.stdout.splitlines()[-1])
        if not result.get("bundles"):
            raise SystemExit(f"the conversion gave no bundle: {result}")
        report = json.loads((Path(folder) / "report.json").read_bytes())
    bundle, profile = result["bundles"][0], report["profiles"][0]
    return {
        "wall_s": round(wall_s, 4), "peak_rss_bytes": peak, "stages_s": profile["stages_s"], "sha256": bundle["sha256"],
        "precision": bundle["precision"], "bytes": bundle["bytes"],
        "candidates_tried": sum(row["verdict"] != "not_tried" for row in profile["candidates"]),
    }  # fmt: skip


def _publish(args: argparse.Namespace) -> dict[str, Any]:
    """Publish at a server of its own: once, then under new versions, then the last one again. Times of whole commands."""
    from tests.support.servers import init_server, server_process

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "server"
        token = init_server(data)
        with server_process(data, token) as server:
            cpu_s: list[float] = []

            def timed(version: str) -> float:
                command = [
                    sys.executable, "-m", "edgefleet_cli.main", "--server", server.url, "publish", str(args.model), "--name", "bench",
                    "--version", version, "--calibration", str(args.calibration), "--eval", str(args.eval),
                    *(word for profile in (args.profile, *args.also) for word in ("--profile", profile)),
                ]  # fmt: skip
                spent_s, started_s = _cpu_s(server.process.pid), time.monotonic()
                environment = {**os.environ, "EDGECTL_TOKEN": server.token}
                subprocess.run(command, capture_output=True, check=True, env=environment)
                taken_s = round(time.monotonic() - started_s, 3)
                cpu_s.append(round(_cpu_s(server.process.pid) - spent_s, 2))
                return taken_s

            first_s = timed("1.0.0")
            again_s = [timed(f"1.0.{number}") for number in range(1, max(1, args.runs) + 1)]
            last = f"1.0.{max(1, args.runs)}"
            same_s = timed(last)
            report = server.client().get(f"/api/v1/releases/bench@{last}/report").json()
    return {
        "profiles": 1 + len(args.also), "first_s": first_s, "again_s": min(again_s), "again_s_all": again_s,
        "goal_again_s": GOAL_AGAIN_S, "is_goal_reached": min(again_s) <= GOAL_AGAIN_S, "again_cpu_s": min(cpu_s[1:-1]),
        "same_version_s": same_s, "again_kept": report.get("kept_from") == "bench@1.0.0",
    }  # fmt: skip


def _cpu_s(server: int) -> float:
    """Return the processor seconds of the commands that have ended, and of the server with its children that have ended."""
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    return commands.ru_utime + commands.ru_stime + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


_BARE = """
import sys
import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
class Reader(CalibrationDataReader):
    def __init__(self, path, name):
        self.rows = iter([{name: row[None]} for row in next(iter(np.load(path).values()))[:128]])
    def get_next(self):
        return next(self.rows, None)
import onnx
name = onnx.load(sys.argv[1]).graph.input[0].name
quantize_static(sys.argv[1], sys.argv[3], Reader(sys.argv[2], name), per_channel=True, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8)
"""


def _bare_quantizer(model: Path, calibration: Path) -> float:
    """Return the seconds of onnxruntime's quantize_static in a fresh process, its import included, as ours is."""
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", _BARE, str(model), str(calibration), str(Path(folder) / "out.onnx")],
            check=True, capture_output=True,
        )  # fmt: skip
        return time.monotonic() - started_s


def _machine() -> dict[str, Any]:
    import onnxruntime

    return {
        "machine": platform.machine(), "cpus": os.cpu_count(), "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(), "numpy": np.__version__, "onnxruntime": onnxruntime.__version__,
        "system": platform.platform(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
