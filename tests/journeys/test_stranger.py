"""The README's own commands, by somebody who has only the README: `stranger`, in a clean clone, with the environment of this run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.journeys.stranger import Stranger, clone_into

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """A stranger with an empty home with a short name; what they started is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="ef-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "home").mkdir()
        made = Stranger(clone_into(folder / "edgefleet"), folder / "home")
        yield made
        made.tries("edgectl server down || true")
        for process in psutil.process_iter(["cmdline"]):
            if str(folder) in " ".join(process.info["cmdline"] or ()):
                process.terminate()
                process.wait(20)


def test_an_own_model_runs_on_an_own_device_and_goes_back(stranger: Stranger) -> None:
    stranger.walks()
