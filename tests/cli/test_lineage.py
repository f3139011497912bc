"""`edgectl publish --parent REF --retraining ID`: what is sent, and what is refused before anything is uploaded."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

RELEASE = {"ref": "net@1.1.0", "model": "net", "version": "1.1.0", "state": "failed"}
PARENT = {"ref": "net@1.0.0", "model": "net", "version": "1.0.0", "state": "ready"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that is sent as it is: the stub reads none."""
    path = tmp_path / "net-1.1.0.onnx"
    path.write_bytes(b"a model")
    return path


def test_a_parent_is_sent_as_the_version_that_its_alias_means(edgectl: Edgectl, fleet: Stub, model: Path) -> None:
    fleet.says("GET /releases/net@stable", PARENT)
    fleet.says(f"HEAD /blobs/{sha256(model.read_bytes()).hexdigest()}", {})
    fleet.says("POST /releases", (201, RELEASE))
    ran = edgectl("publish", model, "--name", "net", "--parent", "net@stable", "--retraining", "rt-7")
    assert ran.code == 1, ran.err
    (body,) = fleet.bodies("POST /releases")
    assert body["lineage"]["parent"] == "net@1.0.0"
    assert body["lineage"]["retraining"] == "rt-7"


def test_a_parent_of_another_model_is_refused_before_the_upload(edgectl: Edgectl, fleet: Stub, model: Path) -> None:
    fleet.says("GET /releases/ocr@1", PARENT | {"ref": "ocr@1", "model": "ocr"})
    ran = edgectl("publish", model, "--name", "net", "--parent", "ocr@1")
    assert (ran.code, ran.told()[0]) == (2, "ocr@1 cannot be the parent of a release of net")
    assert edgectl("publish", model, "--name", "net", "--parent", "net@9").code == 5, "one that there is not"
    assert [one.what for one in fleet.asked if "GET" not in one.what] == []


def test_the_origin_of_a_release_is_shown_with_its_parent(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /releases/net@1.1.0", RELEASE | {"lineage": {"parent": "net@1.0.0", "retraining": "rt-7"}})
    shown = edgectl("release", "show", "net@1.1.0").out
    assert "net@1.0.0" in shown
    assert "rt-7" in shown
