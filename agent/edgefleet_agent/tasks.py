"""Which tasks of the desired document are still to be done, and which were: an id is done once, over restarts too."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgefleet_agent.durable import read_record, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.records import TaskWish

REMEMBERED = 256


class _Done(msgspec.Struct, frozen=True, kw_only=True):
    v: int = 1
    ids: list[str] = []


class Tasks:
    """The tasks of one device. handlers: kind → what begins such a task; it calls `finish` when it is done. Unknown kinds wait."""

    def __init__(self, path: Path, now_s: Callable[[], int]) -> None:
        self._path = path
        self._now_s = now_s
        self._begun: set[str] = set()
        self.handlers: dict[str, Callable[[TaskWish], None]] = {}
        try:
            done = read_record(_Done, path)
        except (StateFileError, OSError):
            done = None  # torn or not readable: a task may be done once more, which every kind allows
        self._done = list(done.ids) if done is not None else []

    def take(self, wishes: Sequence[TaskWish]) -> None:
        """Begin what was not begun or done before and is not over."""
        for wish in wishes:
            handler = self.handlers.get(wish.kind)
            is_over = wish.until_s != 0 and wish.until_s <= self._now_s()
            if handler is not None and not is_over and wish.id not in self._begun and wish.id not in self._done:
                self._begun.add(wish.id)
                handler(wish)

    def finish(self, task_id: str) -> None:
        """Note durably that a task is done. Raises OSError."""
        self._done = [*self._done, task_id][-REMEMBERED:]
        write_record(self._path, _Done(ids=self._done))
