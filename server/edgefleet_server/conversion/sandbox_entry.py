"""Process entry between worker and converter: takes rights away from itself, then becomes the converter.

    python -m edgefleet_server.conversion.sandbox_entry PLAN_JSON COMMAND…

PLAN: {"limits": {…}, "read": […], "write": […], "run": […]}, and where the server gives them "uid": the child's user when the server
is root, "top": the server's folder, which that user must pass, "groups": folders of control groups to enter.

Runs before any untrusted byte is read. Imports only the standard library and our own calls of the kernel, and works by `fork` and
`exec`, so that the worker needs no code between fork and exec (unsafe in a process with threads). Three processes where the kernel
allows namespaces: this one waits and repeats how the converter ended; process 1 of the namespaces ends all others with itself; the
converter. Which layers hold is not decided here: `sandbox.active_layers` lets a child try (docs/operate/security.md).
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from edgefleet_protocol import syscall_filter
from edgefleet_server.conversion.confinement import landlock, private_root, privileges

NO_SANDBOX: Final = 77
"""Exit code when the converter would have run with rights that it must not have; the reason is on stderr."""
_READY: Final = b"+"
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PROCESSES, _NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/nix/store", "/etc/alternatives")
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/proc",  # of its own processes only, where it has a root folder of its own
    "/sys/devices/system/cpu",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
)
_LEVELS: Final = (
    _NEW_NETWORK | _NEW_PROCESSES | _NEW_IPC | _NEW_MOUNTS,
    _NEW_NETWORK | _NEW_PROCESSES | _NEW_IPC,
    _NEW_NETWORK,
)
"""What is tried, best first."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What becomes of this process. uid: the converter's user and group, None for ours."""

    plan: dict[str, Any]
    command: list[str]
    rules: list[landlock.Rule]
    uid: int | None


def main(arguments: list[str]) -> NoReturn:
    """Become the command with the rights of the plan only."""
    plan = json.loads(arguments[0])
    command = arguments[1:]
    libc = _libc()
    uid = plan.get("uid") if os.geteuid() == 0 else None
    job = _Job(plan, command, file_rules(command, plan["read"], plan["write"], plan.get("run", ())), uid)
    try:
        for folder in plan.get("groups", ()):
            Path(folder, "cgroup.procs").write_text("0", encoding="ascii")
        if uid is not None:
            privileges.hand_over([*plan["read"], *plan["write"]], uid)
    except OSError as error:
        _refuse(str(error))
    if libc is None:
        _become(None, job, 0)
    _die_with_parent(libc)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for flags in _LEVELS if plan.get("namespaces", True) else ():
        status = _apart(libc, flags, job)
        if status is not None:
            _end_like(status)
    _become(libc, job, 0)


def _apart(libc: ctypes.CDLL, flags: int, job: _Job) -> int | None:
    """Run the command in new namespaces and return its wait status; None when this machine does not allow these namespaces."""
    number = _CLONE.get(os.uname().machine)
    if number is None:
        return None
    if os.geteuid() != 0:
        flags |= _NEW_USER
    own = os.getuid(), os.getgid()
    report, write_end = os.pipe()
    pid = libc.syscall(*(ctypes.c_long(value) for value in (number, flags | signal.SIGCHLD, 0, 0, 0, 0)))
    if pid == 0:
        os.close(report)
        try:
            _first_process(libc, flags, own, job, write_end)
        finally:
            os._exit(1)
    os.close(write_end)
    if pid < 0:
        os.close(report)
        return None
    with os.fdopen(report, "rb", buffering=0) as answer:
        is_ready = answer.read(1) == _READY
        if is_ready:
            _let_go_of_pipes()
        found = answer.read()
    os.waitpid(pid, 0)
    if not is_ready:
        return None
    return int(struct.unpack("=i", found)[0]) if found else signal.SIGKILL


def _first_process(libc: ctypes.CDLL, flags: int, own: tuple[int, int], job: _Job, report: int) -> None:
    """Be process 1 of the new namespaces: start the converter, wait for it, and take everything else along at the end."""
    _die_with_parent(libc)
    if flags & _NEW_USER:
        privileges.map_own_ids(*own)
    if flags & _NEW_MOUNTS:
        private_root.enter(libc, job.rules, str(Path.cwd()))
    os.write(report, _READY)
    converter = os.fork()
    if converter == 0:
        _become(libc, job, flags)
    privileges.drop_bounding_set(libc)
    privileges.drop_capabilities(libc)
    _let_go_of_pipes()
    while True:
        pid, status = os.wait()
        if pid == converter:
            os.write(report, struct.pack("=i", status))
            return


def _become(libc: ctypes.CDLL | None, job: _Job, flags: int) -> NoReturn:
    """Give the last rights away and become the converter. flags: the namespaces that this process is in."""
    try:
        if job.uid is not None and not flags & _NEW_MOUNTS and "top" in job.plan:
            for path in job.plan["write"]:
                privileges.open_way(str(Path(path).parent), job.plan["top"], job.uid)
        privileges.set_limits(job.plan["limits"], count_processes=job.uid is not None or bool(flags & _NEW_USER))
        has_files = _give_up_rights(libc, job) if libc is not None else False
        if job.uid is not None and not has_files and not flags & _NEW_MOUNTS:
            _refuse("the server is root, and this machine has neither mount namespaces nor Landlock")
        for path in (*job.plan["write"], job.command[0]):
            if job.uid is not None and not os.access(path, os.X_OK):
                _refuse(f"the server is root, and its converter's own user {job.uid} cannot reach {path}")
        os.execv(job.command[0], job.command)  # noqa: S606  # no shell is wanted
    except OSError as error:
        _refuse(str(error))


def _give_up_rights(libc: ctypes.CDLL, job: _Job) -> bool:
    """Return whether the kernel keeps the file rules from now on. Raises OSError when this stays root against the plan."""
    privileges.drop_bounding_set(libc)
    if job.uid is not None:
        privileges.become(job.uid)
    privileges.drop_capabilities(libc)
    _die_with_parent(libc)  # a change of the user clears it
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    has_files = landlock.restrict(libc, job.rules)
    syscall_filter.install(libc, syscall_filter.CONVERSION, os.uname().machine)
    return has_files


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"no sandbox: {why}\n")
    sys.stderr.flush()
    os._exit(NO_SANDBOX)


def _end_like(status: int) -> NoReturn:
    """End as the converter ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _let_go_of_pipes() -> None:
    """Hold neither end of the converter's pipes: who reads them must see when it closes them."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.close(null)


def _die_with_parent(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


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


def _libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    main(sys.argv[1:])
