"""The lists of TFLite operators are those of the runtimes that are installed here."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from edgefleet_profiles.operator_sets import operator_limits, operator_set, operator_sets
from edgefleet_runtime.port import available
from tests.converters.graphs import changed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", operator_sets())
def test_a_list_is_what_the_runtime_itself_knows(name: str) -> None:
    runtime, _, version = name.partition("-")
    here = {info.name: info.version for info in available()}
    if here.get(runtime) != version:
        pytest.skip(f"{runtime} {version} is not here")
    done = subprocess.run(
        [sys.executable, "-m", "tests.converters.operator_probe", runtime], capture_output=True, text=True, timeout=280,
        check=True,
    )  # fmt: skip
    tops = {key: "any" if limit.max_version is None else limit.max_version for key, limit in operator_set(name).items()}
    assert yaml.safe_load(done.stdout) == tops


def test_every_profile_for_tflite_files_has_a_list_for_its_runtime() -> None:
    assert operator_limits(changed("raspberry-pi-armv7-tflite"))["FULLY_CONNECTED"].max_version == 10
    assert operator_limits(changed("generic-aarch64-litert"))["FULLY_CONNECTED"].max_version == 14
    assert operator_limits(changed("cortex-m-tflm"))["CONV_2D"].max_version is None
    assert operator_limits(changed("generic-aarch64-ort")) == {}
