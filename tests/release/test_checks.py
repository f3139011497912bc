"""What keeps a release from being cut, each with what, why and a next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.docs_site import ARCHIVE as HELP
from tests.house.tree import ROOT
from tests.release import artefacts, signature
from tests.release.__main__ import main
from tests.release.artefacts import check_same, digests
from tests.release.checks import check_changelog, check_versions, versions
from tests.release.clone import commit, dated, git, make_clone
from tests.release.refusal import RefusalError

VERSION = versions(ROOT)["pyproject.toml"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the files that are checked, in a state that a release could be cut from."""
    paths = [Path(name) for name in (*versions(ROOT), "CHANGELOG.md", str(signature.SIGNERS)) if " " not in name]
    return make_clone(tmp_path_factory.mktemp("clone") / "tree", paths)


@pytest.fixture
def clone(whole: Path) -> Path:
    """The clone as it was made."""
    first = git(whole, "rev-list", "--max-parents=0", "HEAD")
    git(whole, "reset", "-q", "--hard", first)
    git(whole, "clean", "-qfd")
    for tag in git(whole, "tag", "--list").splitlines():
        git(whole, "tag", "-d", tag)
    return whole


def refused(clone: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the three lines of a refusal; nothing may be left behind."""
    assert main(list(arguments) or ["--dry-run"], root=clone) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "why", "next"]
    assert not (clone / "dist").exists()
    return err


def test_the_present_tree_may_be_released() -> None:
    check_versions(ROOT, VERSION)
    check_changelog(dated((ROOT / "CHANGELOG.md").read_text()), VERSION)


def test_a_change_that_is_not_committed_is_refused(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "new file.txt").touch()
    assert 'not committed: "new file.txt"' in refused(clone, capsys)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("agent/pyproject.toml", f'version = "{VERSION}"', 'version = "9.9.9"'),
        ("pyproject.toml", f"edgefleet-agent=={VERSION}", "edgefleet-agent==9.9.9"),
        ("server/edgefleet_server/__init__.py", f'"{VERSION}"', '"9.9.9"'),
        ("docs/reference/openapi.json", f'"version": "{VERSION}"', '"version": "9.9.9"'),
        ("deploy/helm/edgefleet/Chart.yaml", f"version: {VERSION}", "version: 9.9.9"),
        ("deploy/helm/edgefleet/Chart.yaml", f'appVersion: "{VERSION}"', 'appVersion: "9.9.9"'),
        ("deploy/compose/trial.yaml", f"edgefleet/converter:{VERSION}", "edgefleet/converter:9.9.9"),
    ],
)
def test_a_place_with_another_version_is_named(
    clone: Path, capsys: pytest.CaptureFixture[str], path: str, old: str, new: str
) -> None:
    text = (clone / path).read_text()
    assert old in text
    (clone / path).write_text(text.replace(old, new))
    commit(clone, "another version")
    said = refused(clone, capsys)
    assert f"why:   {path}" in said
    assert "says 9.9.9" in said


def test_another_version_than_the_tree_has_is_refused(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not every place says 9.9.9" in refused(clone, capsys, "9.9.9", "--dry-run")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# Changes\n", "it has no heading"),
        (f"## {VERSION}\n\n- x\n", f"`## {VERSION}`"),
        (f"## Unreleased\n\n- y\n\n## {VERSION} - 2026-11-29\n\n- x\n", "`## Unreleased`"),
        (f"## {VERSION} - 2026-13-29\n\n- x\n", "`2026-13-29`"),
        (f"## {VERSION} - 2026-11-29\n\n## 0.0.9 - 2026-01-01\n\n- x\n", "no line"),
        ("## 0.0.9 - 2026-11-29\n\n- x\n", "`## 0.0.9"),
    ],
)
def test_a_changelog_without_a_dated_entry_of_the_version_is_refused(text: str, why: str) -> None:
    with pytest.raises(RefusalError) as refusal:
        check_changelog(text, VERSION)
    assert why in refusal.value.why


def test_a_tag_on_another_commit_is_refused(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(clone, "tag", f"v{VERSION}")
    commit(clone, "later")
    assert f"v{VERSION} is another commit" in refused(clone, capsys)


def test_a_release_needs_a_key_outside_of_the_tree_that_is_listed(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEFLEET_RELEASE_KEY", raising=False)
    assert "no key to sign with" in refused(clone, capsys, VERSION)
    assert "is no file" in refused(clone, capsys, "--key", str(tmp_path / "none"))
    key = signature.throwaway_key(tmp_path)
    assert f"the key is not in {signature.SIGNERS}" in refused(clone, capsys, "--key", str(key))
    inside = clone / "pyproject.toml"
    assert "the key lies in the work tree" in refused(clone, capsys, "--key", str(inside))


def test_files_of_which_two_builds_differ_are_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, text in ((one, "a"), (other, "b")):
        folder.mkdir()
        (folder / "same.txt").write_text("x")
        (folder / "differs.txt").write_text(text)
    with pytest.raises(RefusalError) as refusal:
        check_same(one, other)
    assert refusal.value.why == "differs.txt"
    assert digests(one)["same.txt"] == digests(other)["same.txt"]


def test_a_release_builds_its_help_and_only_a_dry_run_of_the_same_commit_takes_it(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def build_help(tree: Path, _epoch: int) -> None:
        built.append(tree.name)
        (tree / HELP).parent.mkdir(parents=True)
        (tree / HELP).write_text(tree.name)

    monkeypatch.setattr(artefacts, "build_help", build_help)

    def cut(name: str, *, is_dry: bool) -> str:
        artefacts.help_of(clone, tmp_path / name, 0, may_be_kept=is_dry)
        return (tmp_path / name / HELP).read_text()

    assert [cut("dry", is_dry=True), cut("dry-again", is_dry=True)] == ["dry", "dry"]
    assert [cut("release", is_dry=False), cut("dry-after", is_dry=True)] == ["release", "release"]
    commit(clone, "another")
    assert cut("dry-of-another", is_dry=True) == "dry-of-another"
    assert built == ["dry", "release", "dry-of-another"]
    assert len(list((clone / "build").iterdir())) == 1
