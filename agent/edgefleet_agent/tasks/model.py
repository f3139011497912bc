"""What was done of the desired document's tasks, as it lies on disk in `tasks.ok`."""

import msgspec

from edgefleet_agent.install.records import RECORD_VERSION


class TaskDone(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is over here: `state` is "done", "failed" or "expired"."""

    id: str
    state: str
    at_s: int = 0
    code: str = ""


class TasksDone(msgspec.Struct, frozen=True, kw_only=True):
    """`tasks.ok`: what was done, so that an id is done once, over restarts too. Newest last."""

    v: int = RECORD_VERSION
    done: list[TaskDone] = []
