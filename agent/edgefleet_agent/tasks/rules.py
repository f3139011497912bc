"""What of the desired document's tasks is to be done now. Pure; `task_runner` does it.

1. An id is done once: what stands in `tasks.ok` is never begun again. A task past its `until` is over before it began.
2. One at a time, in the order of the document. A restart is noted as done before it happens: it must not happen twice.
3. Kinds this agent does not know fail at once, in so many words. Ids and arguments are checked here, signed or not.
4. Kinds that another part does (`others`) run at the same time: they are begun, and the next one is looked at.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgefleet_agent.install.records import TaskRequest
from edgefleet_agent.tasks.model import TaskDone, TasksDone
from edgefleet_protocol.digest import parse_sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_model_name

CHECK = "check"
KEPT = 64
MAX_TASKS = 32
RETRY_S = (5.0, 30.0, 300.0, 1800.0)
UNKNOWN_KIND = "task.unsupported"
BAD_ARGS = "task.bad_args"
EXPIRED = "task.expired"

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MAX_LINES = 5_000
_MAX_TEXT = 128


@dataclass(frozen=True, slots=True)
class Begin:
    """Do this one now."""

    task: TaskRequest


@dataclass(frozen=True, slots=True)
class GiveUp:
    """This one is over without having been done."""

    task: TaskRequest
    state: str
    code: str
    reason: str


def next_step(
    tasks: Sequence[TaskRequest],
    done: TasksDone,
    now_s: int,
    others: Collection[str] = (),
    begun: Collection[str] = (),
) -> Begin | GiveUp | None:
    """Return what to do about the first task that is neither over nor begun; None when all are. others: kinds; begun: ids."""
    over = {task.id for task in done.done}.union(begun)
    for task in tasks[:MAX_TASKS]:
        if task.id in over or not _ID.fullmatch(task.id):
            continue
        if task.until_s and now_s >= task.until_s:
            return GiveUp(task, "expired", EXPIRED, "its time was over before it could be done")
        if task.kind in others:
            return Begin(task)
        if task.kind not in ("diag", "logs", "restart", CHECK):
            return GiveUp(task, "failed", UNKNOWN_KIND, f"this agent does no tasks of kind {task.kind[:32]}")
        why = bad_args(task.kind, task.args)
        return GiveUp(task, "failed", BAD_ARGS, why) if why else Begin(task)
    return None


def bad_args(kind: str, args: Mapping[str, Any]) -> str:
    """Return what is wrong with the arguments of a known kind; "" when nothing."""
    known = {"diag": set(), "logs": {"lines", "contains"}, "restart": {"what", "model"}, CHECK: {"model", "sha256"}}[
        kind
    ]
    if foreign := sorted(set(args) - known):
        return f"{kind} takes no {str(foreign[0])[:32]}"
    lines, contains = args.get("lines", 1), args.get("contains", "")
    if type(lines) is not int or not 1 <= lines <= _MAX_LINES:
        return f"lines must be a number from 1 to {_MAX_LINES}"
    if not isinstance(contains, str) or len(contains) > _MAX_TEXT:
        return f"contains must be a text of at most {_MAX_TEXT} characters"
    if args.get("what", "agent") not in ("agent", "worker"):
        return "what must be agent or worker"
    if args.get("what") == "worker" or kind == CHECK:
        try:
            parse_model_name(args.get("model", ""))
        except (EdgefleetError, TypeError):
            return "a check, as a restart of a worker, needs the name of the model"
    if kind == CHECK:
        try:
            parse_sha256(args.get("sha256", ""))
        except (EdgefleetError, TypeError):
            return "a check needs the digest of the bundle that it is about"
    return ""


def noted(done: TasksDone, entry: TaskDone, tasks: Sequence[TaskRequest]) -> TasksDone:
    """Return the record with one more; the oldest go first, but never one that the document still names."""
    named = {task.id for task in tasks}
    rows = [row for row in done.done if row.id != entry.id] + [entry]
    surplus = len(rows) - KEPT
    kept = []
    for row in rows:
        if surplus > 0 and row.id not in named:
            surplus -= 1
            continue
        kept.append(row)
    return msgspec.structs.replace(done, done=kept)


def retry_in_s(failures: int) -> float:
    """Return when to try again after so many failures in a row."""
    return RETRY_S[min(failures, len(RETRY_S)) - 1]
