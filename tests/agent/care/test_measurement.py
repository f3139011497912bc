"""`edge-agent bench` without an agent: real workers and onnxruntime, by threads and batch, against what a bundle declares."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.__main__ import main
from edgefleet_agent.core.durable import write_record
from edgefleet_agent.diagnostics.device import RECORD_FILE
from edgefleet_agent.install.records import ModelRecord, SlotRef
from edgefleet_protocol.manifest import Declared
from tests.agent.worker.models import big_onnx, bundle_bytes, classifier_onnx
from tests.house.pages import shell_blocks
from tests.support.device_python import IS_EMULATED

pytestmark = pytest.mark.skipif(
    IS_EMULATED, reason="the command is run in this process, and its workers by this Python"
)
PAGE = "docs/operate/device.md"
FEW = ("--threads", "1", "--seconds", "0.15")
SMALL = 1 << 20


def bench(*arguments: str | Path, state: Path, code: int = 0, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what the command prints for programs."""
    assert main(["bench", *map(str, arguments), "--state", str(state), "-o", "json"]) == code
    return json.loads(capsys.readouterr().out)


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return what lies in a folder, and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_line_of_the_page_gives_a_row_for_each_combination(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [block.text for block in shell_blocks(Path(PAGE)) if "edge-agent bench" in block.text]
    _, _, *words = shlex.split(line)
    monkeypatch.chdir(tmp_path)
    Path("digits.bundle").write_bytes(bundle_bytes(classifier_onnx()))
    found = bench(*words, "--seconds", "0.15", state=tmp_path / "none", capsys=capsys)
    assert [(row["threads"], row["batch"]) for row in found["rows"]] == [(1, 1), (1, 8), (2, 1), (2, 8)]
    for row in found["rows"]:
        assert (row["runtime"], row["failed"], row["over"]) == ("ort", "", [])
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["n"] >= 60 * row["batch"]
        assert min(row["per_s"], row["cpu_ms"], row["peak_bytes"] - SMALL) > 0
    assert not (tmp_path / "none").exists()

    assert main(["bench", "--bundle", "digits.bundle", *FEW, "--state", str(tmp_path / "none")]) == 0
    text = capsys.readouterr().out
    assert "runtime" in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_installed_is_measured_and_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slot = tmp_path / "models" / "digits" / "A"
    slot.mkdir(parents=True)
    (slot / "bundle").write_bytes(bundle_bytes(classifier_onnx()))
    active = SlotRef(slot="A", target="digits@1.0.0", sha256="0" * 64, version="1.0.0")
    write_record(slot.parent / RECORD_FILE, ModelRecord(model="digits", active=active))
    before = files(tmp_path)
    (row,) = bench(*FEW, state=tmp_path, capsys=capsys)["rows"]
    assert row["failed"] == ""
    assert files(tmp_path) == before
    assert bench("other", *FEW, state=tmp_path, code=5, capsys=capsys)["error"]["code"] == "rollback.unknown_model"


def test_a_promise_that_is_broken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.bundle"
    declared = Declared(latency_p95_ms=0.0001, peak_memory_bytes=SMALL)
    file.write_bytes(bundle_bytes(classifier_onnx(), declared=declared))
    found = bench("--bundle", file, *FEW, state=tmp_path, code=1, capsys=capsys)
    assert found["rows"][0]["over"] == ["p95", "memory"]
    assert found["rolls_back_above_ms"] == pytest.approx(5.0001)
    assert main(["bench", "--bundle", str(file), *FEW, "--state", str(tmp_path)]) == 1
    assert "over what the bundle declares: p95, memory" in capsys.readouterr().out


def test_what_cannot_be_measured_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.bundle"
    file.write_bytes(bundle_bytes(big_onnx(8)))
    rows = bench("--bundle", file, *FEW, "--batch", "1,2", state=tmp_path, code=1, capsys=capsys)["rows"]
    assert rows[0]["failed"] == ""
    assert "must have the shape [1, 8], got [2, 8]" in rows[1]["failed"]
    (row,) = bench("--bundle", file, *FEW, "--runtime", "nowhere", state=tmp_path, code=1, capsys=capsys)["rows"]
    assert "nowhere" in row["failed"]


@pytest.mark.parametrize("wrong", [("--threads", "0"), ("--batch", "x"), ("--seconds", "-1")])
def test_a_wrong_number_is_refused(wrong: tuple[str, str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *wrong])
