"""`edge-agent infer` finds the running agent by its state folder (the tutorial asks a real one, see tests/house)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.__main__ import main


def test_infer_on_a_device_that_was_not_enrolled_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text("1,2\n")
    assert main(["infer", "digits", str(tmp_path / "x.csv"), "--state", str(tmp_path)]) != 0
    told = capsys.readouterr().err
    assert "edge-agent enroll" in told
    assert "Traceback" not in told
