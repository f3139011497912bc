"""Models for microcontrollers: run in TFLite Micro, arena measured, C sources that a compiler takes."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite_micro")
from edgefleet_converters.c_array import resolver_method
from edgefleet_converters.check.arena import STEP, smallest_arena
from edgefleet_protocol.bundle import Bundle, open_bundle
from edgefleet_runtime.port import InputError, ModelLoadError, load
from edgefleet_runtime.tflm import runs_in
from tests.converters.graphs import changed, run
from tests.converters.int8_graphs import GELU, RELU, chain, dense
from tests.support.real_models import WAKE_WORDS, Wheel, real_model

DENSE = dense()
_STUB = """
#pragma once
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
template <unsigned int tOpCount> class MicroMutableOpResolver {
 public:
  TfLiteStatus AddFullyConnected() { return added++ < tOpCount ? kTfLiteOk : kTfLiteError; }
  unsigned int added = 0;
};
}
"""
_MAIN = """
#include <cstdint>
#include <cstdio>
#include "model.h"
#include "model-ops.h"
int main() {
  EdgefleetOpResolver resolver;
  if (!EdgefleetAddOperators(resolver) || reinterpret_cast<std::uintptr_t>(edgefleet_model) % 16) return 1;
  std::fwrite(edgefleet_model, 1, edgefleet_model_len, stdout);
  return 0;
}
"""


def made(folder: Path, model: bytes, profile: str = "cortex-m-tflm") -> Bundle:
    source = folder / "model.tflite"
    source.write_bytes(model)
    report, _ = run(source, folder / "out", [profile])
    assert not report.refused, report.refused
    return open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes()))


def test_tflite_micro_answers_as_litert_does() -> None:
    pytest.importorskip("ai_edge_litert")
    micro, litert = load("tflm", DENSE), load("litert", DENSE)
    assert (micro.inputs, micro.outputs) == (litert.inputs, litert.outputs)
    for seed in range(20):
        x = np.random.default_rng(seed).integers(-128, 128, (1, 16)).astype(np.int8)
        assert np.abs(micro.run({"x": x})["scores"].astype(int) - litert.run({"x": x})["scores"].astype(int)).max() <= 1


def test_a_wrong_input_and_a_foreign_file_are_told() -> None:
    with pytest.raises(InputError):
        load("tflm", DENSE).run({"x": np.zeros((1, 15), np.int8)})
    with pytest.raises(ModelLoadError):
        load("tflm", b"\x1c\0\0\0TFL3" + bytes(40))
    with pytest.raises(ModelLoadError, match="cannot load the model"):
        load("tflm", chain(GELU, [1, 8]))


@pytest.mark.parametrize("model", [DENSE, chain(RELU, [1, 3000], version=2), dense(features=64, classes=64)])
def test_the_arena_is_the_smallest_that_works(model: bytes) -> None:
    arena_bytes = smallest_arena(model)
    assert arena_bytes % STEP == 0
    assert runs_in(model, arena_bytes)
    assert not runs_in(model, arena_bytes - STEP)


def test_an_arena_holds_at_least_the_two_tensors_that_are_alive_at_once() -> None:
    assert smallest_arena(chain(RELU, [1, 50_000], version=2)) >= 2 * 50_000


@pytest.mark.slow
def test_a_bundle_for_a_microcontroller_has_c_sources_that_hold_the_model(tmp_path: Path) -> None:
    bundle = made(tmp_path, DENSE)
    assert bundle.manifest.runtime == "tflm"
    assert [proof.name for proof in bundle.manifest.runtimes] == ["tflm"]
    header = bundle.read("model.h").decode()
    assert f"EDGEFLEET_ARENA_BYTES {bundle.manifest.report['arena_bytes']}\n" in header
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    stub = tmp_path / "tensorflow" / "lite" / "micro"
    stub.mkdir(parents=True)
    (stub / "micro_mutable_op_resolver.h").write_text(_STUB)
    (tmp_path / "main.cc").write_text(_MAIN)
    for name in ("model.h", "model.cc", "model-ops.h"):
        (tmp_path / name).write_bytes(bundle.read(name))
    build = ["g++", "-std=c++17", "-Wall", "-Werror", "-I", ".", "main.cc", "model.cc", "-o", "board"]
    subprocess.run(build, cwd=tmp_path, check=True, timeout=120)
    told = subprocess.run([tmp_path / "board"], capture_output=True, check=True, timeout=20).stdout
    assert told == bundle.read("model.tflite") == DENSE


@pytest.mark.slow
def test_the_same_model_gives_the_same_bundle(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert made(first, DENSE).manifest == made(second, DENSE).manifest


@pytest.mark.slow
def test_a_bundle_for_an_accelerator_says_that_it_is_only_prepared(tmp_path: Path) -> None:
    source = tmp_path / "model.tflite"
    source.write_bytes(DENSE)
    report, _ = run(source, tmp_path / "out", ["coral-tflite-edgetpu", changed("generic-x86_64-litert")])
    prepared, plain = report.bundles
    assert (prepared.verdict, plain.verdict) == ("prepared", "unproven")
    told = open_bundle(io.BytesIO(Path(prepared.path).read_bytes())).manifest.report
    assert told["backend"]["mode"] == "prepare"
    assert told["mapping"] == {
        "kind": "predicted", "compiler": "edgetpu_compiler", "mapped": {"FULLY_CONNECTED": 1}, "on_cpu": {},
        "first_on_cpu": None,
    }  # fmt: skip
    assert "backend" not in open_bundle(io.BytesIO(Path(plain.path).read_bytes())).manifest.report


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("wheel", WAKE_WORDS[:3], ids=lambda wheel: Path(wheel.member).stem)
def test_a_real_wake_word_fits_an_esp32(tmp_path: Path, wheel: Wheel) -> None:
    bundle = made(tmp_path, real_model(wheel).read_bytes(), "esp32-tflm")
    assert 16_384 < bundle.manifest.report["arena_bytes"] < 32_768
    assert "resolver.AddVarHandle()" in bundle.read("model-ops.h").decode()
    assert "EDGEFLEET_RESOURCE_VARIABLES 0" not in bundle.read("model.h").decode()


def test_methods_of_the_resolver_are_named_as_tflite_micro_names_them() -> None:
    names = ("CONV_2D", "FULLY_CONNECTED", "RELU6", "PADV2", "SPLIT_V", "L2_NORMALIZATION", "SPACE_TO_BATCH_ND")
    methods = [resolver_method(name) for name in names]
    assert methods == [
        "AddConv2D", "AddFullyConnected", "AddRelu6", "AddPadV2", "AddSplitV", "AddL2Normalization", "AddSpaceToBatchNd",
    ]  # fmt: skip
    assert all(re.fullmatch("Add[A-Z][A-Za-z0-9]+", method) for method in methods)
