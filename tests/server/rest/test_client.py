"""A Python client that openapi-python-client makes of the committed document works against the live API.

The generator wants another typer than edgectl, so it lives in an environment of its own, and so does the client that it makes.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.composition.openapi import operations
from tests.house.tree import ROOT
from tests.server.dashboard.serving import served
from tests.server.rest.client_fleet import Answering, client_fleet

GENERATOR = "openapi-python-client==0.29.1"
DOCUMENT = ROOT / "docs" / "reference" / "openapi.json"
SUITE = "tests.server.rest.client_suite"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(900)
def test_a_generated_client_passes_the_suite(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", GENERATOR], check=True)
    made = subprocess.run(
        [venv / "bin/openapi-python-client", "generate", "--path", DOCUMENT, "--output-path", tmp_path / "client", "--meta", "none"],
        capture_output=True, text=True, check=False, env={"PATH": str(venv / "bin")},
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    told = made.stdout + made.stderr
    assert "Unable to" not in told, told
    assert "Cannot parse" not in told, told
    (tmp_path / "client").rename(tmp_path / "edgefleet_client")
    fleet, good = client_fleet(tmp_path / "server")
    try:
        with served(fleet.house.own_app()) as url, Answering(fleet):
            done = subprocess.run(
                [venv / "bin/python", "-m", SUITE, url, fleet.house.token(Role.ADMIN), good],
                cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, check=False,
            )  # fmt: skip
    finally:
        fleet.close()
    assert done.returncode == 0, done.stdout + done.stderr
    called = set(json.loads(done.stdout)["operations"])
    every = {operation["operationId"] for _, _, operation in operations(json.loads(DOCUMENT.read_text("utf-8")))}
    assert called == every, "an operation that the document has was never called, or the other way round"
