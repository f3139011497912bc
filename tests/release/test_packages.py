"""System packages: nfpm packs them alike twice, dpkg installs the server's and starts nothing, the agent's .rpm has the files of its .deb.

The server's Python packages are left out here: the whole ones are built, installed and run by the soak `packages`.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.house.tree import ROOT
from tests.release.packages import AGENT_UNITS, SERVER_UNITS, build_agent, check_needs, lay_out, pack, provenance_of
from tests.release.refusal import RefusalError

EPOCH = 1_767_225_600
GIVEN = {"PYTHON": "3.13", "NEXT_PYTHON": "3.14", "ARCH": "amd64"}
FORCED = ("--force-depends", "--force-script-chrootless", "--force-not-root", "--no-triggers", "--force-architecture")


def run(*command: str | Path) -> str:
    """Return what a command prints. Fails with what it complained about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packed(folder: Path, kind: str) -> Path:
    """Lay out and pack the server without its Python packages."""
    stage = folder / "stage"
    site = stage / "tree/usr/lib/edgefleet-server"
    site.mkdir(parents=True)
    (site / "edgefleet_cli.py").write_text("")
    lay_out(ROOT, stage, "3.13")
    return pack(ROOT, stage, folder, "edgefleet-server", kind, GIVEN, EPOCH)


def bare_root(root: Path) -> Path:
    """Make the folders of a system that dpkg can install into, without users."""
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/systemd/system/multi-user.target.wants", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    return root


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_the_same_files_make_the_same_bytes(tmp_path: Path, kind: str) -> None:
    first, second = (packed(tmp_path / name, kind) for name in ("first", "second"))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_scripts_are_sound(tmp_path: Path) -> None:
    lay_out(ROOT, tmp_path, "3.13")
    for script in tmp_path.glob("*.sh"):
        assert "@" not in script.read_text().replace('"$@"', "")
        run("sh", "-n", script)
        if shutil.which("shellcheck"):
            run("shellcheck", "-e", "SC2043", script)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None or shutil.which("dpkg") is None,
    reason="needs root, dpkg and systemd-sysusers",
)
def test_dpkg_installs_it_and_a_purge_leaves_what_it_stored(tmp_path: Path) -> None:
    file = packed(tmp_path, "deb")
    root = bare_root(tmp_path / "root")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    run("dpkg", f"--root={root}", *FORCED, "-i", file)
    assert "edgefleet" not in (line.split(":")[0] for line in (root / "etc/passwd").read_text().splitlines())
    users = dict(line.split(":", 3)[::2] for line in (root / "etc/passwd").read_text().splitlines())
    for user, place in (
        ("edgefleet-server", "var/lib/edgefleet-server"),
        ("edgefleet-server", "var/backups/edgefleet"),
        ("edgefleet-signer", "var/lib/edgefleet-signer"),
    ):
        state = (root / place).stat()
        assert (state.st_uid, state.st_mode & 0o7777) == (int(users[user]), 0o700)
    assert not list((root / "etc/systemd/system").rglob("edge-*")), "nothing is enabled"
    unit = (root / "usr/lib/systemd/system/edge-server.service").read_text()
    assert "ConditionPathExists=/var/lib/edgefleet-server/server.toml" in unit
    for name in SERVER_UNITS:
        assert "/opt/edgefleet/bin/edgectl server" not in (root / "usr/lib/systemd/system" / name).read_text()

    enabled = root / "etc/systemd/system/multi-user.target.wants/edge-server.service"
    enabled.symlink_to("/usr/lib/systemd/system/edge-server.service")  # as `systemctl enable` does
    stored = root / "var/lib/edgefleet-server/edgefleet.db"
    stored.write_text("devices")
    run("dpkg", f"--root={root}", *FORCED, "--purge", "edgefleet-server")
    assert not enabled.is_symlink()
    assert not (root / "usr/lib/edgefleet-server").exists()
    assert not (root / "etc/edgefleet/server.env").exists()
    assert stored.read_text() == "devices"


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None or shutil.which("dpkg") is None,
    reason="needs root, dpkg and systemd-sysusers",
)
def test_what_the_server_stored_as_the_agent_s_user_is_handed_over_at_an_upgrade(tmp_path: Path) -> None:
    file = packed(tmp_path, "deb")
    root = bare_root(tmp_path / "root")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nedgefleet:x:650:650::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nedgefleet:x:650:\n")
    of_server, backup = root / "var/lib/edgefleet-server/keys/root.pem", root / "var/backups/edgefleet/one.age"
    of_agent, of_root = root / "var/lib/edgefleet-agent/identity", root / "var/lib/edgefleet-server/note"
    for one in (of_server, backup, of_agent):
        one.parent.mkdir(parents=True)
        one.write_text("secret")
        for path in (one, one.parent):
            os.chown(path, 650, 650)
    os.chown(root / "var/lib/edgefleet-server", 650, 650)
    of_root.touch()
    (root / "var/lib/edgefleet-server/link").symlink_to(of_agent)
    for _ in range(2):  # a second installation finds nothing to do
        run("dpkg", f"--root={root}", *FORCED, "-i", file)
        passwd = (line.split(":") for line in (root / "etc/passwd").read_text().splitlines())
        (user,) = (int(fields[2]) for fields in passwd if fields[0] == "edgefleet-server")
        owners = {path: path.stat().st_uid for path in (of_server, of_server.parent, backup, of_agent, of_root)}
        assert owners == {of_server: user, of_server.parent: user, backup: user, of_agent: 650, of_root: 0}
    assert user != 650


