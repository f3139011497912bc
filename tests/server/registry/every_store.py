"""`./dev soak stores`: the contract of blob stores (test_store_contract.py) against every imitation of a cloud that runs here.

What an imitation cannot do is in the report, by test and reason: nothing is said of that part of that store. `EDGEFLEET_STORES` names
some of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from tests.house.tree import ROOT
from tests.support.cloud_stores import AZURITE, FAKE_GCS, STORES
from tests.support.tool_environments import MOTO

CONTRACT: Final = "tests/server/registry/test_store_contract.py"
RUNS_ON: Final = {"s3": MOTO[0], "gs-xml": MOTO[0], "gs": FAKE_GCS[0], "az": AZURITE}


def check(name: str, folder: Path) -> dict[str, Any]:
    """Run the contract against one store; return what passed, what failed and what the imitation cannot do."""
    report = folder / f"{name}.xml"
    flags = ["-q", "-n", "0", "--tb=short", f"--basetemp={folder / name}", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", CONTRACT, *flags]
    environment = {**os.environ, "EDGEFLEET_STORES": name}
    before = os.times()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    sys.stderr.write(done.stdout[-6000:] if done.returncode else "")
    passed, failed, cannot = 0, list[str](), dict[str, str]()
    for case in ET.parse(report).iter("testcase") if report.exists() else ():
        skipped, broken = case.find("skipped"), [one for one in case if one.tag in ("failure", "error")]
        if broken:
            failed.append(f"{case.get('name')}: {broken[0].get('message', '')[:200]}")
        elif skipped is not None:
            cannot[str(case.get("name"))] = str(skipped.get("message"))
        else:
            passed += 1
    if done.returncode != 0 and not failed:
        failed.append(done.stdout[-300:] + done.stderr[-300:])
    return {"runs_on": RUNS_ON[name], "passed": passed, "failed": failed, "cannot": cannot, "cpu_s": round(cpu_s, 1)}


def main(n: int, seed: int) -> dict[str, Any]:
    """Run all n times; the report has the numbers of the last time, and every failure. The seed changes nothing."""
    del seed
    stores, problems = dict[str, Any](), list[str]()
    chosen = [one for one in os.environ.get("EDGEFLEET_STORES", "").split(",") if one] or list(STORES)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(n):
            for name in chosen:
                place = Path(folder, str(number))
                place.mkdir(exist_ok=True)
                stores[name] = check(name, place)
                problems += [f"{number} {name}: {one}" for one in stores[name]["failed"]]
    is_ok = not problems and all(one["passed"] for one in stores.values())
    return {"ok": is_ok, "rounds": n, "stores": stores, "problems": problems}
