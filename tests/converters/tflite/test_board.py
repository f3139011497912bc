"""The scoreboard in CI: a tenth of onnx's backend tests, chosen by the commit's hash, against the list of passing names.

`passing.txt` may only grow; taking a name out needs a decision in docs/adr. Written by
`./dev bench onnx-to-tflite --passing tests/converters/tflite/passing.txt`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_converters.tflite.runtimes import RUNTIMES
from tests.converters.tflite.board import Result, passing_lines, read_passing

ROOT = Path(__file__).resolve().parents[3]
LIST = Path(__file__).with_name("passing.txt")
TENTHS = 10


def tenth() -> int:
    """Return 1 … 10 by the commit's hash; 1 outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or "0", 16) % TENTHS + 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_test_of_this_tenth_is_lost(tmp_path: Path) -> None:
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime ends with Python 3.11")
    shard, details, passing = f"{tenth()}/{TENTHS}", tmp_path / "details.jsonl", tmp_path / "passing.txt"
    done = subprocess.run(
        [sys.executable, "-m", "bench.onnx_to_tflite", "--shard", shard, "--details", str(details), "--passing", str(passing)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)["runtimes"]
    rows = [json.loads(line) for line in details.read_text().splitlines()]
    worst = [row for row in rows if row["outcome"] in ("wrong", "aborted")]
    assert not worst, f"wrong values or aborts in shard {shard}: {worst[:3]}"
    now = read_passing(passing.read_text(), list(RUNTIMES))
    known = read_passing(LIST.read_text(), list(RUNTIMES))
    for runtime in RUNTIMES:
        seen = {row["name"] for row in rows if row["runtime"] == runtime} | now[runtime]
        lost = sorted((known[runtime] & seen) - now[runtime])
        assert not lost, f"{runtime} loses {lost} in shard {shard}"
        assert figures[runtime]["pass"] > 100


def test_the_list_says_for_each_name_where_it_passes() -> None:
    results = [
        Result("node", "a", "tflite-2.14", "pass"), Result("node", "a", "litert-2.3", "pass"),
        Result("node", "b", "tflite-2.14", "refused"), Result("node", "b", "litert-2.3", "pass"),
        Result("node", "c", "tflite-2.14", "failed"), Result("node", "c", "litert-2.3", "wrong"),
    ]  # fmt: skip
    text = passing_lines(results)
    assert text == "a\nb litert-2.3\n"
    assert read_passing(text, list(RUNTIMES)) == {"tflite-2.14": {"a"}, "litert-2.3": {"a", "b"}}


def test_the_committed_list_holds_the_goals() -> None:
    known = read_passing(LIST.read_text(), list(RUNTIMES))
    assert len(known["litert-2.3"]) >= 1250
    assert len(known["tflite-2.14"]) >= 1150
