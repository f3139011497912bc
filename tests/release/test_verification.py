"""`./dev verify-release` on a folder of packages and images: what was changed, added or signed by another key is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.release import artefacts, signature
from tests.release.image_papers import sign, statement_of
from tests.release.verification import main

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here: openssh-client")
DEB, IMAGE = "edgefleet-server_1.0.0-1_amd64.deb", "edgefleet-server-1.0.0-amd64"
OF_IMAGE = "sha256:" + "ab" * 32


def write_sums(folder: Path, key: Path) -> None:
    """Write the signed list of what is in a folder."""
    sums = folder / signature.SUMS
    for old in (sums, sums.with_name(f"{sums.name}.sig")):
        old.unlink(missing_ok=True)
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in artefacts.digests(folder).items()))
    signature.sign(key, sums)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key of the signer."""
    made = signature.throwaway_key(tmp_path)
    (tmp_path / "signers").write_text(signature.signers_of(made))
    return made


@pytest.fixture
def folder(tmp_path: Path, key: Path) -> Path:
    """A signed folder with a package and an image."""
    made = tmp_path / "release"
    made.mkdir()
    (made / DEB).write_bytes(b"package")
    (made / f"{IMAGE}.tar").write_bytes(b"archive")
    for name, digest in ((DEB, f"sha256:{artefacts.digest(made / DEB)}"), (IMAGE, OF_IMAGE)):
        statement = statement_of(name, digest, "c0ffee" * 6, "deploy/packages/edgefleet-server.yaml")
        (made / f"{name}.intoto.jsonl").write_text(sign(statement, key))
    write_sums(made, key)
    return made


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return why a folder is refused."""
    assert main([str(folder), "--signers", str(folder.parent / "signers")]) == 1
    return capsys.readouterr().err


def test_a_line_for_each_file_says_what_it_was_built_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--signers", str(folder.parent / "signers")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert f"{DEB}: ok" in lines
    assert any("built from commit c0ffeec0ffee by deploy/packages/edgefleet-server.yaml" in line for line in lines)


def test_a_changed_an_added_and_a_wrongly_signed_file_are_named(
    folder: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / DEB).write_bytes(b"other")
    assert f"{DEB} is not what was signed" in refused(folder, capsys)
    write_sums(folder, key)
    assert "provenance is of another" in refused(folder, capsys)
    (folder / DEB).write_bytes(b"package")
    write_sums(folder, key)
    (folder / "new.deb").touch()
    assert "the list does not have it" in refused(folder, capsys)
    (folder / "new.deb").unlink()
    (tmp_path / "other").mkdir()
    write_sums(folder, signature.throwaway_key(tmp_path / "other"))
    assert "could not be verified" in refused(folder, capsys)


def test_a_folder_without_a_list_is_no_release(tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no release" in refused(tmp_path, capsys)
