"""Container images: the Dockerfiles are clean, a root file system is put together and entered, and its papers hold.

Whole images are built and run by the soak `images`, which takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.house.tree import ROOT
from tests.release import image_runs, signature
from tests.release.image_papers import encoded, sbom_of_root, sign, statement_of, verified
from tests.release.refusal import RefusalError

FOLDER = ROOT / "deploy" / "docker"
DIGEST = "sha256:" + "ab" * 32
needs_key = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here: openssh-client")


@pytest.mark.parametrize("name", ["Dockerfile.server", "Dockerfile.agent"])
def test_hadolint_finds_nothing(name: str) -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, FOLDER / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["Dockerfile.server", "Dockerfile.agent"])
def test_the_last_stages_run_nothing_and_not_as_root(name: str) -> None:
    last = (FOLDER / name).read_text().partition("FROM scratch")[2]
    words = [line.split()[0] for line in last.splitlines() if line and line[0].isalpha()]
    assert "RUN" not in words
    assert {"USER", "HEALTHCHECK", "STOPSIGNAL", "VOLUME", "ENTRYPOINT"} <= set(words)
    assert "USER 10001:0" in last


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("apt-get") is None or not Path("/usr/bin/python3.13").exists(),
    reason="needs root, apt and Debian 13's Python, which the image gets as well",
)
def test_the_images_have_the_library_that_numpy_and_the_runtimes_link() -> None:
    """Their wheels bring none, and no Debian package of the images needs it."""
    for name in ("Dockerfile.server", "Dockerfile.agent"):
        text = (ROOT / "deploy/docker" / name).read_text("utf-8")
        system = text[text.index("root_filesystem.py os") :].partition("FROM")[0]
        assert " libstdc++6 " in system, name


def test_a_root_file_system_is_entered_as_its_user_and_probed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    command = ["/usr/bin/python3.13", str(FOLDER / "root_filesystem.py"), "os", str(root), "--arch", "amd64"]
    subprocess.run([*command, "--data", "/var/lib/edgefleet-agent", "python3-minimal"], check=True, capture_output=True)
    data = root / "var/lib/edgefleet-agent"
    assert (data.stat().st_uid, data.stat().st_gid, data.stat().st_mode & 0o7777) == (10001, 0, 0o770)
    for tool in ("apt", "dpkg", "perl", "sh", "bash"):
        assert not (root / "usr/bin" / tool).exists(), tool
    for module in (root / "usr/lib/python3.13").glob("__pycache__/*.pyc"):
        assert module.read_bytes()[4:8] == b"\x01\x00\x00\x00", "byte code is not compared with its source"
    shutil.copy(FOLDER / "probe.py", root / "probe")
    probe = [
        "chroot",
        "--userspec=10001:0",
        str(root),
        "/usr/bin/python3.13",
        "-c",
        "import os, json; print(os.getuid())",
    ]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert done.stdout == "10001\n", done.stderr
    bill = json.loads(sbom_of_root(root, "edgefleet/agent:1.2.3", DIGEST, 1_767_225_600))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert {"libc6", "python3.13-minimal"} <= {component["name"] for component in bill["components"]}
    assert bill["metadata"]["component"]["type"] == "container"


@needs_key
def test_provenance_is_verified_and_nothing_else_is(tmp_path: Path) -> None:
    key = signature.throwaway_key(tmp_path)
    signers = tmp_path / "signers"
    signers.write_text(signature.signers_of(key))
    statement = statement_of("edgefleet/agent:1.2.3", DIGEST, "cafe", "deploy/docker/Dockerfile.agent")
    envelope = sign(statement, key)
    assert verified(envelope, signers, DIGEST) == statement
    with pytest.raises(RefusalError, match="another image"):
        verified(envelope, signers, "sha256:" + "cd" * 32)
    other = json.loads(envelope)
    other["payload"] = json.loads(sign({**statement, "subject": []}, key))["payload"]
    with pytest.raises(RefusalError, match="verified"):
        verified(json.dumps(other), signers, DIGEST)


def test_what_is_signed_is_what_dsse_says() -> None:
    assert encoded(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


def test_the_soak_types_the_whole_page_with_names_of_its_own() -> None:
    ports = {"API": 1, "DEVICE": 2, "BROKER": 3, "INFER": 4}
    tags = {name: f"localhost/{name}" for name in ("server", "agent", "converter")}
    others = image_runs.replaced(Path("/run-of-it"), tags, ports)
    texts = image_runs.texts()
    assert ["name server" in texts[0], "name agent" in texts[1], "publish" in texts[2]] == [True] * 3
    page, made = "\n".join(texts), "\n".join(image_runs.typed(text, others) for text in texts)
    for word, other in others.items():
        assert word in page, f"the page no longer has {word}"
        assert other in made, f"{word} is replaced by something that another replaces"
    assert not re.search(r":0\.1\.0|:8080|:8500|:8883|fleet\.example", made)
    for text in made.split("\n\n"):
        subprocess.run(["sh", "-n", "-c", text], check=True)
