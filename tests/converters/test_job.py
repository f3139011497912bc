"""The process entry: JSON in, JSON lines out, nothing else on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefleet_profiles
from edgefleet_profiles.profile import profile_to_dict
from tests.converters.crash_models import crashing_at_load, never_ending
from tests.converters.graphs import classifier, samples, save


def job(document: Any) -> tuple[int, list[dict[str, Any]]]:
    """Run the child with `document` (an object, or raw bytes) and return its exit code and lines."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    done = subprocess.run(
        [sys.executable, "-m", "edgefleet_converters.job"], input=data, capture_output=True, check=False, timeout=200
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def request(source: Path, out: Path, *profiles: str, **more: Any) -> dict[str, Any]:
    return {
        "v": 1, "model": "tiny", "version": "1.0.0", "source": {"path": str(source)}, "out_dir": str(out),
        "profiles": [profile_to_dict(edgefleet_profiles.load(name)) for name in profiles or ("generic-x86_64-ort",)],
    } | more  # fmt: skip


def test_a_conversion_ends_with_a_result_line(tmp_path: Path) -> None:
    document = request(save(classifier(), tmp_path), tmp_path / "out", "generic-x86_64-ort", "generic-x86_64-ort-small")
    document["profiles"][1]["max_model_bytes"] = 100
    code, lines = job(document | {"options": {"precision": "fp32"}})
    assert code == 0
    result = lines[-1]
    assert result["type"] == "result"
    assert [row["profile"] for row in result["bundles"]] == ["generic-x86_64-ort"]
    assert [row["code"] for row in result["refused"]] == ["convert.over_budget"]
    assert set(result["refused"][0]) == {"profile", "code", "reason", "next"}
    wanted = {
        "model", "version", "profile", "runtime", "precision", "bytes", "fp32_bytes", "ratio", "bundle_bytes", "sha256",
        "target", "metric", "parity", "latency_ms", "peak_rss_bytes", "runtimes", "verdict", "signed_at", "path",
    }  # fmt: skip
    assert wanted <= set(result["bundles"][0])
    assert Path(result["report_path"]).is_file()
    stages = [
        line["stage"] for line in lines if line["type"] == "progress" and line["profile"] != "generic-x86_64-ort-small"
    ]
    assert stages == ["import", "validate", "simplify", "quantize", "gate", "bundle"]


def test_golden_vectors_are_not_run_in_another_version_than_the_profile_names(tmp_path: Path) -> None:
    facts = profile_to_dict(edgefleet_profiles.load("generic-x86_64-ort"))
    facts["runtime"]["version"] = "9.9"
    code, lines = job({"v": 1, "golden": {"bundle": str(tmp_path / "none.bundle"), "profile": facts}})
    assert (code, [line["code"] for line in lines]) == (2, ["convert.runtime_unavailable"])


def test_a_model_that_kills_the_runtime_leaves_the_job_alive(tmp_path: Path) -> None:
    code, lines = job(request(save(crashing_at_load(), tmp_path), tmp_path / "out"))
    assert code == 0
    assert lines[-1]["refused"][0]["code"] == "convert.crashed"
    assert "SIGFPE" in lines[-1]["refused"][0]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "code"),
    [(b"no model at all", "convert.not_a_model"), (b"", "convert.truncated"),
     (classifier().SerializeToString()[:-5], "convert.truncated")],
    ids=["text", "empty", "cut"],
)  # fmt: skip
def test_an_unusable_source_ends_with_an_error_line(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    exit_code, lines = job(request(path, tmp_path / "out"))
    assert exit_code == 2
    assert lines[-1]["type"] == "error"
    assert lines[-1]["code"] == code
    assert lines[-1]["next"]


@pytest.mark.slow
def test_wrong_calibration_shapes_end_with_an_error_line(tmp_path: Path) -> None:
    data = {"calibration": samples(tmp_path, x=np.ones((20, 5), np.float32))}
    exit_code, lines = job(request(save(classifier(), tmp_path), tmp_path / "out", data=data))
    assert (exit_code, lines[-1]["code"]) == (2, "convert.data_shape")


@pytest.mark.parametrize("document", [b"", b"{", b"[]", {"v": 1}])
def test_a_request_that_is_none_ends_with_an_error_line(document: Any) -> None:
    exit_code, lines = job(document)
    assert exit_code == 2
    assert [line["code"] for line in lines] == ["convert.bad_request"]


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_no_process_running_the_model(tmp_path: Path) -> None:
    document = request(save(never_ending(), tmp_path), tmp_path / "out")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgefleet_converters.job"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(document).encode())
    process.stdin.close()
    try:
        family = wait_for(lambda: len(found := descendants(process.pid)) >= 2 and busy(found) and found)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(alive(pid) for pid in family))


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; the test's own timeout ends the wait."""
    while not (value := condition()):
        time.sleep(0.05)
    return value


def descendants(pid: int) -> list[int]:
    """Return the process ids below `pid`."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def busy(pids: list[int]) -> bool:
    """Return whether one of the processes has used more than half a second of processor time: it runs the model."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks = max(ticks, int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11]))
    return ticks > os.sysconf("SC_CLK_TCK") / 2


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
