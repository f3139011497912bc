"""Models from a real MLflow registry, through a real server: published by alias, told back, followed when the alias moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl, Server, a_server
from tests.cli.enrolled import enrolled
from tests.cli.importing.mlflow_server import MlflowServer, mlflow_server
from tests.converters.graphs import classifier

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1800)]
FLAGS = ("--profile", "generic-x86_64-ort", "--precision", "fp32")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this file's own: the devices that it enrols would be in the way of others."""
    with a_server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def registry(mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MlflowServer:
    """The registry, named as MLflow's own client is told of it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return mlflow


def model(folder: Path, features: int) -> Path:
    """Write a small model; another number of features makes another one."""
    path = folder / f"net-{features}.onnx"
    path.write_bytes(classifier(features=features).SerializeToString())
    return path


def test_a_version_behind_an_alias_is_published_and_the_registry_is_told(
    edgectl: Edgectl, admin: Server, registry: MlflowServer, tmp_path: Path
) -> None:
    version, run_id = registry.log("Iris Net", model(tmp_path, 16), "champion")
    shown = edgectl("import", "show", "mlflow:/Iris Net@champion", "-o", "json").json["items"]
    assert [(one["version"], one["run_id"], one["release"]) for one in shown] == [(version, run_id, None)]
    ran = edgectl("publish", "models:/Iris Net@champion", *FLAGS, "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["ref"] == f"iris-net@{version}"
    lineage = ran.json["lineage"]
    assert lineage["uri"] == f"mlflow:/Iris Net/{version}"
    assert (lineage["run_id"], lineage["alias"], lineage["git_commit"]) == (run_id, "champion", "ab" * 20)
    assert registry.tags("Iris Net", version)["edge.release"] == f"iris-net@{version}"
    told = edgectl("release", "show", f"iris-net@{version}").out
    assert f"mlflow:/Iris Net/{version}" in told
    assert run_id in told
    again = edgectl("publish", f"mlflow:/Iris Net/{version}", *FLAGS)
    assert again.code == 0, again.err
    assert "exists already" in again.err


def test_what_the_registry_does_not_have_is_said(edgectl: Edgectl, admin: Server, registry: MlflowServer) -> None:
    ran = edgectl("publish", "mlflow:/nobody@champion", *FLAGS)
    assert ran.code == 5
    assert "nobody" in ran.told()[0]
    ran = edgectl("publish", "mlflow:/nobody@champion", *FLAGS, "--mlflow-url", "http://127.0.0.1:9")
    assert "cannot reach the MLflow server" in ran.told()[0]
    ran = edgectl("publish", "mlflow:/nobody@champion", *FLAGS, "--mlflow-url", admin.url)
    assert "MLflow" in ran.told()[0]


def test_a_conversion_here_takes_an_address_too(edgectl: Edgectl, registry: MlflowServer, tmp_path: Path) -> None:
    version, _ = registry.log("local", model(tmp_path, 8), "tried")
    ran = edgectl("convert", "mlflow:/local@tried", *FLAGS, "--out", tmp_path / "out", "-o", "json")
    assert ran.code == 0, ran.err
    assert Path(ran.json["bundles"][0]["path"]).name.startswith(f"local-{version}-")


def test_an_alias_that_moves_is_rolled_out_once(
    edgectl: Edgectl, admin: Server, registry: MlflowServer, tmp_path: Path
) -> None:
    first, _ = registry.log("moving", model(tmp_path, 16), "live")
    watch = ("import", "watch", "mlflow:/moving@live", "--to", "site=moving", "--once", *FLAGS)
    refused = edgectl(*watch, "--state", tmp_path / "other")
    assert refused.code == 1
    assert "no device matches" in registry.tags("moving", first)["edge.rollout"]
    assert edgectl(*watch, "--state", tmp_path / "other").code == 0, "what was refused is not tried again"
    enrolled(edgectl, tmp_path, "site=moving")

    def rollouts() -> list[tuple[str, str]]:
        items = edgectl("rollout", "list", "-o", "json").json["items"]
        return [(one["id"], one["release"]) for one in items if one["model"] == "moving"]

    ran = edgectl(*watch)
    assert ran.code == 0, ran.err
    assert [release for _, release in rollouts()] == [f"moving@{first}"]
    assert edgectl(*watch).code == 0
    assert len(rollouts()) == 1, "the same version is not rolled out twice"
    second, _ = registry.log("moving", model(tmp_path, 24))
    assert edgectl(*watch).code == 0
    assert len(rollouts()) == 1, "a version without the alias concerns nobody"
    registry.point("moving", "live", second)
    assert edgectl(*watch).code == 0
    assert [release for _, release in rollouts()] == [f"moving@{second}", f"moving@{first}"]
    registry.point("moving", "live", first)
    assert edgectl(*watch).code == 0
    assert rollouts()[0][1] == f"moving@{first}", "back is a change, too"
    assert len(rollouts()) == 3


def test_without_what_was_seen_nothing_is_done_twice(
    edgectl: Edgectl, admin: Server, registry: MlflowServer, tmp_path: Path
) -> None:
    registry.log("lost", model(tmp_path, 16), "live")
    enrolled(edgectl, tmp_path, "site=lost")
    watch = ("import", "watch", "mlflow:/lost@live", "--to", "site=lost", "--once", *FLAGS)
    assert edgectl(*watch, "--state", tmp_path / "one").code == 0
    assert edgectl(*watch, "--state", tmp_path / "two").code == 0
    items = edgectl("rollout", "list", "-o", "json").json["items"]
    assert len([one for one in items if one["model"] == "lost"]) == 1
    for state in ("three", "four"):  # an operator ends it: nothing is begun anew against that
        edgectl("rollout", "abort", items[0]["id"], "--yes")
        assert edgectl(*watch, "--state", tmp_path / state).code == 0
    assert len([one for one in edgectl("rollout", "list", "-o", "json").json["items"] if one["model"] == "lost"]) == 1


def test_how_a_rollout_stands_is_written_back_on_demand(
    edgectl: Edgectl, admin: Server, registry: MlflowServer, tmp_path: Path
) -> None:
    version, _ = registry.log("told", model(tmp_path, 16), "live")
    assert edgectl("publish", "mlflow:/told@live", *FLAGS, "--no-write-back").code == 0
    assert "edge.release" not in registry.tags("told", version)
    enrolled(edgectl, tmp_path, "site=told")
    made = edgectl("rollout", "create", f"told@{version}", "--to", "site=told", "-o", "json")
    assert made.code == 0, made.err
    ran = edgectl("import", "write-back", made.json["id"])
    assert ran.code == 0, ran.err
    tags = registry.tags("told", version)
    assert tags["edge.rollout"].startswith(made.json["id"])
    assert "edge.deployed" not in tags, "it has not finished"
