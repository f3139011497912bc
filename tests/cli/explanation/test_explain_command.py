"""`edgectl explain`: a captured answer, opened here, asked again in a child, by what the policy keeps and what the caller may read."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
import signal
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_cli.datasets.bundle_facts import facts_of
from edgefleet_cli.device.captures.capture_files import make_key, read_key
from edgefleet_cli.explanation import explained_sample
from edgefleet_cli.explanation.explanation_child import explained
from edgefleet_protocol.bundle import open_bundle, write_bundle
from edgefleet_protocol.hpke import about_record, key_id, public_of, seal
from edgefleet_protocol.manifest import TAG_BYTES, Manifest, Recipe, Sealed, TensorSpec
from tests.cli.conftest import Edgectl, Ran
from tests.cli.datasets.planted import captured
from tests.cli.fleet_stub import Stub, page, problem
from tests.house.pages import blocks

PAGE = Path("docs/how-to/explain-a-model.md")
COLUMNS = ["heat", "load", "age"]
WEIGHTS = np.array([[2.0, -2.0], [0.5, -0.5], [0.0, 0.0]], np.float32)
TABLE = {"name": "x", "from": "columns", "columns": COLUMNS}
KEEP = {"fields": {"x": [{"do": "keep"}]}}
SOURCE = {"kind": "file", "files": [], "data": {}, "options": {}}
USUAL = np.random.default_rng(3).normal(0, 1, (400, 3)).astype(np.float32)


def table_model(weights: np.ndarray[Any, Any] = WEIGHTS) -> bytes:
    """Return softmax(x · weights) as ONNX."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("Softmax", ["s"], ["y"], axis=1)]
    return _onnx(nodes, ["n", 3], ["n", 2], {"w": weights})


def picture_model() -> bytes:
    """Return a model that looks at the upper left quarter of an 8 × 8 picture alone: its brightness against one half."""
    weights = np.zeros((64, 2), np.float32)
    weights.reshape(8, 8, 2)[:4, :4] = [0.5, -0.5]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]  # fmt: skip
    return _onnx(nodes, ["n", 1, 8, 8], ["n", 2], {"w": weights})


