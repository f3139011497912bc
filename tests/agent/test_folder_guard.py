"""Where a private key may be made: in a folder of its own, and not where git would commit it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgefleet_agent import errors
from edgefleet_agent.enrolment.enroll import enroll
from edgefleet_agent.enrolment.folder_guard import FolderFacts, Refusal, look, refusal
from edgefleet_agent.paths import STATE_NAMES, default_state, state_flag
from edgefleet_protocol.claim import ClaimToken, encode_claim

OURS = ("keys", "admin.token")
HERE = Path("/srv/a/there")
DEFAULT = Path("/srv/a/default")


def judged(**facts: object) -> Refusal | None:
    return refusal(FolderFacts(HERE, **facts), OURS, "--data", DEFAULT)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A git work tree."""
    made = tmp_path / "clone"
    subprocess.run(["git", "init", "-q", str(made)], check=True, capture_output=True)
    return made


def test_an_empty_folder_outside_of_git_is_taken() -> None:
    assert judged() is None
    assert judged(entries=("keys", "lost+found")) is None


def test_a_folder_with_other_files_is_refused_and_names_some() -> None:
    found = judged(entries=("README.md", "a", "b", "c", "keys"))
    assert found is not None
    assert "holds other files" in found.what
    assert found.why.endswith("README.md, a, b and 1 more")
    assert found.next_step == f"leave --data out to use {DEFAULT}, or choose an empty folder with --data DIR"


@pytest.mark.parametrize(
    ("is_ignored", "says"),
    [(False, "git does not ignore it"), (None, "cannot say whether it is ignored: see `git -C /srv/a status`")],
)
def test_a_folder_that_git_would_commit_is_refused(is_ignored: bool | None, says: str) -> None:
    found = judged(work_tree=Path("/srv/a"), is_ignored=is_ignored)
    assert found is not None
    assert says in found.why
    assert "add /there/ to /srv/a/.gitignore" in found.next_step


def test_an_ignored_folder_is_taken() -> None:
    assert judged(work_tree=Path("/srv/a"), is_ignored=True) is None


def test_the_default_folder_is_not_proposed_in_its_own_place() -> None:
    found = refusal(FolderFacts(DEFAULT, ("x",)), OURS, "--data", DEFAULT)
    assert found is not None
    assert found.next_step == "choose an empty folder with --data DIR"


def test_git_is_asked_about_all_that_will_lie_there(tree: Path) -> None:
    folder = tree / "new" / "data"
    assert look(folder, OURS) == FolderFacts(folder.resolve(), (), tree.resolve(), False)
    (tree / ".gitignore").write_text("keys\n")
    assert look(folder, OURS).is_ignored is False
    (tree / ".gitignore").write_text("/new/\n")
    assert look(folder, OURS).is_ignored is True


def test_another_repository_in_the_environment_changes_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tree.parent / "elsewhere"))
    (tree / ".gitignore").write_text("/data/\n")
    assert look(tree / "data", OURS).is_ignored is True


def test_without_git_a_work_tree_is_still_seen(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    facts = look(tree / "data", OURS)
    assert (facts.work_tree, facts.is_ignored) == (tree.resolve(), None)
    assert look(tree.parent, OURS).work_tree is None


def test_enrolment_is_refused_before_a_key_is_made(tree: Path, tmp_path: Path) -> None:
    token = encode_claim(ClaimToken(url="https://127.0.0.1:1", id="x", secret="y", ca="ab" * 32, root="ab" * 32))
    with pytest.raises(errors.FolderRefusedError, match="git work tree"):
        enroll(token, tree / "device")
    assert not (tree / "device").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(errors.FolderRefusedError, match=r"thesis\.tex"):
        enroll(token, tmp_path / "full")
    # settings may be there first
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "agent.toml").touch()
    with pytest.raises(errors.ServerUnreachableError):
        enroll(token, tmp_path / "set")


def test_the_folder_without_a_name_is_the_service_s_or_the_user_s_own(tmp_path: Path) -> None:
    system, home = tmp_path / "system", {"HOME": str(tmp_path)}
    assert default_state(home, system) == tmp_path / ".local" / "state" / "edgefleet-agent"
    assert default_state({**home, "XDG_STATE_HOME": "/x"}, system) == Path("/x/edgefleet-agent")
    assert default_state({**home, "XDG_STATE_HOME": "x"}, system) == tmp_path / ".local" / "state" / "edgefleet-agent"
    system.mkdir()
    assert default_state(home, system) == system
    assert default_state({**home, "EDGEFLEET_AGENT_STATE": "/s"}, system) == Path("/s")


def test_a_suggested_command_names_only_a_folder_that_is_not_the_default() -> None:
    assert state_flag(default_state()) == ""
    assert state_flag(Path("board")) == " --state board"


def test_the_names_are_those_that_the_agent_uses() -> None:
    from edgefleet_agent.enrolment.enroll import PENDING_KEY
    from edgefleet_agent.paths import StatePaths

    root = Path("/s")
    paths = StatePaths(root)
    used = {getattr(paths, name) for name, kind in vars(StatePaths).items() if isinstance(kind, property)}
    used |= {paths.kept("m"), root / PENDING_KEY}
    assert {path.relative_to(root).parts[0] for path in used} <= set(STATE_NAMES)
