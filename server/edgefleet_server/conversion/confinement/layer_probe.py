"""What a conversion child finds when it tries to leave its sandbox: `active_layers` runs this as the converter and believes only it.

    python -m edgefleet_server.conversion.confinement.layer_probe TARGETS_JSON

TARGETS: {"pid", "command": of a process outside; "file", "socket": paths outside; "port": of a listener on 127.0.0.1; "uid": the server's;
"group": the name of the child's control group}. Prints the names of the layers that held, as lines of a converter. Only standard library.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_PR_GET_PDEATHSIG: Final = 2
_PR_GET_NO_NEW_PRIVS: Final = 39
_CONNECT_S: Final = 2.0


def held(targets: dict[str, Any]) -> list[str]:
    """Return the names of the layers that hold for this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent_signal = ctypes.c_int(0)
    libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(parent_signal), 0, 0, 0)
    checks: dict[str, Callable[[], bool]] = {
        "rlimits": lambda: resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
        "dies_with_worker": lambda: parent_signal.value == signal.SIGKILL,
        "no_new_privs": lambda: libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
        "no_capabilities": _has_no_capabilities,
        "own_uid": lambda: os.getuid() not in (0, targets["uid"]),
        "no_network": lambda: _fails(lambda: _connect(socket.AF_INET, ("127.0.0.1", targets["port"]))),
        "no_unix_sockets": lambda: _fails(lambda: _connect(socket.AF_UNIX, targets["socket"])),
        "syscalls": lambda: _seccomp_mode() == 2 and _fails(lambda: Path().chmod(0o700), errno.EPERM),
        "files": lambda: _fails(lambda: Path(targets["file"]).read_bytes()),
        "own_root": lambda: _fails(lambda: Path(targets["file"]).stat(), errno.ENOENT),
        "own_processes": lambda: not _sees(targets["pid"], targets["command"]),
        "group": lambda: bool(targets["group"]) and targets["group"] in Path("/proc/self/cgroup").read_text(),
    }
    return [name for name, check in checks.items() if _holds(check)]


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:
        return False  # what cannot be measured is not claimed


def _fails(attempt: Callable[[], object], number: int = 0) -> bool:
    try:
        attempt()
    except OSError as error:
        return number in (0, error.errno)
    return False


def _connect(family: socket.AddressFamily, address: Any) -> None:
    with socket.socket(family) as attempt:
        attempt.settimeout(_CONNECT_S)
        attempt.connect(address)


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _has_no_capabilities() -> bool:
    status = _status()
    return not any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))


def _seccomp_mode() -> int:
    return int(_status().get("Seccomp", "0"))


def _sees(pid: int, command: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().hex() == command
    except OSError:
        return False


if __name__ == "__main__":
    layers = {"type": "layers", "layers": held(json.loads(sys.argv[1]))}
    sys.stdout.write(f"{json.dumps(layers)}\n{json.dumps({'type': 'result'})}\n")
