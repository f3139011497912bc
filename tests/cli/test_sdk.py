"""`edgefleet_sdk` beside the notebook: which object becomes which file, samples and words, tables, refusals, and its size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.errors import CliError, UsageError
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.flat_rows import frame
from edgefleet_sdk import Fleet
from edgefleet_sdk.model_export import save_model, write_samples
from edgefleet_sdk.notebook_answers import Answer, published
from tests.cli.conftest import Server
from tests.cli.fleet_stub import Stub, page, rollout
from tests.converters.graphs import classifier
from tests.house.tree import ROOT

RELEASE = {
    "ref": "net@1.0.0", "state": "partial", "model": "net", "version": "1.0.0", "jobs": [],
    "bundles": [{"profile": "generic-x86_64-ort", "runtime": "ort", "precision": "fp32", "bytes": 1000, "verdict": "passed"}],
    "refused": [{"profile": "coral-tflite-edgetpu", "code": "convert.x", "reason": "<b>no</b>", "next": "give data"}],
}  # fmt: skip


def test_it_stays_thin() -> None:
    files = (ROOT / "server" / "edgefleet_sdk").glob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) <= 300


def test_an_estimator_becomes_skops_and_an_onnx_model_onnx(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit([[0.0], [1.0]], ["no", "yes"])
    assert save_model(estimator, tmp_path).endswith("model.skops")
    model = classifier(features=4)
    assert Path(save_model(model, tmp_path)).read_bytes() == model.SerializeToString()
    assert save_model("mlflow:/digits@champion", tmp_path) == "mlflow:/digits@champion"
    assert save_model(Path("m.onnx"), tmp_path) == "m.onnx"
    with pytest.raises(UsageError, match="dict cannot be published"):
        save_model({}, tmp_path)


def test_answers_in_words_become_numbers_in_the_model_s_order(tmp_path: Path) -> None:
    files = write_samples(tmp_path, [[0.0], [1.0], [2.0]], ["b", "a", "b"], None, np.array(["b", "a"]))
    assert files["labels"] is not None
    assert files["labels"].read_text() == "b\na\n"
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["x"].dtype == np.float32
        assert arrays["y"].tolist() == [0, 1, 0]


def test_a_data_frame_and_inputs_by_name_are_samples(tmp_path: Path) -> None:
    import pandas as pd

    write_samples(tmp_path, {"a": pd.DataFrame({"p": [1, 2], "q": [3, 4]}), "b": np.ones((2, 3))}, None, None, None)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {"a": (2, 2), "b": (2, 3)}
    with pytest.raises(UsageError, match="object values"):
        write_samples(tmp_path, pd.DataFrame({"p": ["red", "blue"]}, dtype=object), None, None, None)


def test_a_release_is_a_table_whose_text_is_escaped() -> None:
    answer = published(Reply(RELEASE, Release))
    shown = answer._repr_html_()
    assert "<td>generic-x86_64-ort</td>" in shown
    assert "&lt;b&gt;no&lt;/b&gt;" in shown
    assert "<b>no</b>" not in shown
    assert (str(answer), answer.state) == ("net@1.0.0", "partial")
    assert "coral-tflite-edgetpu: <b>no</b>" in repr(answer)
    with pytest.raises(AttributeError):
        _ = answer.nothing


def test_without_pandas_rows_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert frame([{"id": "a"}]) == [{"id": "a"}]


def test_a_rollout_is_waited_for(fleet: Stub) -> None:
    fleet.says("POST /rollouts", rollout())
    fleet.says("GET /rollouts/r-7f3a9c", rollout(), rollout(state="finished", reason="all stages passed"))
    ended = Fleet().connect(progress=False).deploy("digits@1.1.0", to="demo=yes", strategy="canary", wait=True)
    assert isinstance(ended, Answer)
    assert (ended.state, str(ended)) == ("finished", "r-7f3a9c")
    assert fleet.bodies("POST /rollouts")[0]["spec"] == {
        "release": "digits@1.1.0", "selector": "demo=yes", "strategy": "canary",
    }  # fmt: skip


def test_rollouts_are_a_frame(fleet: Stub) -> None:
    fleet.says("GET /rollouts", page([rollout()]))
    frame = Fleet().rollouts()
    assert frame["id"].tolist() == ["r-7f3a9c"]


def test_a_device_is_explained(fleet: Stub) -> None:
    row = {"model": "digits", "wanted": "digits@1.1.0", "running": None, "is_settled": False, "why": "it has not begun"}
    fleet.says("GET /devices/d-1/explain", {"device": "d-1", "status": "online", "pinned": "", "items": [row]})
    told = Fleet().explain("d-1")
    assert (told.device, repr(told)) == ("d-1", "d-1 lags\ndigits: it has not begun")
    assert "<td>it has not begun</td>" in told._repr_html_()
    assert told.rows == [row]


def test_a_refusal_says_why_and_what_next(server: Server, tmp_path: Path) -> None:
    fleet = Fleet().connect(server.url, server.tokens["viewer"], progress=False)
    model = tmp_path / "net.onnx"
    model.write_bytes(classifier(features=4).SerializeToString())
    with pytest.raises(CliError) as caught:
        fleet.publish(model, name="sdk", version="1.0.0")
    assert any(note.startswith("next: ") for note in caught.value.__notes__)


def test_an_object_is_published_and_each_call_without_a_version_has_its_own(server: Server) -> None:
    fleet = Fleet().connect(server.url, server.tokens["publisher"], progress=False)
    release = fleet.publish(classifier(features=4), name="sdk", profiles=["generic-x86_64-ort"], precision="fp32")
    assert release.state == "ready"
    assert len(release.version) == len("20260103.120000")
