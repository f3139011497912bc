"""What a server's process gives back to the system: in a process of its own, since it holds until that ends."""

import json
import platform
import subprocess
import sys

import pytest

LOOK = """
import ctypes, json, sys
from edgefleet_server.process import memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
is_set = memory.give_back() if sys.argv[1] == "set" else None
before = libc.mallinfo2().hblkhd
large = bytes(8_000_000)
del large  # from now on the library takes blocks up to this size from its heaps, if it is left to itself
kept = bytes(4_000_000)
print(json.dumps([is_set, libc.mallinfo2().hblkhd - before]))
"""


def look(word: str) -> tuple[bool | None, int]:
    """Return what was set, and how many bytes of a block of 4 MB are the system's own."""
    done = subprocess.run([sys.executable, "-c", LOOK, word], capture_output=True, text=True, check=True)
    is_set, mapped = json.loads(done.stdout)
    return is_set, mapped


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has these settings")
def test_a_large_block_is_asked_of_the_system_also_after_one_was_freed() -> None:
    is_set, mapped = look("set")
    assert is_set
    assert mapped >= 4_000_000
    assert look("left") == (None, 0), "the library left to itself: what this test is about"
