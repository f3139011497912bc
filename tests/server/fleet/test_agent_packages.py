"""The agent for machines that are no devices yet: what the device listener hands out, the line that fetches it, and the installer."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from edgefleet_cli.admin import agent_package_commands
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.enrolment import agent_installer, agent_packages
from tests.server.fleet.apps import Operators, device_client
from tests.server.fleet.house import House

WHEEL = "edgefleet_agent-0.1.0-py3-none-any.whl"
DEB = "edgefleet-agent_0.1.0_all.deb"


@pytest.fixture
def client(house: House) -> TestClient:
    """A client of the device listener."""
    made = device_client(house)
    made.base_url = made.base_url.copy_with(path="/agent/")
    return made


@pytest.fixture
def folder(house: House) -> Path:
    """The folder of packages, with one of each kind."""
    made = house.settings.agent_packages_dir
    made.mkdir()
    (made / WHEEL).write_bytes(b"a wheel")
    (made / DEB).write_bytes(b"a package")
    return made


def sha256(data: bytes) -> str:
    """Return a digest as text."""
    return hashlib.sha256(data).hexdigest()


def install_line(house: House) -> str | None:
    """Return the line that an operator gets with a token."""
    answer = Operators(house).as_role(Role.OPERATOR).post("/enrollments", json={})
    line: str | None = answer.json()["install"]
    return line


def test_without_a_package_there_is_no_line_and_the_next_step_is_said(house: House, client: TestClient) -> None:
    assert install_line(house) is None
    assert "edgectl server agent-packages add" in client.get("").text
    refused = client.get("install.sh")
    assert (refused.status_code, refused.json()["code"]) == (404, "agent.package_not_found")
    assert "edgectl server agent-packages add" in refused.json()["next"]


def test_packages_are_handed_out_without_a_token_and_once_to_who_keeps_them(client: TestClient, folder: Path) -> None:
    assert all(name in client.get("").text for name in (WHEEL, DEB, sha256(b"a wheel")))
    answer = client.get(WHEEL)
    assert (answer.content, answer.headers["etag"]) == (b"a wheel", f'"{sha256(b"a wheel")}"')
    assert client.get(WHEEL, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    newer = WHEEL.replace("0.1.0", "0.0.9")  # an operator may go back: what was added last counts
    (folder / newer).write_bytes(b"another")
    os.utime(folder / WHEEL, ns=(1, 1))
    assert client.get(WHEEL).status_code == 404
    assert client.get(newer).content == b"another"


@pytest.mark.parametrize(
    "name", ["notes.txt", "..%2Fkeys%2Froot.pem", "%2e%2e/keys/root.pem", "", WHEEL.replace("0.1.0", "0.1.0%2F..")]
)
def test_nothing_else_is_handed_out(client: TestClient, folder: Path, name: str) -> None:
    (folder / "notes.txt").write_text("mine")
    answer = client.get(name)
    assert answer.status_code == 404 or (name == "" and "mine" not in answer.text)


def test_a_link_and_a_file_that_is_too_large_are_no_packages(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / DEB).unlink()
    (folder / DEB).symlink_to(folder / WHEEL)
    assert client.get(DEB).status_code == 404
    monkeypatch.setattr(agent_packages, "MAX_PACKAGE_BYTES", 3)
    assert client.get(WHEEL).status_code == 404


def test_the_command_adds_only_what_is_served() -> None:
    assert agent_package_commands.MAX_PACKAGE_BYTES == agent_packages.MAX_PACKAGE_BYTES
    assert list(agent_package_commands.KINDS.values()) == list(agent_packages._NAMES.values())


def test_the_line_pins_the_ca_that_devices_are_shown(house: House, folder: Path) -> None:
    line = install_line(house)
    assert line is not None
    shown = device_client(house).get("ca").content
    assert f"echo '{sha256(shown)}  ca.pem' | sha256sum -c && curl -qfsSo install.sh --cacert ca.pem https://" in line
    assert "efc1." not in line


def test_no_shell_reads_a_pattern_into_the_address() -> None:
    line = agent_installer.install_line("https://[::1]:8443", "0" * 64)
    assert "curl -qfsSko ca.pem 'https://[::1]:8443/device/v1/ca' &&" in line
    assert "--cacert ca.pem 'https://[::1]:8443/agent/install.sh' &&" in line


@pytest.mark.parametrize("broken", ["mktemp", "curl", "sha256sum"])
def test_the_line_stops_at_the_first_step_that_fails(tmp_path: Path, broken: str) -> None:
    programs, there = tmp_path / "bin", tmp_path / "there"
    programs.mkdir()
    there.mkdir()
    stand_in(programs / "curl", "while [ $# -gt 0 ]; do case $1 in *o) echo 'touch ran' >$2 ;; esac; shift; done")
    stand_in(programs / broken, "exit 127")
    line = agent_installer.install_line("https://fleet:8443", sha256(b"touch ran\n"))
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    assert subprocess.run(["sh", "-c", line], cwd=there, env=environment, check=False).returncode != 0
    assert list(there.iterdir()) == []
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    ("change", "stdin", "why"),
    [
        (b"a wheel", "efc1.token\n", "--profile"),
        (b"a wheel!", "efc1.token\n", "is not the file that the server named"),
        (b"a wheel", "", "no claim token"),
        (b"a wheel", "../../x\n", "no claim token"),
    ],
    ids=["whole", "changed", "no token", "not a token"],
)
def test_the_installer_stops_before_it_changes_anything(
    client: TestClient, folder: Path, tmp_path: Path, change: bytes, stdin: str, why: str
) -> None:
    script, programs, home = tmp_path / "install.sh", tmp_path / "bin", tmp_path / "home"
    script.write_bytes(client.get("install.sh").content)
    home.mkdir()
    programs.mkdir()
    (tmp_path / "wheel").write_bytes(change)
    stand_in(programs / "id", "echo 1000")  # a user
    stand_in(programs / "curl", f'while [ "$1" != -o ]; do shift; done; cp {shlex.quote(str(tmp_path / "wheel"))} "$2"')
    # it is there, but makes no environment
    stand_in(programs / "python3", 'case "$*" in -c*) ;; *) echo "no --profile here" >&2; exit 3 ;; esac')
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home)}
    ran = subprocess.run(
        ["sh", script], input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert ran.returncode != 0
    assert why in ran.stderr
    assert list(home.iterdir()) == []


def part_of_installer(client: TestClient, folder: Path, call: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run a function of the installer among programs that stand in for those of a system."""
    for name, body in programs.items():
        stand_in(folder / name.replace("_", "-"), body)
    text = client.get("install.sh").text.removesuffix('main "$@"\n')
    text += (
        f"tmp={shlex.quote(str(folder))}; cd $tmp; program=$tmp/edge-agent; state=$tmp/state; token=efc1.x\n{call}\n"
    )
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}
    return subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_the_installer_shows_what_apt_says_only_when_it_fails(client: TestClient, folder: Path, tmp_path: Path) -> None:
    good = part_of_installer(client, tmp_path, "install_deb", apt_get="echo Unpacking; echo Unpacking >&2")
    assert good.returncode == 0
    assert "Unpacking" not in good.stdout + good.stderr
    bad = part_of_installer(client, tmp_path, "install_deb", apt_get="echo dpkg was interrupted >&2; exit 100")
    assert bad.returncode == 1
    assert all(
        word in bad.stderr for word in ("dpkg was interrupted", "error: ", "why: ", "next: ", "EDGEFLEET_NO_DEB=1")
    )


