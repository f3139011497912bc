"""The soak `packages`: the server's packages are built, the .deb twice, then installed by dpkg and by rpm, and the server runs from each.

Both are installed into a Debian 13 of their own, made by mmdebstrap and entered by chroot, so needs root and a network. Its Python is 3.13,
so the .rpm is one for that version; of the released one, for 3.12, what it needs is checked when it is built.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.house.arm import sources
from tests.house.tree import ROOT
from tests.release import artefacts
from tests.release.image_runs import WAIT_S, free_port
from tests.release.images import SUITE
from tests.release.packages import build_server

DATA = "var/lib/edgefleet-server"
INCLUDED = "python3,mosquitto,systemd-standalone-sysusers,util-linux"


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command. Raises RuntimeError with what it complained about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done


def settings_of(root: Path) -> dict[str, str]:
    """Return the settings file of the package as systemd reads it."""
    lines = (root / "etc/edgefleet/server.env").read_text().splitlines()
    return dict(shlex.split(line)[0].split("=", 1) for line in lines if line and not line.startswith("#"))


def answers(root: Path) -> bool:
    """Make a server in an installed system, as its user, and start it there; return whether it says that it is ready."""
    # the signing process reaches its folder through /proc, which is mounted where nobody else sees it
    mounted = ["unshare", "-m", "sh", "-c", 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"']
    as_user: list[str | Path] = [*mounted, root, "runuser", "-u", "edgefleet-server", "--", "edgectl", "server"]
    run(*as_user, "init", f"/{DATA}")
    ports = [free_port() for _ in range(3)]
    flags = [f"--{name}={port}" for name, port in zip(("port", "device-port", "broker-port"), ports, strict=True)]
    log = root / "tmp/server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [*as_user, "start", "--data", f"/{DATA}", *flags],
            env={**os.environ, **settings_of(root)},
            stdout=sink,
            stderr=sink,
        )
    try:
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/readyz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise RuntimeError(f"the server is not ready: {log.read_text(errors='replace')[-3000:]}")
    finally:
        server.terminate()
        server.wait(timeout=90)


def _is_of(root: Path, path: Path, user: str) -> bool:
    """Return whether a path in an installed system belongs to that user of it."""
    lines = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    return path.stat().st_uid in {int(fields[2]) for fields in lines if fields[0] == user}


def installed(root: Path, install: Callable[[], None], remove: Callable[[], None]) -> dict[str, bool]:
    """Install, run, install again, remove; return what was seen."""
    install()
    data = root / DATA
    seen = {"folder_is_private": data.stat().st_mode & 0o7777 == 0o700 and _is_of(root, data, "edgefleet-server")}
    seen["nothing_is_enabled"] = not [*(root / "etc/systemd/system").rglob("edge-*")]
    seen["it_answers"] = answers(root)
    changed = root / "etc/edgefleet/server.env"
    changed.write_text(changed.read_text() + "# mine\n")
    install()
    seen["settings_stay"] = changed.read_text().endswith("# mine\n")
    remove()
    seen["code_is_gone"] = not (root / "usr/lib/edgefleet-server").exists()
    seen["data_stays"] = (data / "edgefleet.db").is_file() and (data / "keys").is_dir()
    return seen


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Do it n times. seed: nothing is drawn."""
    del seed
    report: dict[str, Any] = {"ok": True}
    for _ in range(n):
        with tempfile.TemporaryDirectory(prefix="edgefleet-packages-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            report |= _once(folder)
    report["ok"] = report["same_bytes"] and all(report["deb"].values()) and all(report["rpm"].values())
    return report


def _once(folder: Path) -> dict[str, Any]:
    wheels = folder / "wheels"
    artefacts.build_python(ROOT, wheels, artefacts.epoch_of(ROOT, "HEAD"), ("wheel",))
    say = sys.stderr.write
    say("packages: building the .deb twice\n")
    deb, again = (build_server(ROOT, wheels, folder / out, kind="deb", arch="amd64") for out in ("first", "second"))
    say("packages: building the .rpm, of Python 3.13\n")
    rpm = build_server(ROOT, wheels, folder / "first", kind="rpm", arch="amd64", python="3.13")
    say("packages: making a Debian system\n")
    base = folder / "deb"
    run("mmdebstrap", "--variant=minbase", "--quiet", f"--include={INCLUDED}", SUITE, base, *sources(SUITE))
    other = folder / "rpm"
    run("cp", "-a", base, other)
    shutil.copy(deb, base / "tmp/package.deb")
    dpkg = ("chroot", base, "dpkg")
    in_rpm = ("rpm", f"--root={other}", "--nodeps")
    say("packages: installing, running and removing both\n")
    return {
        "bytes": {one.name: one.stat().st_size for one in (deb, rpm)},
        "same_bytes": deb.read_bytes() == again.read_bytes(),
        "deb": installed(
            base,
            lambda: void(run(*dpkg, "--force-confold", "-i", "/tmp/package.deb")),
            lambda: void(run(*dpkg, "--purge", "edgefleet-server")),
        ),
        "rpm": installed(
            other,
            lambda: void(run(*in_rpm, "-U", "--replacepkgs", rpm)),
            lambda: void(run(*in_rpm, "-e", "edgefleet-server")),
        ),
    }


def void(_done: subprocess.CompletedProcess[str]) -> None:
    """Forget what a command printed."""


if __name__ == "__main__":
    raise SystemExit("run it as `./dev soak packages`")
