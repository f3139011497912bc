"""Process entry between worker and converter: takes rights away from itself, then becomes the converter.

    python -m edgefleet_server.conversion.launch LIMITS_JSON COMMAND…
    python -m edgefleet_server.conversion.launch --probe

Runs before any untrusted byte is read. Imports only the standard library, and works by `exec`, so that the worker needs no code
between fork and exec (unsafe beside threads). Layers, each named in `/readyz`: `rlimits`, `no_new_privs`, `dies_with_worker`,
`no_network` (a network namespace of its own, where the kernel lets us make one).
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def main(arguments: list[str]) -> None:
    """Apply the layers and become the command; with `--probe`, print which layers work here as JSON."""
    if arguments == ["--probe"]:
        sys.stdout.write(json.dumps(apply_layers({})) + "\n")
        return
    limits = json.loads(arguments[0])
    command = arguments[1:]
    apply_layers(limits)
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted


def apply_layers(limits: dict[str, int]) -> list[str]:
    """Take rights away from this process; return the names of the layers that hold. Never fails for a missing one."""
    layers = []
    _set_limits(limits)
    layers.append("rlimits")
    libc = _libc()
    if libc is not None:
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0:
            layers.append("dies_with_worker")
        if _leave_network(libc):
            layers.append("no_network")
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            layers.append("no_new_privs")
    return layers


def _set_limits(limits: dict[str, int]) -> None:
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: limits.get("memory_bytes"),
        resource.RLIMIT_CPU: limits.get("cpu_s"),
        resource.RLIMIT_FSIZE: limits.get("file_bytes"),
        resource.RLIMIT_NOFILE: limits.get("open_files"),
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def _libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError):
        return ctypes.CDLL(None, use_errno=True)
    return None


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Move into an empty network namespace: as root directly, else inside a user namespace with our own ids kept."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
