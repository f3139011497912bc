"""What a server's process keeps and gives back to the system: in processes of their own, since it holds until they end."""

import json
import platform
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.process.memory import EVERY_S, SHARE, due_s

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

TIDY = """
import ctypes, gc, json, os, sys, weakref
from edgefleet_server.process import memory

class Ring:
    pass

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

memory.give_back()
memory.collect_seldom()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
ring = Ring()
ring.itself = ring
seen = weakref.ref(ring)
gc.collect()  # it is among the oldest now, which are searched after 50 million new objects
blocks = [libc.malloc(100_000) for _ in range(500)]  # none large enough to be the system's own
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:  # the last one keeps the end of the heap
    libc.free(block)
del ring
gc.collect(0)
before = resident()
tidying = memory.Tidying(0.0)
early = tidying.do_due(memory.EVERY_S - 1), seen() is None
late = tidying.do_due(memory.EVERY_S), seen() is None
print(json.dumps([early, late, tidying.do_due(memory.EVERY_S + 1), before - resident()]))
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


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library gives back pages when it is asked"
)
def test_once_a_minute_old_cycles_go_and_free_pages_between_used_ones_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", TIDY], capture_output=True, text=True, check=True)
    early, late, again, given_back = json.loads(done.stdout)
    assert early == [False, False]
    assert late == [True, True]
    assert not again
    assert given_back >= 40_000_000


@given(now_s=st.floats(0, 1e7), took_s=st.floats(0, 100))
def test_tidying_rests_for_a_minute_and_longer_after_it_took_long(now_s: float, took_s: float) -> None:
    rest_s = due_s(now_s, took_s) - now_s
    assert rest_s >= EVERY_S - 1e-6
    assert took_s <= SHARE * rest_s + 1e-6
