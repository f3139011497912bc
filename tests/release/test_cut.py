"""A release from begin to end, on a clone: the commands of the pages, and what a stranger does with what they made.

The clone has one page of documentation: all pages take as long to build as all else together, and a release builds them twice here.
`./dev soak docs-site`, `./dev dist` and each release build them all. That the same pages make the same bytes is in
`tests/house/test_docs_site.py`. Tests that no command of a release reads are left out too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.house.pages import shell_blocks
from tests.house.tree import tracked
from tests.release import signature
from tests.release.artefacts import digests
from tests.release.checks import versions
from tests.release.clone import commit, git, lend_environment, make_clone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.timeout(2000),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here: no Debian"),
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here: openssh-client"),
]
TRY_IT, DO_IT, AGAIN = (block.text for block in shell_blocks(Path("docs/how-to/cut-a-release.md")))
(VERIFY,) = (block.text for block in shell_blocks(Path("SECURITY.md")))
PAGES = ("docs/how-to/cut-a-release.md", "SECURITY.md")
"""Their shell blocks are run here."""
LEFT_OUT = re.compile(
    r"(docs/(?!_site/|glossary\.md|reference/openapi\.json)|tests/(?!house/|release/|support/|__init__\.py)|bench/)"
)
"""What the clone has not: it begins with one of these."""


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the block of a page in a folder."""
    env = {**os.environ, **environment}
    command = ["bash", "-euc", script]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=1800)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose signers list the key of `home`."""
    folder = tmp_path_factory.mktemp("release")
    made = make_clone(folder / "tree", [path for path in tracked() if not LEFT_OUT.match(str(path))])
    glossary = made / "docs/glossary.md"
    glossary.write_text(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", glossary.read_text()))
    (made / "docs/index.md").write_text("# Documentation\n\n## Learn\n\n- [Glossary](glossary.md)\n")
    lend_environment(made)
    ssh = folder / "home" / ".ssh"
    ssh.mkdir(parents=True)
    key = signature.throwaway_key(ssh).rename(ssh / "edgefleet-release")
    (ssh / "throwaway.pub").rename(ssh / "edgefleet-release.pub")
    with (made / signature.SIGNERS).open("a") as signers:
        signers.write(signature.signers_of(key))
    commit(made, "a signer")
    return made


@pytest.fixture(scope="module")
def release(clone: Path) -> Path:
    """The folder of a release that was cut by the command of the page."""
    home = str(clone.parent / "home")
    identity = {"GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@edgefleet.invalid"}
    done = run(DO_IT, clone, HOME=home, **identity)
    assert done.returncode == 0, done.stderr
    assert "nothing was uploaded" in done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    """The files of the release, for tests that change them."""
    return Path(shutil.copytree(release, tmp_path / "download"))


def test_a_stranger_verifies_it_by_the_lines_of_the_security_page(clone: Path, copy: Path) -> None:
    shutil.copy(clone / signature.SIGNERS, copy)
    done = run(VERIFY, copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(digests(copy)) - 3  # the list itself, its signature and the signers
    signers = f"gpg.ssh.allowedSignersFile={signature.SIGNERS}"
    git(clone, "-c", signers, "tag", "-v", f"v{versions(clone)['pyproject.toml']}")


def test_an_artefact_that_was_changed_fails(copy: Path) -> None:
    (wheel,) = copy.glob("edgefleet_agent-*.whl")
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    done = run(VERIFY, copy)
    assert done.returncode != 0
    assert f"{wheel.name}: FAILED" in done.stdout


def test_a_list_that_was_changed_to_match_fails(copy: Path) -> None:
    (wheel,) = copy.glob("edgefleet_agent-*.whl")
    wheel.write_bytes(b"other")
    sums = copy / signature.SUMS
    sums.write_text(re.sub(rf"\w+(?=  {re.escape(wheel.name)}\n)", digests(copy)[wheel.name], sums.read_text()))
    done = run(VERIFY, copy)
    assert done.returncode != 0
    assert ": OK" not in done.stdout


def test_the_signature_of_another_key_fails(copy: Path, tmp_path: Path) -> None:
    signature.sign(signature.throwaway_key(tmp_path), copy / signature.SUMS)
    assert run(VERIFY, copy).returncode != 0


def test_it_has_all_artefacts_and_nothing_of_the_machine(clone: Path, release: Path) -> None:
    version = versions(clone)["pyproject.toml"]
    wheels = {f"{name}-{version}-py3-none-any.whl" for name in ("edgefleet", "edgefleet_agent")}
    rest = {f"{name}-{version}.tar.gz" for name in ("edgefleet", "edgefleet_agent")} | {
        f"edgefleet-agent_{version}_all.deb"
    }
    assert set(digests(release)) == {*wheels, *(f"{name}.cdx.json" for name in wheels), *rest} | {
        "CHANGES.md", "SHA256SUMS", "SHA256SUMS.sig", "allowed_signers",
    }  # fmt: skip
    members = [name for wheel in wheels for name in zipfile.ZipFile(release / wheel).namelist()]
    assert [name for name in members if name.endswith("/help.tar.xz")]
    with tarfile.open(release / f"edgefleet-{version}.tar.gz") as source:
        members += source.getnames()
    assert [name for name in members if re.match(r"(edgefleet[^/]*/)?tests/", name) or name.endswith(".pyc")] == []


def test_the_bills_of_materials_are_valid_and_say_what_is_needed(release: Path) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for path in release.glob("*.cdx.json"):
        assert validator.validate_str(path.read_text()) is None
        bill = json.loads(path.read_text())
        own = bill["metadata"]["component"]
        assert own["hashes"][0]["content"] == digests(release)[path.name.removesuffix(".cdx.json")]
        names = {component["name"]: component for component in bill["components"]}
        assert names["cryptography"]["scope"] == "required"
        assert names["onnxruntime"]["scope"] == "optional"
        assert "pytest" not in names


def test_a_dry_run_makes_the_same_bytes_without_a_key_and_a_tag(clone: Path, release: Path) -> None:
    tags = git(clone, "tag", "--list")
    done = run(TRY_IT, clone)
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    assert (made / signature.SUMS).read_bytes() == (release / signature.SUMS).read_bytes()
    assert run(VERIFY, made).returncode == 0
    assert git(clone, "tag", "--list") == tags
    assert git(clone, "status", "--porcelain") == ""


def test_anybody_builds_the_tag_again_and_has_what_was_signed(clone: Path, release: Path) -> None:
    done = run(AGAIN, clone, TAG=f"v{versions(clone)['pyproject.toml']}")
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    assert digests(made) == digests(release)
    assert run(VERIFY, made).returncode == 0
