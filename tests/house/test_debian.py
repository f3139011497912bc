"""The Debian package: built from this tree, looked into, and put on a root of its own by dpkg itself, then purged."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.tree import ROOT

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here: no Debian"),
]
MAX_BYTES = 434_500
EXPOSURE = 2.0


def run(*command: str | Path, **environment: str) -> str:
    """Return what a command prints. Fails with what it complained about."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built package."""
    folder = tmp_path_factory.mktemp("deb")
    return Path(run(ROOT / "deploy" / "debian" / "build", folder, SOURCE_DATE_EPOCH="1767225600").strip())


def test_it_holds_the_agent_and_nothing_else(package: Path) -> None:
    assert package.stat().st_size <= MAX_BYTES
    listed = [line.split(maxsplit=5) for line in run("dpkg-deb", "-c", package).splitlines()]
    names = [row[5].removeprefix(".") for row in listed]
    assert {row[1] for row in listed} == {"root/root"}
    assert all(row[0][5] != "w" and row[0][8] != "w" for row in listed), "nothing is writable by others"
    assert "/usr/lib/edgefleet-agent/edgefleet_agent/daemon.py" in names
    assert "/usr/lib/systemd/system/edge-agent.service" in names
    assert not [name for name in names if "edgefleet_server" in name or name.endswith((".pyc", ".so"))]
    assert all(name.startswith("/usr") for name in names if name != "/")
    fields = dict(line.split(": ", 1) for line in run("dpkg-deb", "-f", package).splitlines() if ": " in line)
    assert (fields["Package"], fields["Architecture"]) == ("edgefleet-agent", "all")
    assert {"python3-msgspec", "python3-paho-mqtt", "python3-cryptography"} <= {
        part.split()[0] for part in fields["Depends"].split(", ")
    }


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None, reason="needs root and systemd-sysusers"
)
def test_dpkg_installs_and_purges_it(package: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "usr/bin", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    force = ("--force-depends", "--force-script-chrootless", "--force-not-root", "--no-triggers")
    run("dpkg", f"--root={root}", *force, "-i", package)
    state = root / "var/lib/edgefleet-agent"
    assert state.stat().st_mode & 0o7777 == 0o700
    (line,) = [line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("edgefleet:")]
    assert state.stat().st_uid == int(line.split(":")[2])
    assert "ii" in run("dpkg", f"--root={root}", "-l", "edgefleet-agent").splitlines()[-1]
    # our own Python runs the installed tree, with its own tuf, as the script of the package does
    library = root / "usr/lib/edgefleet-agent"
    code = "import tuf, edgefleet_agent; print(tuf.__file__, edgefleet_agent.__file__)"
    for module in run(shutil.which("python3.11") or "python3", "-c", code, PYTHONPATH=str(library)).split():
        assert module.startswith(str(library))
    enabled = [
        root / "etc/systemd/system" / name
        for name in ("multi-user.target.wants/edge-agent.service", "sockets.target.wants/edge-agent.socket")
    ]
    for link in enabled:  # as `systemctl enable` does
        link.parent.mkdir(parents=True)
        link.symlink_to(f"/usr/lib/systemd/system/{link.name}")
    run("dpkg", f"--root={root}", *force, "--purge", "edgefleet-agent")
    assert not [link for link in enabled if link.is_symlink()]
    assert not library.exists()
    assert not state.exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_the_units_are_sound_and_locked_down(package: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "-x", package, tmp_path)
    (tmp_path / "etc").mkdir()
    service = tmp_path / "usr/lib/systemd/system/edge-agent.service"
    text = service.read_text()
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "ExecStart=/usr/bin/edge-agent run",
        "NoNewPrivileges=yes",
        "Delegate=",
    ):
        assert line in text
    last = run("systemd-analyze", "security", "--offline=true", "--no-pager", service).splitlines()[-1]
    assert float(next(word for word in last.split() if word.replace(".", "").isdigit())) <= EXPOSURE, last