def _onnx(nodes: list[Any], takes: list[Any], gives: list[Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return data


def bundle_of(model: bytes, policy: Mapping[str, Any], *, picture: bool = False, sealed: bool = False) -> bytes:
    """Return a bundle of a model. sealed: with its model sealed, which is here as many bytes that nobody can read."""
    shape: list[int | str] = ["n", 1, 8, 8] if picture else ["n", 3]
    member = bytes(len(model) + TAG_BYTES) if sealed else model
    members = {
        "model.onnx": member, "labels.txt": b"warm\ncold", "privacy.json": json.dumps(policy).encode(),
        }  # fmt: skip
    if not picture:
        members["preprocess.json"] = json.dumps({"v": 1, "inputs": [TABLE]}).encode()
    manifest = Manifest(
        model="pump", version="1.0.0", profile="amd64-cpu", runtime="ort", model_member="model.onnx", precision="fp32", format="onnx",
        inputs=[TensorSpec(name="x", dtype="float32", shape=shape, layout="NCHW" if picture else "")],
        outputs=[TensorSpec(name="y", dtype="float32", shape=["n", 2])], runtimes=[], tolerances={}, source_sha256="0" * 64,
        recipe=Recipe(sha256="0" * 64, steps={}), operators={},
    )  # fmt: skip
    if sealed:
        manifest = msgspec.structs.replace(manifest, v=2, sealed=Sealed(length=len(model), key="k" * 16))
    return write_bundle(members, manifest)


def holds(
    fleet: Stub, key: Path, bundle: bytes, policy: Mapping[str, Any], x: np.ndarray[Any, Any], **plain: Any
) -> dict[str, Any]:
    """Let the server have one record of the trace `t1`, and its bundle."""
    sha256 = hashlib.sha256(bundle).hexdigest()
    public = public_of(read_key(key))
    facts = facts_of(open_bundle(io.BytesIO(bundle)), sha256)
    body = {
        "v": 1, "trace_id": "t1", "reason": "low_confidence", "label": 0, "seen": 1, "outputs": {},
        "fields": captured(facts, policy, {"x": x}), **plain,
    }  # fmt: skip
    record = {
        "id": "ab12", "device": "line-1", "sha256": sha256, "model": "pump", "key": key_id(public), "trace_id": "t1",
        "reason": "low_confidence", "taken_at": "2026-12-01T12:00:00Z",
    }  # fmt: skip
    packed = seal(public, zlib.compress(msgspec.msgpack.encode(body)), about_record("line-1", "ab12", sha256))
    fleet.says("GET /devices/line-1/captures", page([record]))
    fleet.says("GET /devices/line-1/captures/ab12", {**record, "sealed": base64.b64encode(packed).decode()})
    fleet.says(f"GET /blobs/{sha256}", bundle)
    return record


def usual(fleet: Stub, data: np.ndarray[Any, Any], model: bytes = b"") -> None:
    """Let the caller read what the release was published from."""
    buffer = io.BytesIO()
    np.savez(buffer, x=data)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    file = hashlib.sha256(model).hexdigest()
    files = [{"path": "pump.onnx", "sha256": file, "length": len(model)}]
    fleet.says("GET /releases/pump@1.0.0/source", {**SOURCE, "files": files, "data": {"reference": sha256}})
    fleet.says(f"GET /blobs/{sha256}", buffer.getvalue())
    fleet.says(f"GET /blobs/{file}", model)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return the file of a private key."""
    make_key(tmp_path / "capture.key")
    return tmp_path / "capture.key"


def share(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the share of the class `warm`, worked out here."""
    return np.asarray(1 / (1 + np.exp(-(x @ (WEIGHTS[:, 0] - WEIGHTS[:, 1])))))


def test_it_says_which_inputs_made_an_answer(edgectl: Edgectl, fleet: Stub, key: Path) -> None:
    x = np.array([[1.5, 0.5, 9.0]], np.float32)
    answer = np.array([[share(x)[0], 1 - share(x)[0]]], np.float32)
    said = {"y": {"dtype": "<f4", "shape": [1, 2], "data": answer.tobytes()}}
    holds(fleet, key, bundle_of(table_model(), KEEP), KEEP, x, outputs=said)
    usual(fleet, USUAL)
    ran = edgectl("explain", "line-1", "t1", "--key", key, "-o", "json")
    assert ran.code == 0, ran.err
    assert (ran.json["release"], ran.json["answer"], ran.json["is_same"]) == ("pump@1.0.0", 0, True)
    found = ran.json["explanation"]
    assert (found["kind"], found["index"], found["n"], found["given"]) == ("class", 0, 200, 400)
    assert found["score"] == pytest.approx(share(x)[0], abs=1e-4)
    rows = {one["name"]: one for one in found["features"]}
    assert list(rows) == ["x.heat", "x.load", "x.age"]
    drawn = USUAL[np.sort(np.random.default_rng(0).permutation(400)[:200])]
    for at, name in enumerate(rows):
        other = np.repeat(x, 200, axis=0)
        other[:, at] = drawn[:, at]
        drop = share(x)[0] - share(other)
        assert rows[name]["value"] == pytest.approx(drop.mean(), abs=1e-4)
        assert rows[name]["high"] == pytest.approx(drop.mean() + 1.96 * drop.std(ddof=1) / np.sqrt(200), abs=1e-4)
        assert rows[name]["changed"] == pytest.approx((share(other) < 0.5).mean())
    eyes = edgectl("explain", "line-1", "t1", "--key", key)
    assert "warm, the same" in eyes.out
    assert "the score of warm, 99.8 % here" in " ".join(eyes.out.split())
    assert "no effect beyond chance" in next(line for line in eyes.out.splitlines() if line.startswith("x.age"))
    assert "each input replaced by those of 200 of 400 samples (reference data of the release)" in eyes.err


def test_the_block_of_the_page_runs(edgectl: Edgectl, fleet: Stub, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [one for one in blocks(PAGE) if one.note == "tests/cli/explanation/test_explain_command.py"]
    monkeypatch.chdir(key.parent)
    holds(fleet, key, bundle_of(table_model(), KEEP), KEEP, np.array([[1.5, 0.5, 0.0]], np.float32))
    usual(fleet, USUAL[:20])
    for line in block.text.splitlines():
        program, *words = shlex.split(line)
        ran = edgectl(*words)
        assert (program, ran.code) == ("edgectl", 0), ran.err


def test_another_answer_than_the_devices_is_said(edgectl: Edgectl, fleet: Stub, key: Path) -> None:
    x = np.array([[1.5, 0.5, 0.0]], np.float32)
    holds(fleet, key, bundle_of(table_model(), KEEP), KEEP, x, label=1)
    usual(fleet, USUAL)
    ran = edgectl("explain", "line-1", "t1", "--key", key)
    assert ran.code == 0, ran.err
    assert "warm, another answer" in ran.out
    assert "the score of cold" in ran.out, "what the device answered is explained"
    assert "the device answered otherwise than the model does here: another runtime" in ran.err


def test_only_what_the_policy_keeps_is_used(edgectl: Edgectl, fleet: Stub, key: Path) -> None:
    policy = {"fields": {"heat": [{"do": "keep"}], "load": [{"do": "hash"}], "age": [{"do": "keep"}]}, "outputs": False}
    x = np.array([[1.5, 0.5, 0.0]], np.float32)
    holds(fleet, key, bundle_of(table_model(), policy), policy, x, outputs={"y": "PLANTED"})
    usual(fleet, USUAL)
    ran = edgectl("explain", "line-1", "t1", "--key", key, "-o", "json")
    assert ran.code == 0, ran.err
    found = ran.json["explanation"]
    assert found["not_kept"] == ["x.load"]
    assert [one["name"] for one in found["features"]] == ["x.heat", "x.age"]
    assert (ran.json["answer"], found["device"]) == (None, None)
    assert "PLANTED" not in ran.out
    nothing = {"fields": {"heat": [{"do": "drop"}]}}
    holds(fleet, key, bundle_of(table_model(), nothing), nothing, x)
    assert edgectl("explain", "line-1", "t1", "--key", key).error_code == "cli.not_explainable"


def test_a_model_that_is_too_slow_says_so(
    edgectl: Edgectl, fleet: Stub, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds(fleet, key, bundle_of(table_model(), KEEP), KEEP, np.array([[1.5, 0.5, 0.0]], np.float32))
    usual(fleet, USUAL)
    monkeypatch.setattr(explained_sample, "explained", partial(explained, seconds=-1.0))
    ran = edgectl("explain", "line-1", "t1", "--key", key)
    assert ran.code == 1
    assert "the model answers too slowly" in ran.err
    assert "report what it prints" not in ran.err


def test_a_kill_leaves_no_opened_sample_behind(
    edgectl: Edgectl, fleet: Stub, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds(fleet, key, bundle_of(table_model(), KEEP), KEEP, np.array([[1.5, 0.5, 0.0]], np.float32))
    usual(fleet, USUAL)
    places: list[Path] = []

    def killed(folder: Path, *_given: Any, **_more: Any) -> None:
        (folder / "sample.npz").write_bytes(b"plain")
        places.append(folder)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "it would end here, and leave the folder"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(explained_sample, "explained", killed)
    assert edgectl("explain", "line-1", "t1", "--key", key).code == 130
    assert [one.exists() for one in places] == [False]


def test_a_picture_gets_a_map(edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path) -> None:
    x = np.ones((1, 1, 8, 8), np.float32)
    holds(fleet, key, bundle_of(picture_model(), KEEP, picture=True), KEEP, x)
    usual(fleet, np.zeros((20, 1, 8, 8), np.float32))
    ran = edgectl("explain", "line-1", "t1", "--key", key, "--out", tmp_path / "map.png")
    assert ran.code == 0, ran.err
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "folder").mkdir()
    before = set(tmp_path.iterdir())
    assert "cannot write" in edgectl("explain", "line-1", "t1", "--key", key, "--out", tmp_path / "folder").err
    assert set(tmp_path.iterdir()) == before, "no map with the captured picture is left"
    lines = [line for line in ran.out.splitlines() if line.startswith("  ")]
    assert [line[2:] for line in lines[-8:]] == ["████████        "] * 4 + [" " * 16] * 4
    asked = json.loads(edgectl("explain", "line-1", "t1", "--key", key, "-o", "json").out)
    drop = np.array(asked["explanation"]["map"]["drop"])
    assert drop[:4, :4].min() > 0
    assert np.abs(drop).sum() == pytest.approx(drop[:4, :4].sum())


def test_what_cannot_be_explained_says_why_and_what_to_do(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path
) -> None:
    x = np.array([[1.5, 0.5, 0.0]], np.float32)

    def ask(*more: Any, trace: str = "t1", file: Path = key) -> Ran:
        return edgectl("explain", "line-1", trace, "--key", file, *more)

    bundle = bundle_of(table_model(), KEEP)
    holds(fleet, key, bundle, KEEP, x)
    other = ask(trace="t9")
    assert (other.code, other.error_code) == (5, "cli.not_captured")
    assert "edgectl device capture line-1" in other.err
    make_key(tmp_path / "other.key")
    wrong = ask(file=tmp_path / "other.key")
    assert wrong.error_code == "cli.other_key"
    assert "or the one before it" in wrong.err
    fleet.says("GET /releases/pump@1.0.0/source", problem(403, "access.forbidden", "no"))
    refused = ask()
    assert refused.error_code == "cli.not_explainable"
    assert "the role publisher" in refused.err
    np.savez(tmp_path / "usual.npz", x=USUAL)
    assert ask("--compare", tmp_path / "usual.npz").code == 0
    np.savez(tmp_path / "few.npz", x=USUAL[:3])
    few = ask("--compare", tmp_path / "few.npz")
    assert "at least 8 are needed" in few.err
    sealed = bundle_of(table_model(), KEEP, sealed=True)
    holds(fleet, key, sealed, KEEP, x)
    shut = ask("--compare", tmp_path / "usual.npz")
    assert shut.error_code == "cli.not_explainable"
    assert "sealed for their devices" in shut.err
    usual(fleet, USUAL, table_model())
    opened = ask()
    assert opened.code == 0, opened.err
    assert "published from, as its bundles are sealed" in " ".join(opened.err.split())
    fleet.says(f"GET /blobs/{hashlib.sha256(sealed).hexdigest()}", problem(404, "blob.unknown", "no"))
    assert "the server has it no more" in ask().err
