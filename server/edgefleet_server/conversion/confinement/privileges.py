"""The rights of this process: its user, its capabilities, its limits. Raw calls, since Python wraps few of them.

Source: Linux man pages capabilities(7), prctl(2), user_namespaces(7).
"""

import ctypes
import os
import resource
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CHILD_ID: Final = 60_706
"""First user and group id of children whose server is root; systemd, Debian and ranges of rootless containers leave these 400 unused."""
CHILD_IDS: Final = 400
CPU_GAP_S: Final = 5
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4
_LAST_CAPABILITY: Final = 63
_CAPABILITY_VERSION: Final = 0x20080522


def child_id(folder: str) -> int:
    """Return the user id of the child of that job folder: children at the same time are strangers to each other, mostly."""
    return CHILD_ID + zlib.crc32(folder.encode()) % CHILD_IDS


def set_limits(limits: Mapping[str, int], *, count_processes: bool) -> None:
    """Set what a job may use. count_processes: only where the user of this process has no other processes that would count."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: limits.get("memory_bytes"),
        resource.RLIMIT_CPU: limits.get("cpu_s"),
        resource.RLIMIT_FSIZE: limits.get("file_bytes"),
        resource.RLIMIT_NOFILE: limits.get("open_files"),
        resource.RLIMIT_NPROC: limits.get("processes") if count_processes else None,
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # SIGXCPU at the soft limit tells whose fault it was; SIGKILL, at the hard one, looks like that of the system
        gap = CPU_GAP_S if kind == resource.RLIMIT_CPU else 0
        ceiling = bounded + gap if hard == resource.RLIM_INFINITY else min(bounded + gap, hard)
        resource.setrlimit(kind, (bounded, ceiling))


def map_own_ids(uid: int, gid: int) -> None:
    """Keep our ids inside a new user namespace. Raises OSError."""
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def hand_over(paths: list[str], uid: int) -> None:
    """Give the files below these folders to the child's user. Before it starts: nobody can swap a file for a link meanwhile."""
    for path in paths:
        for root, _, names in os.walk(path):
            for entry in (root, *(os.path.join(root, name) for name in names)):  # noqa: PTH118  # as os.walk gives them
                os.chown(entry, uid, uid, follow_symlinks=False)


def open_way(folder: str, top: str, uid: int) -> None:
    """Let the child's group pass (not list) the folders from `top` down to `folder`, which are closed to all but root."""
    below = Path(folder)
    for parent in (below, *below.parents):
        if parent.is_relative_to(top):
            os.chown(parent, -1, uid)
            parent.chmod(parent.stat().st_mode & 0o7777 | 0o010)


def become(uid: int) -> None:
    """Become a user and group without any other. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_bounding_set(libc: ctypes.CDLL) -> None:
    """Take all capabilities out of what an exec may bring back, as far as this process may."""
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Drop the capabilities that this process has."""
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    head = struct.pack("=II", _CAPABILITY_VERSION, 0)
    libc.capset(ctypes.c_char_p(head), ctypes.c_char_p(bytes(24)))
