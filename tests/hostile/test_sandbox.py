"""A hostile program in the conversion child's place: what it reaches, as root and as a user, with namespaces and without.

The child is started by the code and with the plan of a server; the stand-in server (`sandbox_host.py`) holds what one would steal.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.conversion.sandbox import active_layers

LAYERS = active_layers()
pytestmark = pytest.mark.skipif("syscalls" not in LAYERS, reason="this machine takes no system call filter")
HOST = Path(__file__).with_name("sandbox_host.py")
USER = 60_600
CASES = [(who, namespaces) for who in ("root", "user") for namespaces in (True, False)]
OPEN_WAY = (
    'mkdir -p "$2" && mount --bind "$1" "$2" && mount -t tmpfs -o mode=755 tmpfs "$3" && mkdir -p "$1" && mount --bind "$2" "$1" '
    '&& shift 3 && exec "$@"'
)
"""Shows Python where a user without rights reaches it, in a mount namespace of its own: a developer's Python may lie in /root."""


def command_as(who: str, folder: Path) -> list[str]:
    """Return what a command line must begin with to run as `who`. folder: free for a mount."""
    prefix = []
    closed = next((str(one) for one in Path(sys.base_prefix).parents if not one.stat().st_mode & 1), "")
    if os.geteuid() == 0 and closed:
        prefix = ["unshare", "--mount", "sh", "-ec", OPEN_WAY, "sh", sys.base_prefix, str(folder), closed]
    if who == "user" and os.geteuid() == 0:
        prefix += ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all"]
    return prefix


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{'namespaces' if case[1] else 'none'}")
def seen(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What one child found, as `who` started it."""
    who, namespaces = request.param
    if who == "root" and os.geteuid() != 0:
        pytest.skip("only root can start a server as root")
    if namespaces and "own_root" not in LAYERS:
        pytest.skip("this machine allows no namespaces")
    if not namespaces and "files" not in LAYERS:
        pytest.skip("this kernel has no Landlock")
    marker = f"--token={secrets.token_hex(8)}"
    folder = Path(tempfile.mkdtemp(prefix="ef-hostile-"))
    folder.chmod(0o755)
    (folder / "python").mkdir()
    if who == "user" and os.geteuid() == 0:
        os.chown(folder, USER, USER)
    try:
        done = subprocess.run(
            [*command_as(who, folder / "python"), sys.executable, str(HOST), str(folder), marker, str(int(namespaces))],
            capture_output=True, text=True, check=False, env={**os.environ, "EDGEFLEET_DATABASE_URL": "secret"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        yield json.loads(done.stdout) | {"who": who, "namespaces": namespaces}
    finally:
        shutil.rmtree(folder)


def test_no_attempt_goes_through(seen: dict[str, Any]) -> None:
    through = {name for name, error in seen.items() if name.startswith("try_") and error == 0}
    # Landlock before Linux 6.12 does not check signals, and a user may send them to its own processes.
    assert through <= (set() if seen["namespaces"] or seen["who"] == "root" else {"try_signal"})
    assert seen["pair_of_streams"] == 0, "what libraries need stays"


def test_modes_and_owners_of_the_servers_files_stay(seen: dict[str, Any]) -> None:
    assert (seen["mode"], seen["owner"]) == (0o600, True)


def test_it_has_no_capability_and_a_filter(seen: dict[str, Any]) -> None:
    assert (seen["capabilities"], seen["seccomp"]) == (0, 2)


def test_under_root_it_is_a_user_of_its_own(seen: dict[str, Any]) -> None:
    assert seen["uid"] != 0
    assert (seen["uid"] != seen["host_uid"]) == (seen["who"] == "root")


def test_with_namespaces_nothing_outside_can_be_seen(seen: dict[str, Any]) -> None:
    if seen["namespaces"]:
        assert seen["stat"] == 2, "a file outside is not there"
        assert seen["foreign_cmdlines"] == 0


def test_it_starts_no_flood_of_processes_and_leaves_none(seen: dict[str, Any]) -> None:
    if seen["namespaces"] or seen["who"] == "root":
        assert seen["forks"] < 40
        assert seen["left"] == 0


def test_a_root_that_cannot_become_another_user_converts_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start a server as root")
    plan = {"limits": {}, "read": [], "write": [], "uid": 60_706, "namespaces": False}
    command = [
        "setpriv",
        "--bounding-set=-setuid",
        sys.executable,
        "-P",
        "-m",
        "edgefleet_server.conversion.sandbox_entry",
    ]
    done = subprocess.run(
        [*command, json.dumps(plan), "/bin/true"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (77, "no sandbox: [Errno 1] Operation not permitted\n")


def test_each_layer_of_this_machine_was_measured_by_a_child() -> None:
    expected = {
        "rlimits",
        "dies_with_worker",
        "no_new_privs",
        "no_capabilities",
        "no_unix_sockets",
        "no_network",
        "syscalls",
    }
    assert set(LAYERS) >= expected
