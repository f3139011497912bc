"""A converter that tries to leave its sandbox: each attempt, and the number of the error that stopped it (0: it went through).

Runs as the conversion child (`test_sandbox.py`). Request: {"file", "socket", "datagrams", "marker", "pid", "tcp"} outside.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
AARCH64 = "aarch64"
CALLS = {
    "io_uring_setup": (425, 425, 8, 0), "keyctl": (250, 219, 0, -3), "bpf": (321, 280, 0, 0), "setns": (308, 268, 0, 0),
    "process_vm_readv": (310, 270, 1, 0), "ptrace": (101, 117, 16, 1), "mount": (165, 40, 0, 0), "fsopen": (430, 430, 0, 0),
    "unshare": (272, 97, 0x10000000, 0), "clone3": (435, 435, 0, 0), "perf_event_open": (298, 241, 0, 0),
    "open_by_handle_at": (304, 265, 0, 0), "newer": (463, 463, 0, 0),
}  # fmt: skip


def error_of(attempt: Callable[[], object]) -> int:
    """Return the error number of an attempt, 0 when it went through."""
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


def call(name: str) -> int:
    """Make a raw system call and return its error number."""
    number = CALLS[name][os.uname().machine == AARCH64]
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in (*CALLS[name][2:], 0, 0, 0)))
    return ctypes.get_errno() if result < 0 else 0


def connect(family: int, kind: int, address: Any) -> None:
    """Reach an address with a new socket."""
    with socket.socket(family, kind) as attempt:
        attempt.settimeout(2)
        attempt.connect(address)


def send_from_a_pair(path: str) -> None:
    """A datagram socket of a pair can still be pointed at an address."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"from the child", path)


def connect_a_pair(path: str) -> None:
    """So could a stream socket, if the kernel let it connect twice."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    one.connect(path)


def use_a_pair() -> None:
    """What libraries need: two ends that talk to each other only."""
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x"


def seen_processes(marker: str) -> int:
    """Return how many processes outside show their command line."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += marker.encode() in entry.read_bytes()
    return found


def status(name: str) -> int:
    """Return a hexadecimal value of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")), 16)


def leave_a_process(marker: str) -> None:
    """Start a process in a session of its own that would outlive this one."""
    command = [sys.executable, "-S", "-c", "import time; time.sleep(120)", marker]
    subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def forks(wanted: int) -> int:
    """Return how many processes could be started at the same time."""
    children = []
    with contextlib.suppress(OSError):
        for _ in range(wanted):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(children)


def attempts(outside: dict[str, Any]) -> dict[str, int]:
    """Make all attempts."""
    file, own = outside["file"], f"{os.environ['TMPDIR']}/own"
    Path(own).write_text("mine")
    found = {
        "unix_socket": error_of(lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, outside["socket"])),
        "unix_datagram": error_of(lambda: connect(socket.AF_UNIX, socket.SOCK_DGRAM, outside["datagrams"])),
        "abstract_socket": error_of(lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + outside["marker"])),
        "pair_datagram": error_of(lambda: send_from_a_pair(outside["datagrams"])),
        "pair_stream": error_of(lambda: connect_a_pair(outside["socket"])),
        "tcp": error_of(lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", outside["tcp"]))),
        "udp": error_of(lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", outside["tcp"]))),
        "chmod": error_of(lambda: Path(file).chmod(0o644)),
        "utime": error_of(lambda: os.utime(file, (1, 1))),
        "chown": error_of(lambda: os.chown(file, 1, 1)),
        "setxattr": error_of(lambda: os.setxattr(file, "user.mark", b"x")),
        "chmod_own": error_of(lambda: Path(own).chmod(0o777)),
        "read": error_of(lambda: Path(file).read_bytes()),
        "environ": error_of(lambda: Path(f"/proc/{outside['pid']}/environ").read_bytes()),
        "maps": error_of(lambda: Path(f"/proc/{outside['pid']}/maps").read_bytes()),
        "memory": error_of(lambda: os.open(f"/proc/{outside['pid']}/mem", os.O_RDONLY)),
        "signal": error_of(lambda: os.kill(outside["pid"], 0)),
        "setuid": error_of(lambda: os.setuid(0)),
        **{name: call(name) for name in CALLS},
    }
    facts = {
        "capabilities": status("CapPrm") | status("CapEff") | status("CapInh") | status("CapAmb"),
        "seccomp": status("Seccomp"),
        "uid": os.getuid(),
        "foreign_cmdlines": seen_processes(outside["marker"]),
        "stat": error_of(lambda: Path(file).stat()),
        "pair_of_streams": error_of(use_a_pair),
    }
    facts["forks"] = forks(outside["forks"])
    leave_a_process(outside["left"])
    return {**{f"try_{name}": value for name, value in found.items()}, **facts}


def main() -> None:
    """Answer as a converter."""
    seen = attempts(json.load(sys.stdin))
    sys.stdout.write(json.dumps({"type": "seen", "stage": "", "found": seen}) + "\n")
    sys.stdout.write(json.dumps({"type": "result"}) + "\n")


if __name__ == "__main__":
    main()
