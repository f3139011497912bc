"""Loading beside a worker that serves, at a priority below it. Light: nothing is imported here but the standard library.

A new version is loaded while the old one answers. On a board with few cores the two would share them as equals, and callers would feel
each swap. On Linux each thread has its own nice value, and a process without privileges can lower it but not raise it again: so what is
not urgent runs in a thread of its own, and the main thread, which will serve, keeps the priority it was started with.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

NICE = 10

T = TypeVar("T")


def gently(work: Callable[[], T]) -> T:
    """Return what `work` returns, run in a thread of low priority; raises what it raises. Blocks."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="gently", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
