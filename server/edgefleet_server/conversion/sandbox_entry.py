"""Process entry between worker and converter: takes rights away from itself, then becomes the converter.

    python -m edgefleet_server.conversion.sandbox_entry PLAN_JSON COMMAND…      PLAN: {"limits": {…}, "read": […], "write": […], "run": […]}
    python -m edgefleet_server.conversion.sandbox_entry --probe

Runs before any untrusted byte is read. Imports only the standard library, and works by `exec`, so that the worker needs no code
between fork and exec (unsafe in a process with threads). Layers, each named in `/readyz`: `rlimits`, `no_new_privs`, `dies_with_worker`,
`no_network` (a network namespace of its own, where the kernel lets us make one), `files` (Landlock: the converter reads its
installation and its job, writes its job, and opens nothing else of the machine).
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from edgefleet_server.conversion import landlock

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/nix/store")
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/proc",  # memory and environment of processes outside stay closed: the kernel checks them like ptrace
    "/sys/devices/system/cpu",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
)


def main(arguments: list[str]) -> None:
    """Apply the layers and become the command; with `--probe`, print which layers work here as JSON."""
    if arguments == ["--probe"]:
        sys.stdout.write(json.dumps(apply_layers({}, file_rules([], [], []))) + "\n")
        return
    plan = json.loads(arguments[0])
    command = arguments[1:]
    apply_layers(plan["limits"], file_rules(command, plan["read"], plan["write"], plan.get("run", ())))
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted


def apply_layers(limits: dict[str, int], rules: Sequence[landlock.Rule]) -> list[str]:
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
        if landlock.restrict(libc, rules):  # last: the layers above write to /proc/self
            layers.append("files")
    return layers


def file_rules(
    command: Sequence[str], read: Sequence[str], write: Sequence[str], run: Sequence[str] = ()
) -> list[landlock.Rule]:
    """Return what a converter may open: system libraries, this Python with its packages, the files its command names, its job.

    run: folders of tool environments, which it may also execute.
    """
    runnable = {*_SYSTEM, sys.prefix, sys.base_prefix, *(entry for entry in sys.path if entry), *run}
    for folder in run:
        runnable |= {home for stamp in Path(folder).glob("*/pyvenv.cfg") if (home := _home_of(stamp))}
    for argument in command:
        if argument.startswith("/"):
            runnable.add(argument)
            environment = Path(argument).parent.parent
            if (environment / "pyvenv.cfg").is_file():  # a converter of another environment than the server's
                runnable.add(str(environment))
    return [
        *(landlock.Rule(path, landlock.RUN) for path in sorted(runnable)),
        *(landlock.Rule(path, landlock.READ) for path in (*_SYSTEM_FILES, *read)),
        landlock.Rule("/dev/null", landlock.DEVICE),
        *(landlock.Rule(path, landlock.WRITE) for path in write),
    ]


def _home_of(stamp: Path) -> str:
    """Return the installation that a virtual environment was made from (key `home` of its `pyvenv.cfg`: the folder of its binary).

    "" when that is the root folder (`home = /bin`): it would open the whole machine, and /bin, /lib and /usr are open anyway.
    """
    for line in stamp.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip().startswith("/"):
            installation = os.path.normpath(Path(value.strip()).parent)
            return installation if installation.strip("/") else ""
    return ""


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
