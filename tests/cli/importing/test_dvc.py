"""Models that DVC tracks, by the real program with a local remote: by tag, as a folder, and what is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgefleet_cli.importing.dvc import DvcMissingError, check_plain
from edgefleet_cli.importing.fetch_context import (
    LIMIT_VARIABLE,
    Budget,
    FetchContext,
    ImportFailedError,
    ImportTooLargeError,
)
from tests.cli.importing.test_http import Quick, got
from tests.support.tool_environments import DVC, environment

TOOL = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    """The environment in which `dvc` is found."""
    python = environment("dvc", DVC)
    return {**os.environ, "EDGECTL_DVC": str(python.with_name("dvc")), "DVC_NO_ANALYTICS": "1"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Path:
    """A repository whose model changed after the tag v1; the bytes lie in a local remote only."""
    folder = tmp_path_factory.mktemp("dvc") / "repo"
    folder.mkdir()
    (folder / "models").mkdir()

    def run(*command: str) -> None:
        named = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            command, cwd=folder, env={**environ, **named}, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr

    dvc = environ["EDGECTL_DVC"]
    run("git", "init", "-q")
    run(dvc, "init", "-q")
    run(dvc, "remote", "add", "-d", "store", str(folder.parent / "store"))
    for tag, model in (("v1", b"first"), ("v2", b"second")):
        (folder / "digits.onnx").write_bytes(model)
        (folder / "models" / "model.onnx").write_bytes(model)
        run(dvc, "add", "-q", "digits.onnx", "models")
        run(dvc, "push", "-q")
        run("git", "add", ".")
        run("git", "commit", "-qm", tag)
        run("git", "tag", tag)
    return folder


class TestWithDvc:
    """With the program."""

    pytestmark = TOOL

    def test_a_file_of_a_tag(self, environ: dict[str, str], repo: Path, tmp_path: Path) -> None:
        fetched = got(f"dvc:{repo}@v1:digits.onnx", tmp_path / "in", environ=environ)
        assert fetched.path.read_bytes() == b"first"
        assert fetched.lineage["dvc_rev"] == "v1"
        asked = subprocess.run(
            ["git", "-C", str(repo), "rev-parse", "v1"], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert fetched.lineage["git_commit"] == asked

    def test_a_folder_as_it_stands(self, environ: dict[str, str], repo: Path, tmp_path: Path) -> None:
        fetched = got(f"dvc:{repo}:models", tmp_path / "in", environ=environ)
        assert (fetched.path / "model.onnx").read_bytes() == b"second"
        assert len(fetched.lineage["git_commit"]) == 40

    def test_what_is_not_there_is_said_as_dvc_says_it(
        self, environ: dict[str, str], repo: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ImportFailedError) as caught:
            got(f"dvc:{repo}@v9:digits.onnx", tmp_path / "in", environ=environ)
        assert "v9" in caught.value.why

    def test_more_than_the_limit_is_refused(self, environ: dict[str, str], repo: Path, tmp_path: Path) -> None:
        with pytest.raises(ImportTooLargeError):
            got(f"dvc:{repo}@v1:digits.onnx", tmp_path / "in", environ={**environ, LIMIT_VARIABLE: "3"})


def test_without_dvc_the_cure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DvcMissingError) as caught:
        got("dvc:.@v1:digits.onnx", tmp_path / "in")
    assert "pip install dvc" in caught.value.next_step


def test_a_link_in_what_came_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.onnx").symlink_to("/etc/hostname")
    with pytest.raises(ImportFailedError, match="is a link"):
        check_plain(tmp_path / "models", FetchContext(Budget(1000), Quick(), lambda _: None, {}))


def test_git_says_where_a_local_file_stands(tmp_path: Path) -> None:
    from edgefleet_cli.importing.git import lineage_of

    def git(*words: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *named, "-C", str(tmp_path), *words], check=True, capture_output=True)

    (tmp_path / "m.onnx").write_bytes(b"1")
    assert lineage_of(tmp_path / "m.onnx") == {}
    git("init", "-q")
    git("add", "m.onnx")
    git("commit", "-qm", "one")
    assert lineage_of(tmp_path / "m.onnx")["git_state"] == "clean"
    (tmp_path / "other.onnx").write_bytes(b"1")
    assert lineage_of(tmp_path / "m.onnx")["git_state"] == "clean"
    assert lineage_of(tmp_path / "other.onnx")["git_state"] == "untracked"
    (tmp_path / "m.onnx").write_bytes(b"2")
    assert lineage_of(tmp_path / "m.onnx")["git_state"] == "changed"
    assert lineage_of(tmp_path)["git_state"] == "changed"


def test_git_knows_a_file_that_is_reached_through_a_link_to_its_folder(tmp_path: Path) -> None:
    from edgefleet_cli.importing.git import lineage_of

    repository = tmp_path / "clone"
    repository.mkdir()
    (repository / "m.onnx").write_bytes(b"1")
    for words in (
        ["init", "-q"],
        ["add", "m.onnx"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "1"],
    ):
        subprocess.run(["git", "-C", str(repository), *words], check=True, capture_output=True)
    (tmp_path / "link").symlink_to(repository)
    assert lineage_of(tmp_path / "link" / "m.onnx")["git_state"] == "clean"
    assert lineage_of(tmp_path / "link")["git_state"] == "clean"
