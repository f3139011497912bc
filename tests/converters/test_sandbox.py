"""Steps run in expendable processes: each way to die has its own error, and the next step still runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgefleet_converters import errors
from edgefleet_converters.job_steps import JobSteps, ModelFile
from edgefleet_converters.sample_data import SampleSet, random_samples
from edgefleet_converters.sandbox import Limits, Sandbox
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.crash_models import crashing_at_load, never_ending, too_hungry
from tests.converters.graphs import classifier, save

FOUR = (TensorSpec(name="x", dtype="float32", shape=["N", 4]),)
SIXTEEN = (TensorSpec(name="x", dtype="float32", shape=["N", 16]),)


def file_of(path: Path) -> ModelFile:
    return ModelFile(path, sha256_hex(path.read_bytes()), path.stat().st_size, {})


def some(specs: tuple[TensorSpec, ...]) -> SampleSet:
    return random_samples(specs, 3, seed=0)


def test_a_crash_a_hang_and_a_memory_bomb_are_told_apart_and_leave_the_sandbox_usable(tmp_path: Path) -> None:
    limits = Limits(wall_s=3.0, cpu_s=2, memory_bytes=3 * 1024**3)
    with Sandbox(limits) as sandbox:
        workshop = JobSteps(sandbox, tmp_path)
        with pytest.raises(errors.CrashedError, match="SIGFPE") as crashed:
            workshop.tensors(file_of(save(crashing_at_load(), tmp_path, "crash.onnx")), "ort")
        assert crashed.value.code == "convert.crashed"
        with pytest.raises(errors.TimedOutError, match=r"did not end within (3 s|2 s of processor time)"):
            workshop.answers(file_of(save(never_ending(), tmp_path, "loop.onnx")), "ort", some(FOUR), key="k")
        with pytest.raises(errors.OutOfMemoryError, match="3072 MiB"):
            workshop.answers(file_of(save(too_hungry(), tmp_path, "big.onnx")), "ort", some(FOUR), key="k")
        good = file_of(save(classifier(), tmp_path, "good.onnx"))
        assert workshop.answers(good, "ort", some(SIXTEEN), key="k").outputs["scores"].shape == (3, 4)


def test_a_step_may_be_given_less_processor_time_and_says_so(tmp_path: Path) -> None:
    never = save(never_ending(), tmp_path)
    args = {
        "runtime": "ort", "model": str(never), "threads": 1, "samples": str(tmp_path / "x.npz"), "outputs": None, "timed_runs": 0,
    }  # fmt: skip
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 1, 4), np.float32))
    with Sandbox() as sandbox, pytest.raises(errors.TimedOutError, match="within 1 s of processor time"):
        sandbox.build("run_model", args, what="running for ever", cpu_s=1)


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    with Sandbox() as sandbox:
        workshop = JobSteps(sandbox, tmp_path)
        model = file_of(save(classifier(), tmp_path))
        first = workshop.answers(model, "ort", some(SIXTEEN), key="k")
        assert workshop.answers(model, "ort", some(SIXTEEN), key="k") is first
        measured = workshop.measure(model, "ort", some(SIXTEEN), threads=1)
        assert workshop.measure(model, "ort", some(SIXTEEN), threads=1) is measured


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = children()
    with Sandbox() as sandbox:
        JobSteps(sandbox, tmp_path).tensors(file_of(save(classifier(), tmp_path)), "ort")
        assert children() - before
    assert children() == before


def children() -> set[int]:
    """Return the process ids of this process's children."""
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


def test_runtimes_report_their_version(tmp_path: Path) -> None:
    with Sandbox() as sandbox:
        version = JobSteps(sandbox, tmp_path).runtime_version("ort")
    assert version.split(".")[0].isdigit()


def test_a_missing_runtime_is_named(tmp_path: Path) -> None:
    with Sandbox() as sandbox, pytest.raises(errors.RuntimeUnavailableError, match="openvino"):
        JobSteps(sandbox, tmp_path).runtime_version("openvino")


def test_no_step_s_module_brings_a_runtime_or_a_thread_into_the_nursery() -> None:
    program = """
import importlib, json, os, sys
import numpy, onnx
from edgefleet_converters.sandbox_child import STEPS
for step in STEPS.values():
    importlib.import_module(step.partition(":")[0])
runtimes = {"onnxruntime", "ai_edge_litert", "tflite_runtime", "tflite_micro"} & sys.modules.keys()
print(json.dumps([sorted(runtimes), len(os.listdir("/proc/self/task"))]))
"""
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", program], env=one_thread, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) == [[], 1]
