"""Whole Debian systems for `./dev soak installer`, made by mmdebstrap in a folder, and what runs commands in them.

- `Booted`: systemd is process 1, in systemd-nspawn with the network of this machine; commands come in by nsenter, a reboot is real.
- `Emulated`: aarch64 by qemu-user, without an init. Its programs start by themselves because binfmt_misc is mounted in a user
  namespace of their own: this machine's own table is not touched.

Both need root. A system reaches package indexes as this machine does: it gets its resolver, CA certificates and address of the index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, Self

import psutil

from tests.agent.field import eventually
from tests.house.arm import sources

BASE: Final = ("python3", "curl", "ca-certificates")
"""What the page asks a device to have, and certificates for its package index."""
REBOOTS: Final = 133
"""How systemd-nspawn ends when the system wants to be started again."""
BOOT_S: Final = 60.0
MAKE_S: Final = 1_200
BINFMT = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PLAIN: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class RootError(Exception):
    """A system was not made or did not start."""


class Root(ABC):
    """A root file system in a folder, and a process that is process 1 in it. A context manager: it ends with the block."""

    FLAGS: ClassVar[tuple[str, ...]] = ()
    """Further flags of mmdebstrap."""
    COMMAND_S: ClassVar = 500

    def __init__(self, folder: Path, suite: str, packages: Sequence[str], arch: str) -> None:
        """Make the root and start it. Raises RootError."""
        self.root = folder / "root"
        command = [
            *self.around(), "nice", "mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--arch={arch}", *self.FLAGS,
            f"--include={','.join(packages)}", suite, str(self.root), *sources(suite),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MAKE_S)
        if done.returncode:
            raise RootError(f"mmdebstrap {suite} {arch}: {done.stderr[-1500:]}")
        self.put(Path("/etc/resolv.conf"), "/etc/resolv.conf")
        if CERTIFICATES.is_file():
            self.put(CERTIFICATES, str(CERTIFICATES))
        self.log = folder / "console.log"
        self.start()

    @abstractmethod
    def around(self) -> Sequence[str]:
        """Return what a command is started by that works on the root from outside."""

    @abstractmethod
    def inside(self) -> Sequence[str]:
        """Return what a command is started by that runs in the system. Raises RootError when the system does not run."""

    @abstractmethod
    def start(self) -> None:
        """Start process 1. Raises RootError."""

    @abstractmethod
    def close(self) -> None:
        """End all that runs in it."""

    def run(self, script: str) -> str:
        """Run a script in the system as root and return both streams. Raises AssertionError when it fails."""
        given = {
            name: os.environ[name] for name in ("PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY") if name in os.environ
        }
        done = subprocess.run(
            [*self.inside(), "sh", "-c", script],
            env=PLAIN | given | ({"PIP_CERT": str(CERTIFICATES)} if CERTIFICATES.is_file() else {}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", check=False, timeout=self.COMMAND_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}: exit {done.returncode}: {done.stdout[-2500:]}"
        return done.stdout

    def put(self, source: Path, target: str) -> None:
        """Copy a file into the system."""
        shutil.copy(source, self.root / target.lstrip("/"))

    def console(self) -> str:
        """Return the end of what process 1 wrote."""
        return self.log.read_text(errors="replace")[-1500:]

    def __enter__(self) -> Self:
        """Return the system."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


class Booted(Root):
    """A system of this machine's processor with a running systemd."""

    def around(self) -> Sequence[str]:
        """Return the command that keeps what mmdebstrap mounts out of this machine, also when it is killed."""
        return ("unshare", "--mount")

    def inside(self) -> Sequence[str]:
        """Return the command that enters the system."""
        return ("nsenter", f"--target={self.first()}", "--all", "--root", "--wd")

    def first(self) -> int:
        """Return the id of the system's process 1. Raises RootError."""
        with suppress(psutil.Error, OSError):
            for child in psutil.Process(self._nspawn.pid).children():
                if f"\t{child.pid}\t1\n" in Path(f"/proc/{child.pid}/status").read_text():
                    return int(child.pid)
        raise RootError(f"the system does not run: {self.console()}")

    def start(self) -> None:
        """Start systemd and wait until it has started everything. Raises RootError."""
        name = f"ef-{self.root.parent.name}-{os.getpid()}"
        with self.log.open("ab") as sink:
            self._nspawn = subprocess.Popen(
                [
                    "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe",
                    "--resolv-conf=off", "--timezone=off", f"--machine={name}", f"--directory={self.root}", "--boot",
                ],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                # a machine whose own groups are of version 1 gives the system version 2 all the same
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        if not eventually(self._is_up, BOOT_S, 0.3):
            raise RootError(f"the system did not boot: {self.console()}")

    def _is_up(self) -> bool:
        try:
            return self.run("systemctl is-system-running || true").strip() in {"running", "degraded"}
        except (RootError, AssertionError):
            return False

    def reboot(self) -> None:
        """Boot it again, as `reboot` at its shell does. Raises RootError."""
        self.run("systemctl reboot")
        try:
            ended = self._nspawn.wait(BOOT_S)
        except subprocess.TimeoutExpired:
            ended = 0
        if ended != REBOOTS:
            raise RootError(f"the system did not go down for its reboot: {self.console()}")
        self.start()

    def close(self) -> None:
        """Power off."""
        self._nspawn.terminate()
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


class Emulated(Root):
    """A system of another processor. Its process 1 is one of this machine and only collects what has ended."""

    # a user namespace makes no device files
    FLAGS = ("--skip=check/qemu,setup/mknod",)
    COMMAND_S = 1_800

    def around(self) -> Sequence[str]:
        """Return the command that makes the namespaces."""
        users = ("--user", "--map-users=all", "--map-groups=all", "--setuid=0", "--setgid=0")
        spaces = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        return ("unshare", *users, *spaces, f"--load-interp={BINFMT.read_text().strip()}")

    def inside(self) -> Sequence[str]:
        """Return the command that enters the system."""
        (first,) = psutil.Process(self._outer.pid).children()
        return ("nsenter", f"--target={first.pid}", "--user", "--mount", "--pid", "chroot", str(self.root))

    def start(self) -> None:
        """Mount what programs expect, and wait for it. Raises RootError."""
        mounts = ("--rbind /dev dev", "-t proc proc proc", "-t tmpfs tmpfs run", "-t tmpfs tmpfs tmp")
        # in a mount namespace of its own; in that of this machine /dev would be mounted in a folder that is removed later
        script = f'test "$$" = 1 && cd {self.root} && mount {" && mount ".join(mounts)} && echo begun && while sleep 1; do :; done'
        with self.log.open("wb") as sink:
            self._outer = subprocess.Popen(
                [*self.around(), "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        if not eventually(lambda: "begun" in self.console(), BOOT_S, 0.1):
            raise RootError(f"the system did not start: {self.console()}")

    def close(self) -> None:
        """Kill process 1, and with it every other."""
        for child in psutil.Process(self._outer.pid).children():
            child.kill()
        self._outer.wait(30)
