"""A seccomp filter for processes that read what strangers wrote: the conversion child and the device's worker.

1. `program` is pure: a policy and the name of a machine in, the kernel's filter program out. `install` puts it on all threads, for good.
2. Forbidden calls fail with an error, they do not kill: libraries try what they could do without.
3. Calls newer than our list do not exist (ENOSYS), so a new kernel brings no new way out.
4. A foreign instruction set (32-bit calls on a 64-bit machine) ends the process: its numbers mean other calls.
Source: Linux `Documentation/userspace-api/seccomp_filter.rst`, `asm/unistd_64.h` of both machines.
"""

import ctypes
import errno
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MACHINES: Final = ("x86_64", "aarch64")
_AUDIT_ARCH: Final = MappingProxyType({"x86_64": 0xC000003E, "aarch64": 0xC00000B7})
_NEWEST: Final = 462
"""Of the calls that were looked at for this list (`mseal`, Linux 6.10)."""

FILE_FACTS: Final = MappingProxyType({
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11), "llistxattr": (195, 12),
    "flistxattr": (196, 13), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mknod": (133, None), "mknodat": (259, 33),
})  # fmt: skip
"""Calls on the mode, owner, times and attributes of files: Landlock does not check them."""
SOCKET_ADDRESSES: Final = MappingProxyType({
    "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
})  # fmt: skip
OTHER_PROCESSES: Final = MappingProxyType({
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "process_madvise": (440, 440),
})  # fmt: skip
KERNEL: Final = MappingProxyType({
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "statmount": (457, 457),
    "listmount": (458, 458), "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "personality": (135, 92), "swapon": (167, 224), "swapoff": (168, 225),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89), "reboot": (169, 142), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "syslog": (103, 116), "fanotify_init": (300, 262), "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145),
    "setregid": (114, 143), "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159),
    "setfsuid": (122, 151), "setfsgid": (123, 152), "capset": (126, 91),
})  # fmt: skip
"""Calls for namespaces, mounts, keys, programs in the kernel, the machine itself and a process's own rights."""
ABSENT: Final = MappingProxyType({
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "clone3": (435, 435),
})  # fmt: skip
"""Answered with ENOSYS: io_uring does what it is asked past this filter, clone3 keeps its flags where no filter can read them."""
CHECKED: Final = MappingProxyType({
    "socket": (41, 198), "socketpair": (53, 199), "clone": (56, 220), "sendto": (44, 206), "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
})  # fmt: skip
"""Decided by their arguments."""
_SECCOMP: Final = MappingProxyType({"x86_64": 317, "aarch64": 277})
_NEW_NAMESPACES: Final = 0x7E020000
_STREAM, _SEQPACKET, _TYPE_BITS = 1, 5, 0xF
_FAST_OPEN: Final = 0x20000000

_LOAD, _JEQ, _JGT, _JSET, _AND, _RET = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCH_AT, _FIRST_AT, _SECOND_AT, _THIRD_AT, _FOURTH_AT = 0, 4, 16, 24, 32, 40
"""Offsets in `struct seccomp_data`; of an argument, its low half (both machines are little-endian)."""
_SET_MODE_FILTER, _ALL_THREADS = 1, 1


@dataclass(frozen=True, slots=True)
class Policy:
    """What is forbidden, and which address families new sockets may have. Pairs of sockets are streams, which can be given no address.

    Data with the opening of a TCP connection (MSG_FASTOPEN) is refused in any case: Landlock does not look at it.
    """

    forbidden: frozenset[str]
    families: tuple[int, ...] = ()


CONVERSION: Final = Policy(frozenset({*FILE_FACTS, *SOCKET_ADDRESSES, *OTHER_PROCESSES, *KERNEL}))
"""No socket but pairs, no change to a file but its content."""
INFERENCE: Final = Policy(frozenset({*OTHER_PROCESSES, *KERNEL}), families=(1,))
"""New sockets are unix sockets only; those that were inherited keep working."""


def _of(machine: str, numbers: tuple[int, int | None]) -> int | None:
    return numbers[MACHINES.index(machine)]


def program(policy: Policy, machine: str) -> bytes:
    """Return the filter as the kernel takes it: an array of `struct sock_filter`. Raises KeyError for another machine than MACHINES."""
    steps: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH_AT), (_JEQ, 1, 0, _AUDIT_ARCH[machine]), (_RET, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT), (_JGT, 0, 1, _NEWEST), _refuse(errno.ENOSYS),
    ]  # fmt: skip
    known = {**FILE_FACTS, **SOCKET_ADDRESSES, **OTHER_PROCESSES, **KERNEL}
    for name in sorted(policy.forbidden):
        error = errno.ENOTSUP if name.endswith("xattr") else errno.EPERM  # copies of files go on without attributes
        steps += _when(_of(machine, known[name]), [_refuse(error)])
    for numbers in ABSENT.values():
        steps += _when(_of(machine, numbers), [_refuse(errno.ENOSYS)])
    allowed = [step for family in policy.families for step in ((_JEQ, 0, 1, family), (_RET, 0, 0, _ALLOW))]
    steps += _when(_of(machine, CHECKED["socket"]), [(_LOAD, 0, 0, _FIRST_AT), *allowed, _refuse(errno.EAFNOSUPPORT)])
    streams = [(_JEQ, 0, 1, kind) for kind in (_STREAM, _SEQPACKET)]
    steps += _when(
        _of(machine, CHECKED["socketpair"]),
        [
            (_LOAD, 0, 0, _SECOND_AT), (_AND, 0, 0, _TYPE_BITS),
            *(step for stream in streams for step in (stream, (_RET, 0, 0, _ALLOW))), _refuse(errno.EPERM),
        ],
    )  # fmt: skip
    steps += _when(
        _of(machine, CHECKED["clone"]),
        [(_LOAD, 0, 0, _FIRST_AT), (_JSET, 0, 1, _NEW_NAMESPACES), _refuse(errno.EPERM), (_RET, 0, 0, _ALLOW)],
    )
    for name, flags_at in (("sendto", _FOURTH_AT), ("sendmsg", _THIRD_AT), ("sendmmsg", _FOURTH_AT)):
        steps += _when(
            _of(machine, CHECKED[name]),
            [(_LOAD, 0, 0, flags_at), (_JSET, 0, 1, _FAST_OPEN), _refuse(errno.EPERM), (_RET, 0, 0, _ALLOW)],
        )
    steps.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _refuse(error: int) -> tuple[int, int, int, int]:
    return (_RET, 0, 0, _ERROR | error)


def _when(number: int | None, steps: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Return steps that run for one call only; each way through them must end in a return. None: the machine has no such call."""
    return [] if number is None else [(_JEQ, 0, len(steps), number), *steps]


def install(libc: ctypes.CDLL, policy: Policy, machine: str) -> bool:
    """Put the filter on all threads of this process and all that it starts; return whether it holds now. Needs `no_new_privs`."""
    if machine not in MACHINES:
        return False
    code = program(policy, machine)
    # struct sock_fprog {unsigned short length; struct sock_filter *filter}, as native alignment lays it out
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer := ctypes.create_string_buffer(code, len(code))))
    done = libc.syscall(
        ctypes.c_long(_SECCOMP[machine]),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_ALL_THREADS),
        ctypes.c_char_p(head),
    )
    del buffer
    return int(done) == 0
