"""The TUF project's conformance suite on the device's own TUF client: `EDGEFLEET_TUF_SUITE=FOLDER ./dev soak tuf-conformance`.

FOLDER is a checkout of theupdateframework/tuf-conformance; nothing of it is kept here. It needs the program `faketime`, and the
Python packages of our own tests are enough for it. The seed chooses nothing: n runs of it are n times the same.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.house.tree import ROOT

FOLDER: Final = "EDGEFLEET_TUF_SUITE"
KNOWN: Final = frozenset({"test_static_repository[sigstore-root-signing]"})
"""A repository of the past, asked at a faked date of the past. A device's time is never earlier than the build of its agent."""


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Run the suite n times. Fails for whatever fails but is not `KNOWN`."""
    del seed
    given = os.environ.get(FOLDER, "")
    suite = Path(given)
    if not given or not (suite / "tuf_conformance" / "conftest.py").is_file():
        return {
            "ok": False,
            "why": f"{FOLDER} names no checkout of the suite",
            "next": f"git clone https://github.com/theupdateframework/tuf-conformance FOLDER, then {FOLDER}=FOLDER",
        }
    runs = [_run(suite) for _ in range(n)]
    failed = sorted({name for run in runs for name in run["failed"]})
    passed = min(run["passed"] for run in runs)
    return {
        "ok": passed > 0 and set(failed) <= KNOWN,
        "suite": _version(suite),
        "passed": passed,
        "tests": runs[0]["tests"],
        "failed": failed,
    }


def _run(suite: Path) -> dict[str, Any]:
    with TemporaryDirectory(prefix="ef-tuf-") as name:
        report = Path(name, "report.xml")
        client = f"{sys.executable} -m tests.hostile.device.tuf_client"
        flags = ["-q", "-c", os.devnull, f"--rootdir={suite}", "-p", "no:cacheprovider", "-p", "no:randomly"]
        command = [sys.executable, "-m", "pytest", *flags, f"--entrypoint={client}", f"--junitxml={report}"]
        environment = {**os.environ, "PYTHONPATH": f"{suite}{os.pathsep}{ROOT}"}
        target = str(suite / "tuf_conformance")
        subprocess.run([*command, target], cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        if not report.is_file():
            return {"tests": 0, "passed": 0, "failed": ["the suite did not run"]}
        cases = list(ET.parse(report).iter("testcase"))
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    return {"tests": len(cases), "passed": len(cases) - len(failed), "failed": failed}


def _version(suite: Path) -> str:
    found = re.search(r'__version__ = "([^"]+)"', (suite / "tuf_conformance" / "__init__.py").read_text("utf-8"))
    return found[1] if found else "unknown"
