"""The agent for machines that are no devices yet: what the device listener hands out, the line that fetches it, and the installer."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from edgefleet_cli.admin import agent_package_commands
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.composition.container import build_parts
from edgefleet_server.fleet.enrolment import agent_installer, agent_packages
from edgefleet_server.fleet.enrolment.agent_packages import AgentPackages, PackageKind
from edgefleet_server.fleet.tables import FleetAgentPackage
from edgefleet_server.process.blob_collection.name_reader import named_digests
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.model import Publication, SourceFile
from tests.server.fleet.apps import Operators, device_client
from tests.server.fleet.house import PROFILE, House

WHEEL = "edgefleet_agent-0.1.0-py3-none-any.whl"
DEB = "edgefleet-agent_0.1.0_all.deb"


@pytest.fixture
def client(house: House) -> TestClient:
    """A client of the device listener."""
    made = device_client(house)
    made.base_url = made.base_url.copy_with(path="/agent/")
    return made


@pytest.fixture
def added(house: House) -> AgentPackages:
    """A server that hands out one package of each kind."""
    house.fleet.packages.add(WHEEL, b"a wheel")
    house.fleet.packages.add(DEB, b"a package")
    return house.fleet.packages


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


def test_packages_are_handed_out_without_a_token_and_once_to_who_keeps_them(
    client: TestClient, added: AgentPackages
) -> None:
    assert all(name in client.get("").text for name in (WHEEL, DEB, sha256(b"a wheel")))
    answer = client.get(WHEEL)
    assert (answer.content, answer.headers["etag"]) == (b"a wheel", f'"{sha256(b"a wheel")}"')
    assert client.get(WHEEL, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    newer = WHEEL.replace("0.1.0", "0.0.9")  # an operator may go back: what was added last counts
    added.add(newer, b"another")
    assert client.get(WHEEL).status_code == 404
    assert client.get(newer).content == b"another"


@pytest.mark.parametrize(
    "name", ["notes.txt", "..%2Fkeys%2Froot.pem", "%2e%2e/keys/root.pem", "", WHEEL.replace("0.1.0", "0.1.0%2F..")]
)
def test_nothing_else_is_handed_out(house: House, client: TestClient, added: AgentPackages, name: str) -> None:
    house.registry.put_blob_bytes(b"mine")
    answer = client.get(name)
    assert answer.status_code == 404 or (name == "" and "mine" not in answer.text)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("notes.txt", b"mine", "is not the name"),
        (f"../{WHEEL}", b"mine", "is not the name"),
        (WHEEL, b"many", "at most 3"),
    ],
)
def test_only_a_package_of_the_agent_is_added(
    house: House, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, why: str
) -> None:
    monkeypatch.setattr(agent_packages, "MAX_PACKAGE_BYTES", 3)
    with pytest.raises(agent_packages.BadAgentPackageError, match=why):
        house.fleet.packages.add(name, data)
    assert house.fleet.packages.all() == []


def test_who_can_write_to_the_store_cannot_plant_an_agent(
    house: House, client: TestClient, added: AgentPackages
) -> None:
    wheel = added.find(PackageKind.WHEEL)
    assert wheel is not None
    assert added.problem(wheel) == ""
    for planted, code in (
        (b"a spies", "package_damaged"),
        (b"a spies.", "package_damaged"),
        (b"a spy", "store_failed"),
    ):
        (house.settings.blobs_dir / wheel.sha256[:2] / wheel.sha256).write_bytes(planted)
        answer = client.get(WHEEL)
        assert answer.status_code == 503
        assert answer.json()["code"].endswith(code)
        assert added.problem(wheel) != ""
    added.add(WHEEL, b"a wheel 2")
    assert client.get(WHEEL).content == b"a wheel 2"


def test_a_release_with_the_same_bytes_takes_no_package_with_it(house: House, added: AgentPackages) -> None:
    parts = build_parts(house.settings, house.clock)
    wheel, ref = added.find(PackageKind.WHEEL), ReleaseRef.parse("copy@1.0.0")
    assert wheel is not None
    file = SourceFile("model.onnx", wheel.sha256, wheel.length)
    other = SourceFile("other.onnx", house.registry.put_blob_bytes(b"its own"), 7)
    house.registry.publish(Publication(ref, "folder", (file, other), (ProfileName(PROFILE),), (), {}, {}), "test")
    assert parts.registry.withdrawals.remove(ref, "test", "") == [other.sha256]
    parts.db.dispose()


def test_garbage_collection_leaves_packages(house: House, added: AgentPackages) -> None:
    assert {package.sha256 for package in added.all()} <= named_digests(house.db)


def test_an_old_folder_is_taken_in_once_and_what_was_added_later_stays(
    house: House, client: TestClient, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"  # two hosts of a version before
    for folder, name, changed_s in ((first, WHEEL, 200), (first, DEB, 100), (second, WHEEL, 100), (second, DEB, 200)):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(f"{folder.name} {name}".encode())
        os.utime(folder / name, (changed_s, changed_s))
    (second / "notes.txt").write_text("mine")
    packages = house.fleet.packages
    assert [one.name for one in packages.take_over(first)] == [WHEEL, DEB]
    assert [one.name for one in packages.take_over(second)] == [DEB]
    assert (client.get(WHEEL).text, client.get(DEB).text) == (f"first {WHEEL}", f"second {DEB}")
    assert not first.exists()
    assert [path.name for path in second.iterdir()] == ["notes.txt"]
    assert packages.take_over(first) == packages.take_over(second) == []
    packages.add(WHEEL, b"added")
    first.mkdir()
    (first / WHEEL).write_bytes(b"older")
    os.utime(first / WHEEL, (300, 300))
    assert packages.take_over(first) == []
    assert client.get(WHEEL).content == b"added"


def test_a_link_and_a_file_that_is_too_large_are_not_taken(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "agent-packages").mkdir()
    (folder / WHEEL).write_bytes(b"a wheel")
    (folder / DEB).symlink_to(folder / WHEEL)
    monkeypatch.setattr(agent_packages, "MAX_PACKAGE_BYTES", 3)
    assert house.fleet.packages.take_over(folder) == []
    assert len(list(folder.iterdir())) == 2


def test_another_host_hands_out_what_was_added_here(house: House, added: AgentPackages) -> None:
    there = AgentPackages(house.db, house.registry, house.clock)
    for data in (b"a wheel", b"another"):
        house.fleet.packages.add(WHEEL, data)
        wheel = there.find(PackageKind.WHEEL)
        assert wheel is not None
        assert there.read(wheel) == data


def test_a_kind_of_a_later_version_is_left_alone(house: House, added: AgentPackages) -> None:
    with house.db.session() as session:
        session.add(FleetAgentPackage(kind="flatpak", name="a", sha256="0" * 64, length=1, added_at=house.clock.now()))
    assert [one.kind for one in added.all()] == [PackageKind.WHEEL, PackageKind.DEB]


def test_hosts_that_take_their_folders_in_at_once_agree(house: House, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / WHEEL).write_bytes(b"wheel of %d" % number)
        os.utime(folder / WHEEL, (1000 + number, 1000 + number))
    with ThreadPoolExecutor(4) as hosts:
        list(hosts.map(house.fleet.packages.take_over, folders))
    found = house.fleet.packages.find(PackageKind.WHEEL)
    assert found is not None
    assert house.fleet.packages.read(found) == b"wheel of 3"
    assert not any(folder.exists() for folder in folders)


def test_a_start_goes_on_when_an_old_folder_cannot_be_taken(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / WHEEL).write_bytes(b"a wheel")

    def away(_data: bytes) -> Sha256:
        raise BlobStoreError("the bucket is away")

    with monkeypatch.context() as patched:
        patched.setattr(house.registry, "put_blob_bytes", away)
        agent_packages.take_over_or_warn(house.fleet.packages, tmp_path)
    assert "stay in the data folder" in caplog.text
    assert (tmp_path / WHEEL).is_file()
    agent_packages.take_over_or_warn(house.fleet.packages, tmp_path)
    assert [one.name for one in house.fleet.packages.all()] == [WHEEL]


def test_the_command_adds_only_what_is_served() -> None:
    assert agent_package_commands.MAX_PACKAGE_BYTES == agent_packages.MAX_PACKAGE_BYTES
    assert list(agent_package_commands.KINDS.values()) == list(agent_packages.NAMES.values())


def test_the_line_pins_the_ca_that_devices_are_shown(house: House, added: AgentPackages) -> None:
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
    client: TestClient, added: AgentPackages, tmp_path: Path, change: bytes, stdin: str, why: str
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


def test_the_installer_shows_what_apt_says_only_when_it_fails(
    client: TestClient, added: AgentPackages, tmp_path: Path
) -> None:
    good = part_of_installer(client, tmp_path, "install_deb", apt_get="echo Unpacking; echo Unpacking >&2")
    assert good.returncode == 0
    assert "Unpacking" not in good.stdout + good.stderr
    bad = part_of_installer(client, tmp_path, "install_deb", apt_get="echo dpkg was interrupted >&2; exit 100")
    assert bad.returncode == 1
    assert all(
        word in bad.stderr for word in ("dpkg was interrupted", "error: ", "why: ", "next: ", "EDGEFLEET_NO_DEB=1")
    )


def test_the_installer_repeats_no_next_step_that_it_does_itself(
    client: TestClient, added: AgentPackages, tmp_path: Path
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


def test_the_installer_quotes_what_the_server_writes_into_it(client: TestClient, added: AgentPackages) -> None:
    text = client.get("install.sh").text
    assert text.startswith("#!/bin/sh\n")
    for name in ("url", "ca", "wheel", "wheel_sha256", "deb", "deb_sha256", "unit"):
        assert f"\n{name}=" in text
    assert f"\nwheel_sha256={sha256(b'a wheel')}\n" in text
    assert "ExecStart=/opt/edgefleet/bin/edge-agent" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert sys.executable not in text
