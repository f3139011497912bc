"""A pickle is refused before anything is sent, and the one next step works; so is what the server has no tool for."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.release.conversion.pickled_model import refuse_pickle
from edgefleet_cli.release.conversion.tool_environments import tools_folder
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

FLAGS = ("--name", "forest", "--version", "1.0.0", "--profile", "generic-x86_64-ort")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def forest() -> Any:
    """A trained forest. Its import takes 2 s: only a process that runs these tests pays for it."""
    from sklearn.ensemble import RandomForestClassifier

    x = np.random.default_rng(0).standard_normal((60, 3))
    return RandomForestClassifier(3, random_state=0).fit(x, np.where(x[:, 0] > 0, "yes", "no"))


@pytest.mark.parametrize("command", ["publish", "convert"])
def test_the_next_step_of_a_refused_forest_works(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, forest: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    joblib.dump(forest, "my 'forest'.joblib")
    ran = edgectl(command, "my 'forest'.joblib", *FLAGS)
    assert (ran.code, fleet.asked) == (2, [])
    what, why, cure = ran.told()
    assert what == "my 'forest'.joblib is a pickle, and pickles are not read"
    assert why == "reading a pickle runs the code of the person who made it"
    line = re.fullmatch(r"where it was trained, with `pip install skl2onnx`: (python -c .+); then publish (.+)", cure)
    assert line is not None, cure
    assert line[2] == "my 'forest'.onnx"
    if command == "convert":
        return
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", line[1]], check=True, env=environ, timeout=100)
    model = onnx.load(line[2])
    assert model.graph.output[1].type.HasField("sequence_type"), "what the importer takes as it is"


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3), 0])
def test_a_compressed_forest_is_known_by_its_content(tmp_path: Path, forest: Any, compress: Any) -> None:
    joblib.dump(forest, tmp_path / "model.joblib", compress=compress)
    for name in ("model.sav", "model.onnx"):
        (tmp_path / name).write_bytes((tmp_path / "model.joblib").read_bytes())
        with pytest.raises(UsageError) as caught:
            refuse_pickle(tmp_path / name)
        assert "python -c" in caught.value.next_step


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_of_a_pickle_is_run_whatever_its_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "owned"), protocol=protocol))
    with pytest.raises(UsageError) as caught:
        refuse_pickle(path)
    assert caught.value.next_step == "export the model to ONNX where it was trained, and publish that file"
    assert not (tmp_path / "owned").exists()


def test_a_folder_counts_by_what_else_it_holds(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {pickled_model: model.pkl}}")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(UsageError, match=r"model\.pkl is a pickle"):
        refuse_pickle(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    refuse_pickle(tmp_path)


@pytest.mark.parametrize("data", [b"\x08\x08", b"PK\x03\x04", b"\x1c\x00\x00\x00TFL3", b""])
def test_other_models_are_no_pickles(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    refuse_pickle(tmp_path / "model.onnx")
    refuse_pickle(tmp_path / "absent.onnx")


def test_what_the_server_has_no_tool_for_is_not_uploaded(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    (tmp_path / "m.skops").write_bytes(b"PK\x03\x04")
    fleet.says("GET /tools", {"names": ["torch"], "folder": "/srv/edgefleet-tools", "reads_pickles": False})
    ran = edgectl("publish", tmp_path / "m.skops", *FLAGS)
    assert ran.code == 2
    assert ran.told() == (
        "the server cannot read .skops files yet",
        "the tool sklearn is not installed there; nothing was uploaded",
        "on the server's machine: edgectl tool install sklearn --tools /srv/edgefleet-tools",
    )
    assert [one.what for one in fleet.asked] == ["GET /tools"]
    fleet.says("GET /tools", {"names": [], "folder": str(tools_folder()), "reads_pickles": False})
    assert edgectl("publish", tmp_path / "m.skops", *FLAGS).told()[2].endswith("edgectl tool install sklearn")


def test_a_hugging_face_folder_is_not_uploaded_to_a_server_that_cannot_read_it(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path
) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"\0" * 16)
    fleet.says("GET /tools", {"names": ["sklearn"], "folder": "/t", "reads_pickles": False})
    ran = edgectl("publish", tmp_path / "bert", *FLAGS)
    assert (ran.code, ran.told()[0]) == (2, "the server cannot read .safetensors files yet")
    assert [one.what for one in fleet.asked] == ["GET /tools"]


def test_an_allowed_pickle_is_still_not_sent_to_a_server_that_reads_none(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, forest: Any
) -> None:
    joblib.dump(forest, tmp_path / "m.joblib")
    fleet.says("GET /tools", {"names": ["sklearn"], "folder": "/t", "reads_pickles": False})
    ran = edgectl("publish", tmp_path / "m.joblib", *FLAGS, "--allow-pickle")
    assert (ran.code, "python -c" in ran.told()[2]) == (2, True)
    assert ran.told()[0] == "m.joblib is a pickle, and this server reads none"
    assert "has not set `allow_pickle` in server.toml" in ran.told()[1]
    assert [one.what for one in fleet.asked] == ["GET /tools"]
