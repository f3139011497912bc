"""File rules of the kernel (Landlock) for this process and all that it starts: what is not named cannot be opened.

Raw system calls, since no libc wraps them; x86_64, aarch64 and armv7 share the numbers. Only standard library: the launcher
imports this before it becomes the converter. Source: Linux `Documentation/userspace-api/landlock.rst`, `uapi/linux/landlock.h`.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REMOVE_DIR = 1 << 4
_REMOVE_FILE = 1 << 5
_MAKE_DIR = 1 << 7
_MAKE_REG = 1 << 8
_MAKE_SYM = 1 << 12
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15

READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
DEVICE = _READ_FILE | _WRITE_FILE
WRITE = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE
WRITES = _WRITE_FILE
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Number of file access bits by ABI; 16 from 5 on."""
_NET_TCP = 0b11
_SCOPE_SOCKETS_AND_SIGNALS = 0b11
_MACHINES = frozenset({"x86_64", "aarch64", "armv7l", "armv6l", "i686", "riscv64"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A path, and what may be done with it and everything beneath it. A path that is not there is skipped."""

    path: str
    access: int


def abi(libc: ctypes.CDLL) -> int:
    """Return the Landlock ABI of the running kernel, 0 when it has none."""
    if os.uname().machine not in _MACHINES:
        return 0
    return max(0, _call(libc, _CREATE_RULESET, None, 0, _VERSION_FLAG))


def restrict(libc: ctypes.CDLL, rules: Iterable[Rule]) -> bool:
    """Forbid this process every file access that no rule allows, for good; return whether that holds now.

    Needs `no_new_privs`. With newer kernels also: no TCP (ABI 4), no signal to and no abstract socket of a process outside (6).
    A rule that the kernel does not take is left out: that forbids more, never less.
    """
    version = abi(libc)
    if version == 0:
        return False
    handled = (1 << _FS_BITS.get(version, 16)) - 1
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _NET_TCP)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPE_SOCKETS_AND_SIGNALS)
    ruleset = _call(libc, _CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for rule in rules:
            _add(libc, ruleset, rule, handled)
        return _call(libc, _RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _add(libc: ctypes.CDLL, ruleset: int, rule: Rule, handled: int) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there, or cannot be reached, needs no permission
    try:
        access = rule.access & handled
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        attributes = struct.pack("=Qi", access, descriptor)
        _call(libc, _ADD_RULE, ruleset, _PATH_BENEATH, attributes, 0)
    finally:
        os.close(descriptor)


def _call(libc: ctypes.CDLL, number: int, *arguments: int | bytes | None) -> int:
    # Each argument of the variadic syscall() must fill a register: a plain int would be passed as 32 bits.
    wide = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    return int(libc.syscall(ctypes.c_long(number), *wide))
