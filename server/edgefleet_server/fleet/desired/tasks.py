"""Tasks: what one device is asked to do once (`diag`, `logs`, `restart`, `check`), how far it is, and what it sent.

Tasks outlive the documents that carry them. Rules:
1. A task stands in the device's signed document until it is over; the device does each id once.
2. Its progress comes from the device's events, and goes forward only: a late or repeated event changes nothing.
3. A result ends a task that has one; it is bounded, taken from the task's own device only, and kept for KEPT.
4. Nobody hears of a task whose `until` has passed any more: such a task reads as expired, and no later signing names it.
5. `check` is the server's own question, not an operator's: whether what the device serves still has its digest, its signatures and
   its golden answers. Its asker chooses the id, so that asking again after a crash asks once.
6. `feedback` carries labels of answers (`telemetry.ground_truth`); it is the server's own, too, and what came of it stands in its reason.
   Its labels are kept until it is over.
"""

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import Task
from edgefleet_protocol.digest import parse_sha256, sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, parse_model_name
from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.model import TaskOrder, TasksAsked, TaskSkipped, TaskState, TaskView
from edgefleet_server.fleet.errors import (
    BadTaskError,
    DeviceRevokedError,
    TaskOverError,
    TaskResultMissingError,
    TaskResultTooLargeError,
    TaskUnknownError,
    TooManyAtOnceError,
    TooManyTasksError,
)
from edgefleet_server.fleet.tables import FleetTask

CHECK: Final = "check"
FEEDBACK: Final = "feedback"
MAX_OPEN: Final = 8
MOST_AT_ONCE: Final = 1_000
MAX_RESULT_BYTES: Final = 1_000_000
KEPT: Final = timedelta(days=30)
RESULT_TYPES: Final[Mapping[str, str]] = {"diag": "application/gzip", "logs": "text/plain"}
"""Kinds with a result, and what it is."""
_ARGS: Final[Mapping[str, frozenset[str]]] = {
    "diag": frozenset(),
    "logs": frozenset({"lines", "contains"}),
    "restart": frozenset({"what", "model"}),
    CHECK: frozenset({"model", "sha256"}),
    FEEDBACK: frozenset({"model", "items", "wide"}),
}
_ID: Final = re.compile(r"t-[0-9a-f]{16}")
_COPIED: Final = (
    *("id", "kind", "args", "code", "reason", "created_at", "created_by", "until", "changed_at"),
    *("result_type", "result_bytes", "result_sha256"),
)
_ORDER: Final = {state.value: place for place, state in enumerate(TaskState)}
_END: Final = _ORDER[TaskState.DONE]