def test_no_unit_of_the_server_runs_as_the_agent_s_user() -> None:
    def users(names: Sequence[str]) -> set[str]:
        lines = [line for name in names for line in (ROOT / "deploy" / name).read_text().splitlines()]
        return {line.partition("=")[2] for line in lines if line.startswith(("User=", "Group="))}

    of_server, of_agent = users(SERVER_UNITS), users(AGENT_UNITS)
    assert of_server == {"edgefleet-server", "edgefleet-signer"}
    assert of_agent == {"edgefleet"}  # devices have it since 0.1.0


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("edgefleet-server_0.1.0-1_amd64.deb", "deploy/packages/edgefleet-server.yaml"),
        ("edgefleet-server-0.1.0-1.x86_64.rpm", "deploy/packages/edgefleet-server.yaml"),
        ("edgefleet-agent-0.1.0-1.noarch.rpm", "deploy/packages/edgefleet-agent.yaml"),
    ],
)
def test_the_provenance_names_files_that_make_the_package_again(tmp_path: Path, name: str, recipe: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"package")
    predicate = provenance_of(ROOT, file, "c0ffee")["predicate"]
    definition = predicate["buildDefinition"]
    assert definition["externalParameters"]["recipe"] == recipe
    pages = (definition["buildType"], predicate["runDetails"]["builder"]["id"])
    for path in (recipe, *(page.partition("/blob/main/")[2] for page in pages)):
        assert (ROOT / path).is_file(), path
    assert "packages" in pages[1]


def test_what_debian_s_and_red_hat_s_tools_expect_is_inside(tmp_path: Path) -> None:
    deb = packed(tmp_path / "one", "deb")
    run("dpkg-deb", "-R", deb, tmp_path / "deb")
    documents = tmp_path / "deb/usr/share/doc/edgefleet-server"
    changes = gzip.decompress((documents / "changelog.Debian.gz").read_bytes()).decode()
    assert changes.startswith("edgefleet-server (0.")
    assert (documents / "copyright").read_text() == (ROOT / "LICENSE").read_text()
    assert (tmp_path / "deb/DEBIAN/conffiles").read_text().split() == ["/etc/edgefleet/server.env"]
    for script in ("postinst", "prerm", "postrm"):
        assert "\nset -e\n" in (tmp_path / "deb/DEBIAN" / script).read_text()
    if shutil.which("rpm"):
        rpm = packed(tmp_path / "two", "rpm")
        assert "says what changed" in run("rpm", "-qp", "--changelog", rpm)
        assert run("rpm", "-qpc", rpm).split() == ["/etc/edgefleet/server.env"]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(
    shutil.which("rpm") is None or shutil.which("dpkg-deb") is None, reason="needs rpm and dpkg-deb of Debian"
)
def test_the_agent_s_rpm_has_the_files_of_its_deb(tmp_path: Path) -> None:
    file = build_agent(ROOT, tmp_path)
    names = run("rpm", "-qpl", file).splitlines()
    assert {"/usr/bin/edge-agent", "/usr/lib/edgefleet-agent/edgefleet_agent/daemon.py"} <= set(names)
    assert "/usr/lib/systemd/system/edge-agent.service" in names
    assert run("rpm", "-qp", "--qf", "%{ARCH} %{BUILDHOST}", file) == "noarch edgefleet"
    assert "python3-msgspec >= 0.19" in run("rpm", "-qp", "--requires", file)
    root = tmp_path / "root"
    run("rpm", f"--root={root}", "--nodeps", "--noscripts", "-i", file)
    assert "edgefleet_agent" in (root / "usr/bin/edge-agent").read_text()


def test_the_payload_is_one_that_enterprise_linux_and_debian_read(tmp_path: Path) -> None:
    members = run("ar", "t", packed(tmp_path, "deb")).split()
    assert members == ["debian-binary", "control.tar.gz", "data.tar.zst"]


def test_what_another_python_would_lack_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "one-1.0.dist-info"
    folder.mkdir()
    needs = 'Requires-Dist: backport; python_version < "3.13"\nRequires-Dist: extra; extra == "more"\n'
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: one\nVersion: 1.0\n{needs}")
    check_needs(tmp_path, "3.13")
    with pytest.raises(RefusalError, match=r"backport \(of one\)"):
        check_needs(tmp_path, "3.12")
