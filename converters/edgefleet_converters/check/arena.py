"""Measure the smallest arena of TFLite Micro in which a model runs; called in a sandboxed child.

What the interpreter records after a run leaves out what it needs while it loads, so sizes are tried for real, by halving.
"""

import os
from typing import Final

from edgefleet_converters.errors import LoadFailedError
from edgefleet_runtime.tflm import MAX_ARENA, runs_in

STEP: Final = 64
"""Bytes to which the size is rounded up; TFLite Micro aligns to 16."""


def smallest_arena(model: bytes) -> int:
    """Return the smallest arena in bytes, a multiple of `STEP`. Blocks. Raises LoadFailedError when no size is enough."""
    high = 4096
    while not runs(model, high):
        high *= 2
        if high > MAX_ARENA:
            raise LoadFailedError(
                f"TFLite Micro cannot run the model in an arena of {MAX_ARENA} bytes", next_step="use a smaller model"
            )
    low = high // 2 if high > 4096 else 0
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        if runs(model, middle):
            high = middle
        else:
            low = middle
    return high


def runs(model: bytes, arena_bytes: int) -> bool:
    """Try one size in a process of its own: too small an arena may kill it, and what it says of that is not wanted. Blocks."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = 0 if runs_in(model, arena_bytes) else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0