def test_the_installer_repeats_no_next_step_that_it_does_itself(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    agent = (
        "echo 'waiting for approval' >&2; read -r token; echo \"enrolled with $token\"; echo 'next: `edge-agent run`'"
    )
    enrolled = part_of_installer(client, tmp_path, 'as_agent() { "$@"; }; enrol', edge_agent=agent)
    assert (enrolled.returncode, enrolled.stdout) == (0, "enrolled with efc1.x\n")
    assert "waiting for approval" in enrolled.stderr
    refused = part_of_installer(client, tmp_path, 'as_agent() { "$@"; }; enrol; echo on', edge_agent="exit 3")
    assert (refused.returncode, refused.stdout) == (3, "")


def stand_in(path: Path, body: str) -> None:
    """Write a program."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_the_installer_quotes_what_the_server_writes_into_it(client: TestClient, folder: Path) -> None:
    text = client.get("install.sh").text
    assert text.startswith("#!/bin/sh\n")
    for name in ("url", "ca", "wheel", "wheel_sha256", "deb", "deb_sha256", "unit"):
        assert f"\n{name}=" in text
    assert f"\nwheel_sha256={sha256(b'a wheel')}\n" in text
    assert "ExecStart=/opt/edgefleet/bin/edge-agent" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert sys.executable not in text
