"""A device that exists and is never there: enrolled by the real agent, which is not started. Rollouts to it can begin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Edgectl


def enrolled(edgectl: Edgectl, folder: Path, *labels: str) -> str:
    """Enrol a device with labels `k=v` and return its id."""
    flags = [word for label in labels for word in ("--label", label)]
    made = edgectl("device", "enroll", "--profile", "generic-x86_64-ort", *flags, "-o", "json")
    assert made.code == 0, made.err
    state = folder / "device"
    state.mkdir()
    command = [sys.executable, "-m", "edgefleet_agent", "enroll", "-", "--state", str(state), "-o", "json"]
    done = subprocess.run(
        command, input=made.json["tokens"][0]["token"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["device"])
