"""A model of 1 KB that never ends: one answer has a short limit, so it cannot hold the converter. And a step that the system kills."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgefleet_converters.errors import ConversionError, StepKilledError, TimedOutError
from edgefleet_converters.sandbox import Sandbox
from tests.converters.crash_models import never_ending
from tests.converters.graphs import save


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The processes of a conversion."""
    with Sandbox() as running:
        yield running


def endless(sandbox: Sandbox, folder: Path, answer_cpu_s: float) -> None:
    """Run a model that never ends."""
    model, samples = save(never_ending(), folder), folder / "samples.npz"
    assert model.stat().st_size < 1024
    np.savez(samples, x=np.zeros((3, 1, 4), np.float32))
    args = {
        "runtime": "ort", "model": str(model), "threads": 1, "samples": str(samples), "outputs": None, "timed_runs": 0,
        "answer_cpu_s": answer_cpu_s,
    }  # fmt: skip
    sandbox.execute("run_model", args, what="running the model in ort")


def test_an_endless_loop_ends_with_its_first_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(TimedOutError, match="one answer may take"):
        endless(sandbox, tmp_path, 0.2)
    assert time.monotonic() - began_s < 60, "without a limit of its own it takes 180 s of processor time"


@pytest.mark.parametrize("generation", [1, 0], ids=["step", "helper"])
def test_a_step_that_the_system_kills_is_no_verdict_on_the_model(
    sandbox: Sandbox, tmp_path: Path, generation: int
) -> None:
    own = psutil.Process()
    before = {one.pid for one in own.children(recursive=True)}
    killed = threading.Event()

    def kill() -> None:
        while not killed.is_set():
            for helper in own.children():
                with contextlib.suppress(psutil.Error):  # of others, which come and go
                    steps = helper.children() if "edgefleet_converters.sandbox_child" in helper.cmdline() else []
                    if steps and steps[0].pid not in before:
                        (helper, steps[0])[generation].kill()
                        killed.set()
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(StepKilledError):
            endless(sandbox, tmp_path, 20)
    finally:
        killed.set()
        killer.join()
    assert not issubclass(StepKilledError, ConversionError), "else a candidate would be blamed"
