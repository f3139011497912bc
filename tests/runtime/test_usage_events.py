"""Nothing of ours lets ONNX Runtime keep a device id or events for its maker; see docs/operate/privacy.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["edgefleet_runtime.ort", "edgefleet_converters.onnx.histograms"])
def test_the_runtime_leaves_nothing_in_the_home(module: str, tmp_path: Path) -> None:
    hidden = ("XDG_", "ORT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    ran = subprocess.run(
        [sys.executable, "-c", f"import {module}, onnxruntime"],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.rglob("*")) == []
