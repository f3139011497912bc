"""Memory of the whole process: how often it looks for cycles of garbage, and what it gives back to the system.

A look at a rollout of 100,000 devices makes millions of objects that live as long as the look and refer to each other in no circle.
Python's own setting searches them again and again: a third of the processor time of such a look (`./dev bench rollout-scale`).

A server that receives reports makes few objects that stay, and what lives long enough to be passed over by the first search waits for a
rarer one: 20 times 50,000 objects are an hour of it. So everything is searched once a minute besides.

The C library keeps what was freed: a heap for each of up to eight threads a core, and once a block of some megabytes was freed, blocks of
that size come from those heaps too. Readings of a large fleet are such blocks (measured: docs/operate/sizing.md). Its heaps shrink only at
their ends; asked for it, it gives back the free pages between, too.
"""

import ctypes
import gc
import time
from typing import Final

THRESHOLDS: Final = (50_000, 20, 50)
"""Objects made until the youngest are searched; how often that is until the next older ones are; instead of 700, 10, 10."""
HEAPS: Final = 2
LARGE_BYTES: Final = 256 * 1024
"""A block of so much is asked of the system alone, and given back when it is freed; so is as much at the end of a heap."""
EVERY_S: Final = 60.0
SHARE: Final = 0.002
"""Of one core: a search through many objects, during which nothing else runs, is followed by a longer rest."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h of the GNU C library


def collect_seldom() -> None:
    """Search for cycles less often in this process from now on. What nothing refers to any more is freed at once, as ever."""
    gc.set_threshold(*THRESHOLDS)


def settle() -> None:
    """Leave out of every search what was made while the process started, most of which stays as long as it: modules, routes, schemas.

    It is not searched once more before: that takes 0.27 s of processor time, a twelfth of a start, and finds some hundred objects of
    300,000.
    """
    gc.freeze()


def give_back() -> bool:
    """Let the C library give back large blocks from now on; call it before there are other threads. False where it is not the GNU one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((_M_ARENA_MAX, HEAPS), (_M_MMAP_THRESHOLD, LARGE_BYTES), (_M_TRIM_THRESHOLD, LARGE_BYTES))
    return [mallopt(option, value) for option, value in wanted] == [1, 1, 1]


def due_s(now_s: float, took_s: float) -> float:
    """Return when to tidy up next, after it took so long until now."""
    return now_s + max(EVERY_S, took_s / SHARE)


class Tidying:
    """Searches everything for cycles of garbage, and gives free pages back to the system, now and then. For one thread."""

    def __init__(self, now_s: float) -> None:
        """Begin a minute from now. now_s: monotonic."""
        self._due_s = due_s(now_s, 0.0)

    def do_due(self, now_s: float) -> bool:
        """Tidy up where that is due; return whether it was. Blocks all threads for 0.15 s with 1.1 million objects."""
        if now_s < self._due_s:
            return False
        began_s = time.monotonic()
        gc.collect()
        _give_back_pages()
        took_s = time.monotonic() - began_s
        self._due_s = due_s(now_s + took_s, took_s)
        return True


def _give_back_pages() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # not the GNU C library: it has its own ways
