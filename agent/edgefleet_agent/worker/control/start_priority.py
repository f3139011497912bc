"""Starting next to a worker that serves, at a priority below it.

A new version is loaded while the old one answers. On a board with few cores the two would share them as equals, and callers would feel
each swap. On Linux each thread has its own priority, and a process without privileges can lower it but not raise it again: so what is
not urgent runs in a thread of its own, and the main thread, which will serve, keeps the priority it was started with.

1. `IDLE` is SCHED_IDLE on one core: the thread runs where that core would idle, and a thread that wakes takes its place. A nice value
   is not enough: since 6.6 the kernel lets a thread finish its slice first, 3 to 4 ms, however nice it is. On one core, since the kernel
   gives a thread a slice on each core that it comes to: held against nice 10 on all cores, callers waited half as long for it.
2. On a device that has nothing to spare an `IDLE` thread may get nowhere. agentd sees it and starts it again with `LOW`, nice 10, which
   is a share of a core in any case (`serving`).
3. Threads inherit priority and cores of the one that makes them, for good: what a runtime makes for its inferences must not be made here.
4. Everything before this runs is felt, so nothing is imported here but what the interpreter has loaded anyway, and `threading`.
"""

import os
import threading
from collections.abc import Callable, Sequence

FLAG = "--gentle"
IDLE = "idle"
LOW = "low"
NICE = 10


def priority_of(arguments: Sequence[str]) -> str:
    """Return what the command line asks for: `IDLE`, `LOW`, or "" for no difference."""
    return arguments[arguments.index(FLAG) + 1] if FLAG in arguments[:-1] else ""


def gently(work: Callable[[], None], priority: str) -> None:
    """Run `work` in a thread of that priority ("": here); raises what it raises. Blocks."""
    if not priority:
        work()
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _lower(priority)
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="gently", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _lower(priority: str) -> None:
    """Lower this thread. Where the one is refused, as a seccomp filter may, the other has to do; where both are, it loads as it is."""
    try:  # noqa: SIM105 - contextlib would be an import more
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    except OSError:
        pass
    if priority == IDLE:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        except (OSError, AttributeError):
            return