class TaskBook:
    """Makes tasks and follows them."""

    def __init__(self, db: Database, desired: DesiredBook, feed: EventLog, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._desired = desired
        self._feed = feed
        self._clock = clock

    def create(self, device_id: str, order: TaskOrder, by: str, task_id: str = "") -> TaskView:
        """Ask a device to do something once; its document is signed again in the same transaction.

        task_id: chosen by the asker, `t-` and 16 hex digits; asking again under it changes nothing.
        Raises DeviceUnknownError, DeviceRevokedError, BadTaskError, TooManyTasksError.
        """
        _check_order(order, task_id)
        now = self._clock.now()
        with self._db.session() as session:
            device = store.known_device(session, device_id, lock=True)
            if task_id and (asked := desired_store.task(session, task_id)) is not None:
                return _same(asked, device_id, order, now)
            still_open = [row for row in desired_store.tasks_of(session, device_id, MAX_OPEN * 8) if _is_open(row, now)]
            if len(still_open) >= MAX_OPEN:
                raise TooManyTasksError(
                    f"{device_id} has {len(still_open)} open tasks; more than {MAX_OPEN} are not kept",
                    next_step=f"see them: `edgectl device tasks {device_id}`; each ends by itself",
                )
            task = Task(
                id=task_id or f"t-{secrets.token_hex(8)}",
                kind=order.kind,
                until=(now + order.ttl).replace(microsecond=0),
                args=dict(order.args),
            )
            row = desired_store.insert_task(
                session,
                {
                    "id": task.id,
                    "device_id": device.id,
                    "kind": task.kind,
                    "args": task.args,
                    "state": TaskState.QUEUED.value,
                    "created_at": now,
                    "created_by": by[:80],
                    "until": task.until,
                    "changed_at": now,
                },
            )
            signed = self._desired.add_task(DeviceId(device.id), task)
            detail = {"task": task.id, "task_kind": task.kind, "by": by, "gen": signed.gen}
            self._feed.add([NewEvent("task_asked", device.id, detail=detail)])
            return _view(row, now, signed.gen)

    def create_many(self, devices: Sequence[DeviceId], order: TaskOrder, by: str, *, dry_run: bool) -> TasksAsked:
        """Ask each of these devices to do something once, all in one transaction; devices that cannot be asked are left out, with why.

        Raises TooManyAtOnceError, BadTaskError.
        """
        if len(devices) > MOST_AT_ONCE:
            raise TooManyAtOnceError(
                f"{len(devices)} devices match; at most {MOST_AT_ONCE} can be asked at once, because a document is signed for each",
                next_step="narrow the selector, by a group or a label, and ask in parts",
            )
        made: dict[str, str] = {}
        skipped: list[TaskSkipped] = []
        with self._db.session() as session:
            for device in () if dry_run else devices:
                try:
                    made[device] = self.create(device, order, by).id
                except (TooManyTasksError, DeviceRevokedError) as error:
                    skipped.append(TaskSkipped(device, error.message, error.next_step))
            names = store.display_names(session, [one.device for one in skipped])
        asked = len(devices) if dry_run else len(made)
        left = [replace(one, display_name=names.get(one.device, "")) for one in skipped]
        return TasksAsked(order.kind, len(devices), asked, dry_run, made, left)

    def tasks(self, device_id: str, limit: int = 50) -> list[TaskView]:
        """Return the newest tasks of a device, newest first. Raises DeviceUnknownError."""
        now = self._clock.now()
        with self._db.read() as session:
            store.known_device(session, device_id)
            return [_view(row, now) for row in desired_store.tasks_of(session, device_id, limit)]

    def task(self, device_id: str, task_id: str) -> TaskView:
        """Return one task. Raises TaskUnknownError."""
        with self._db.read() as session:
            return _view(_known(session, device_id, task_id), self._clock.now())

    def answers(self, ids: Collection[str]) -> Mapping[str, TaskView]:
        """Return how far these tasks are, by id, without those that do not exist. One query."""
        now = self._clock.now()
        with self._db.read() as session:
            return {row.id: _view(row, now) for row in desired_store.tasks_by_id(session, ids)}

    def result(self, device_id: str, task_id: str) -> tuple[str, bytes]:
        """Return content type and bytes of what the device sent. Raises TaskUnknownError, TaskResultMissingError."""
        with self._db.read() as session:
            row = _known(session, device_id, task_id)
            data = desired_store.task_result(session, row.id)
            if data is None:
                raise TaskResultMissingError(
                    f"the task {task_id} of {device_id} has no result; it is {_view(row, self._clock.now()).state}",
                    next_step=f"results are kept for {KEPT.days} days. See `edgectl device tasks {device_id}`",
                )
            return row.result_type, data

    def take_result(self, device_id: DeviceId, task_id: str, data: bytes) -> TaskView:
        """Store what a device sends for its own open task, which is done by that; the same again changes nothing.

        Raises TaskUnknownError, TaskOverError, TaskResultTooLargeError, BadTaskError.
        """
        if len(data) > MAX_RESULT_BYTES:
            raise TaskResultTooLargeError(f"a result of {len(data)} bytes; at most {MAX_RESULT_BYTES} are taken")
        now = self._clock.now()
        with self._db.session() as session:
            row = _known(session, device_id, task_id, lock=True)
            digest = sha256_hex(data)
            if row.result_sha256 == digest:
                return _view(row, now)
            if row.kind not in RESULT_TYPES:
                raise BadTaskError(f"a task of kind {row.kind} has no result")
            if not _is_open(row, now):
                raise TaskOverError(f"the task {task_id} is {_view(row, now).state}", next_step="ask for it again")
            desired_store.insert_task_result(session, task_id, now, data)
            row.result_type, row.result_bytes, row.result_sha256 = RESULT_TYPES[row.kind], len(data), digest
            self._set(session, row, TaskState.DONE, "", "", now)
            self._desired.drop_tasks({device_id: {row.id}})
            return _view(row, now)

    def hear(self, events: Sequence[Event]) -> None:
        """Take what devices tell of their tasks, in the caller's transaction."""
        reported = [event for event in events if event.kind is EventKind.TASK]
        if not reported:
            return
        now = self._clock.now()
        over: dict[str, set[str]] = {}
        with self._db.session() as session:
            for event in reported:
                task_id, word = str(event.detail.get("task", ""))[:32], str(event.detail.get("state"))
                row = desired_store.task(session, task_id, lock=True)
                if word not in _ORDER or (row is not None and row.device_id != event.device):
                    continue
                if row is not None:
                    waits_for_result = word == TaskState.DONE and row.kind in RESULT_TYPES and not row.result_bytes
                    if _ORDER[row.state] >= min(_ORDER[word], _END) or waits_for_result:
                        continue
                    self._set(session, row, TaskState(word), event.code[:64], event.reason[:1000], now)
                if _ORDER[word] >= _END:  # without a row it is a fetch of captures: its records say how far it is
                    over.setdefault(event.device, set()).add(task_id)
            self._desired.drop_tasks(over)

    def prune(self, now: datetime) -> int:
        """Remove results that are older than KEPT; return how many. Of labels that no device took in time, the items go, too."""
        with self._db.session() as session:
            for row in desired_store.tasks_without_end(session, FEEDBACK, now, MOST_AT_ONCE):
                self._set(session, row, TaskState.EXPIRED, "", "", now)
            return desired_store.prune_task_results(session, now - KEPT)

    @staticmethod
    def _set(session: Session, row: FleetTask, state: TaskState, code: str, reason: str, now: datetime) -> None:
        row.state, row.code, row.reason, row.changed_at = state.value, code, reason, now
        if _ORDER[row.state] >= _END:
            row.args = _lasting(row.args)
        session.add(row)


def _check_order(order: TaskOrder, task_id: str) -> None:
    """Raise BadTaskError for arguments that the kind does not take, or lacks, and for an id that is none."""
    foreign = sorted(order.args.keys() - _ARGS[order.kind])
    what = f"{order.kind} takes no {foreign[0]}" if foreign else ""
    if order.kind == CHECK:
        try:
            parse_model_name(order.args.get("model", ""))
            parse_sha256(order.args.get("sha256", ""))
        except EdgefleetError as error:
            what = what or f"check needs the model and the digest that it is about: {error.message}"
    elif order.kind != FEEDBACK and (order.args.get("what") == "worker") != ("model" in order.args):
        what = what or "`model` belongs to `what: worker`, and is needed there"
    if task_id and not _ID.fullmatch(task_id):
        what = what or f"{task_id[:40]!r} is no id of a task: `t-` and 16 hex digits"
    if what:
        raise BadTaskError(what, next_step="see `edgectl device restart --help` and `edgectl device logs --help`")


def _same(row: FleetTask, device_id: str, order: TaskOrder, now: datetime) -> TaskView:
    """Return the task of this id. Raises BadTaskError when it is another one."""
    is_it = row.args in (dict(order.args), _lasting(order.args))
    if (row.device_id, row.kind) != (device_id, order.kind) or not is_it:
        raise BadTaskError(f"the id {row.id} stands for another task", next_step="choose a new id")
    return _view(row, now)


def _lasting(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the arguments is kept when the task is over: no labels."""
    return {name: one for name, one in args.items() if name != "items"}


def _known(session: Session, device_id: str, task_id: str, *, lock: bool = False) -> FleetTask:
    row = desired_store.task(session, task_id[:32], lock=lock)
    if row is None or row.device_id != device_id:
        raise TaskUnknownError(
            f"{device_id[:63]} has no task {task_id[:32]!r}", next_step="see `edgectl device tasks ID`"
        )
    return row


def _is_open(row: FleetTask, now: datetime) -> bool:
    return _ORDER[row.state] < _END and row.until > now


def _view(row: FleetTask, now: datetime, gen: int = 0) -> TaskView:
    ended = _ORDER[row.state] >= _END
    state = TaskState(row.state) if ended or row.until > now else TaskState.EXPIRED
    fields: dict[str, Any] = {name: getattr(row, name) for name in _COPIED}
    return TaskView(device=row.device_id, state=state, gen=gen, **fields)
