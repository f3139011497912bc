"""The signed tag: what it holds comes out again, and nothing else passes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.release import __main__ as command
from tests.release import signature, signed_tag
from tests.release.clone import commit, git
from tests.release.refusal import RefusalError

SUMS = f"{hashlib.sha256(b'a').hexdigest()}  a.whl\n{hashlib.sha256(b'b').hexdigest()}  b.tar.gz\n"


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """A repository with one commit, its signers, and the signed tag v1.2.3."""
    root = tmp_path / "tree"
    (root / signature.SIGNERS).parent.mkdir(parents=True)
    key = signature.throwaway_key(tmp_path)
    (root / signature.SIGNERS).write_text(signature.signers_of(key))
    git(root, "init", "-q", "-b", "main")
    commit(root, "all")
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@edgefleet.invalid")
    sums = tmp_path / signature.SUMS
    sums.write_text(SUMS)
    signature.sign(key, sums)
    signed_tag.make(root, "1.2.3", key, sums)
    return root


def test_a_tag_gives_back_the_list_and_its_signature(tagged: Path, tmp_path: Path) -> None:
    signed_tag.verify(tagged, "v1.2.3")
    signed_tag.check_head(tagged, "v1.2.3")
    sums, signed = signed_tag.contents(signed_tag.message(tagged, "v1.2.3"))
    assert sums == SUMS
    (tmp_path / "copy").write_text(sums)
    (tmp_path / "copy.sig").write_text(signed)
    signature.verify(tagged / signature.SIGNERS, tmp_path / "copy")


def test_a_tag_of_another_key_or_commit_or_without_a_list_is_refused(tagged: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = signature.throwaway_key(tmp_path / "other")
    ssh = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={other}")
    git(tagged, *ssh, "tag", "-s", "v9.9.9", "-m", "edgefleet 9.9.9")
    with pytest.raises(RefusalError, match=r"no signer of this clone signed v9\.9\.9"):
        signed_tag.verify(tagged, "v9.9.9")
    with pytest.raises(RefusalError, match="holds no signed list"):
        signed_tag.contents(signed_tag.message(tagged, "v9.9.9"))
    commit(tagged, "later")
    with pytest.raises(RefusalError, match=r"this is not v1\.2\.3"):
        signed_tag.check_head(tagged, "v1.2.3")


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ({"a.whl": b"a"}, "b.tar.gz"),
        ({"a.whl": b"a", "b.tar.gz": b"c"}, "b.tar.gz"),
        ({"a.whl": b"a", "b.tar.gz": b"b", "c.deb": b"c"}, "c.deb"),
    ],
    ids=["missing", "other-bytes", "not-listed"],
)
def test_a_build_with_other_bytes_is_refused(made: dict[str, bytes], named: str) -> None:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    with pytest.raises(RefusalError, match=f"not listed: {named}"):
        signed_tag.check_sums(SUMS, digests)
    signed_tag.check_sums(SUMS, {name: hashlib.sha256(name[:1].encode()).hexdigest() for name in ("a.whl", "b.tar.gz")})


def test_the_command_says_what_it_refuses(tagged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--of-tag", "v0.0.1"], tagged) == 1
    assert "v0.0.1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--of-tag", "v1.2.3", "--dry-run"], tagged)
