"""A root folder that holds nothing but what the child's file rules name, and a /proc that shows nothing but its own processes.

1. Runs in a new mount namespace, as process 1 of a new process namespace, before the process gives its rights away. Where parts
   of /proc are covered, as by `ProtectKernelTunables=`, the kernel gives a user no /proc of its own: command lines stay visible.
2. Each named folder is a clone of its mount, read-only unless the child may write there. What is not named is not there, so that
   sockets, pipes and the modes of foreign files cannot be reached by any path.
3. A process that calls this ends when it fails: half of a root folder is none.
Calls of the newer mount interface (Linux 5.12) have no wrapper in libc; x86_64, aarch64 and armv7 share the numbers.
Source: Linux man pages mount_namespaces(7), mount_setattr(2), pivot_root(2).
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgefleet_server.conversion.confinement import landlock

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_TREE_CLONE, _TREE_CLOEXEC, _MOVE_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH: Final = 2
_BASES: Final = ("/tmp", "/run", "/mnt")  # noqa: S108  # only a mount point, and only in this process's own view


def enter(libc: ctypes.CDLL, rules: Sequence[landlock.Rule], working_folder: str) -> None:
    """Make `/` a folder of what the rules name. Raises OSError, KeyError for a machine whose calls are not known."""
    pivot = _PIVOT_ROOT[os.uname().machine]
    _mount(libc, None, "/", None, _MS_REC | _MS_PRIVATE)  # else the machine would see our mounts
    trees = _cloned(libc, rules)
    base = next(folder for folder in _BASES if Path(folder).is_dir())
    _mount(libc, "tmpfs", base, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=4m")
    for tree in trees:
        _place_for(tree, base)
    for tree in trees:
        path = os.fsencode(base + tree.path)
        _call(libc, _MOVE_MOUNT, tree.descriptor, b"", _AT_FDCWD, path, _MOVE_EMPTY_PATH)
        os.close(tree.descriptor)
    _link(base, rules)
    for folder in ("/proc", working_folder):
        Path(base + folder).mkdir(parents=True, exist_ok=True)
    _show_processes(libc, f"{base}/proc")
    os.chdir(base)
    _call(libc, pivot, b".", b".")
    _check(libc.umount2(b".", _DETACH))
    _mount(libc, None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir(working_folder)


def _show_processes(libc: ctypes.CDLL, place: str) -> None:
    """Mount a /proc of our own namespace; where the kernel refuses, because parts of the present one are covered, the present one."""
    try:
        _mount(libc, "proc", place, "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:
        descriptor = _call(libc, _OPEN_TREE, _AT_FDCWD, b"/proc", _TREE_CLONE | _TREE_CLOEXEC | _AT_RECURSIVE)
        _call(libc, _MOVE_MOUNT, descriptor, b"", _AT_FDCWD, place.encode(), _MOVE_EMPTY_PATH)
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Tree:
    path: str
    descriptor: int
    is_folder: bool


def _cloned(libc: ctypes.CDLL, rules: Sequence[landlock.Rule]) -> list[_Tree]:
    """Return a clone of each named path that exists, parents first, read-only where the child may not write."""
    access: dict[str, int] = {}
    for rule in rules:
        path = os.path.realpath(rule.path)
        if path not in ("/", "/proc") and Path(path).exists():
            access[path] = access.get(path, 0) | rule.access
    trees: list[_Tree] = []
    for path in sorted(access):
        parent = next((tree.path for tree in trees if path.startswith(tree.path + "/")), "")
        if parent and access[path] & access[parent] == access[path]:
            continue  # a part of what is there already
        descriptor = _call(libc, _OPEN_TREE, _AT_FDCWD, os.fsencode(path), _TREE_CLONE | _TREE_CLOEXEC | _AT_RECURSIVE)
        flags = _NO_SUID
        if access[path] & landlock.WRITES == 0:
            flags |= _READ_ONLY
        if not path.startswith("/dev/"):
            flags |= _NO_DEVICES
        attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
        _call(libc, _MOUNT_SETATTR, descriptor, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, len(attributes))
        trees.append(_Tree(path, descriptor, Path(path).is_dir()))
    return trees


def _place_for(tree: _Tree, base: str) -> None:
    place = Path(base + tree.path)
    (place if tree.is_folder else place.parent).mkdir(parents=True, exist_ok=True)
    if not tree.is_folder:
        place.touch()


def _link(base: str, rules: Sequence[landlock.Rule]) -> None:
    """Repeat the links that the rules' own paths go through, such as /lib."""
    for rule in rules:
        path, real = os.path.normpath(rule.path), os.path.realpath(rule.path)
        if path != real and not os.path.lexists(base + path):
            Path(base + path).parent.mkdir(parents=True, exist_ok=True)
            Path(base + path).symlink_to(real)


def _mount(libc: ctypes.CDLL, source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(libc.mount(*texts, ctypes.c_ulong(flags), options.encode() or None))


def _call(libc: ctypes.CDLL, number: int, *arguments: int | bytes) -> int:
    # Each argument of the variadic syscall() must fill a register: a plain int would be passed as 32 bits.
    wide = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    return _check(int(libc.syscall(ctypes.c_long(number), *wide)))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
