"""The filter's program, run as the kernel would run it, for both machines."""

import errno
import functools
import struct

import pytest

from edgefleet_protocol import syscall_filter
from edgefleet_protocol.syscall_filter import CONVERSION, INFERENCE, MACHINES, Policy, program

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
TABLES = (
    syscall_filter.FILE_FACTS, syscall_filter.SOCKET_ADDRESSES, syscall_filter.OTHER_PROCESSES, syscall_filter.KERNEL,
    syscall_filter.ABSENT,
)  # fmt: skip


@functools.lru_cache
def steps_of(policy: Policy, machine: str) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("=HBBI", program(policy, machine)))


def verdict(policy: Policy, machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """Return what the filter says to a call."""
    arguments = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=iIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *arguments)
    steps = steps_of(policy, machine)
    value, at = 0, 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            value &= operand
        else:
            holds = {0x15: value == operand, 0x25: value > operand, 0x45: bool(value & operand)}[code]
            at += yes if holds else no


def refused(error: int) -> int:
    return 0x00050000 | error


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_of_a_policy_is_refused_and_the_others_are_not(machine: str) -> None:
    column = MACHINES.index(machine)
    for policy in (CONVERSION, INFERENCE):
        for table in TABLES:
            for name, numbers in table.items():
                number = numbers[column]
                if number is None:
                    continue
                answer = verdict(policy, machine, number)
                if name in syscall_filter.ABSENT:
                    assert answer == refused(errno.ENOSYS), name
                elif name in policy.forbidden:
                    assert answer == refused(errno.ENOTSUP if "xattr" in name else errno.EPERM), name
                else:
                    assert answer == ALLOW, name
        for number in range(463):
            if not any(number == numbers[column] for table in TABLES for numbers in table.values()):
                checked = number in {numbers[column] for numbers in syscall_filter.CHECKED.values()}
                assert checked or verdict(policy, machine, number) == ALLOW, number


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_by_family_pairs_by_type_and_clones_by_namespace(machine: str) -> None:
    socket, socketpair, clone = (
        syscall_filter.CHECKED[name][MACHINES.index(machine)] for name in ("socket", "socketpair", "clone")
    )
    for family in range(46):
        assert verdict(CONVERSION, machine, socket, family, 1) == refused(errno.EAFNOSUPPORT)
        expected = ALLOW if family == 1 else refused(errno.EAFNOSUPPORT)
        assert verdict(INFERENCE, machine, socket, family, 1) == expected
    for flags in (0, 0o4000, 0o2000000):
        assert verdict(CONVERSION, machine, socketpair, 1, 1 | flags) == ALLOW
        assert verdict(CONVERSION, machine, socketpair, 1, 5 | flags) == ALLOW
        assert verdict(CONVERSION, machine, socketpair, 1, 2 | flags) == refused(errno.EPERM)
    for name, before in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        number = syscall_filter.CHECKED[name][MACHINES.index(machine)]
        assert verdict(INFERENCE, machine, number, *[0] * before, 0x4000) == ALLOW
        assert verdict(INFERENCE, machine, number, *[0] * before, 0x20004000) == refused(errno.EPERM)
    threads = 0x3D0F00
    assert verdict(CONVERSION, machine, clone, threads) == ALLOW
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(CONVERSION, machine, clone, threads | namespace) == refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_newer_calls_do_not_exist_and_a_foreign_instruction_set_ends_the_process(machine: str) -> None:
    assert verdict(CONVERSION, machine, 463) == refused(errno.ENOSYS)
    assert verdict(CONVERSION, machine, 0x40000000 | 90) == refused(errno.ENOSYS), "x32"
    assert verdict(CONVERSION, machine, 90, arch=0x40000003) == KILL, "32-bit x86"
