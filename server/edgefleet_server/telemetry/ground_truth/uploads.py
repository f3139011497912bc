"""Labels in bulk: they go down to the devices that answered, since only these know what they said; the devices pair and count them.

1. Rows name a device and an answer. Rows without a device go to every device that runs the model, BROADCAST of them at most: each answer
   is known to one device, so a label that matches nowhere is unmatched once, not once a device (`wide` in the task's arguments).
2. A device has one part on its way, PART_ROWS rows and PART_BYTES at most, as a task of its signed document; the next one follows when it
   is over. A device that is away gets them when it comes back, for PART_LIFE.
3. What came of an upload is kept for KEPT, single labels until they are sent, and LABELS_KEPT to join them with captured records.
4. A row that cannot be read stops no other: it is named by its line, the first SHOWN of them. So is one of an answer that was erased.
"""

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import msgspec
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.feedback_csv import Row
from edgefleet_protocol.ids import ModelName
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.model import TaskOrder, TaskState, TaskView
from edgefleet_server.fleet.errors import TooManyTasksError
from edgefleet_server.telemetry.ground_truth import store, upload_store
from edgefleet_server.telemetry.ground_truth.errors import NoLabelsError, TooManyLabelsError, UploadUnknownError
from edgefleet_server.telemetry.ground_truth.tables import FeedbackPart, FeedbackUpload
from edgefleet_server.telemetry.ground_truth.upload_views import BadRow, FeedbackUploadView, PartFailure
from edgefleet_server.telemetry.model import AnswerKey

FEEDBACK: Final = "feedback"
MOST_ROWS: Final = 50_000
BROADCAST: Final = 16
PART_ROWS: Final = 100
PART_BYTES: Final = 12 * 1024
PART_LIFE: Final = timedelta(days=7)
KEPT: Final = timedelta(days=90)
LABELS_KEPT: Final = timedelta(days=30)
"""As long as captured records."""
SHOWN: Final = 50
ERASED: Final = "its answer was erased"
CHUNK: Final = 500
MOST_TEXT: Final = 128
AT_ONCE: Final = 50
"""Documents that are signed in one tick."""
LOOKED_AT: Final = 500
"""Parts that devices have, of which one tick asks how far they are."""
_WORDS: Final = re.compile(r"(\w+)=(\d{1,9})")
_Sized = tuple[dict[str, Any], int]
"""An item with its size in bytes."""
_Good = dict[tuple[str, bool], list[_Sized]]
"""Items by device, and whether they go to many."""
_ENDED: Final = (TaskState.DONE, TaskState.FAILED, TaskState.EXPIRED, TaskState.CANCELLED)


class Tasks(Protocol):
    """What is needed of the fleet's tasks."""

    def create(self, device_id: str, order: TaskOrder, by: str, task_id: str = "") -> TaskView:
        """Ask a device to do something once; under an id that is known nothing changes."""
        ...

    def answers(self, ids: Collection[str]) -> Mapping[str, TaskView]:
        """Return how far these tasks are."""
        ...


class ErasedAnswers(Protocol):
    """What is needed of the tombstones of erased answers."""

    def erased(self, session: Session, answers: Iterable[AnswerKey]) -> Mapping[AnswerKey, str]:
        """Return those of these answers that were erased, each with its erasure."""
        ...

    def count(self, session: Session, dropped: Iterable[tuple[str, str]]) -> None:
        """Count late records, each as (model, erasure)."""
        ...


class FeedbackUploads:
    """Takes labels and sends them on. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tasks: Tasks,
        live: Callable[[Collection[str]], Collection[str]],
        running: Callable[[ModelName], Sequence[str]],
        check_model: Callable[[ModelName], object],
        tombstones: ErasedAnswers | None = None,
    ) -> None:
        """Wire the parts. live: of these devices those that are; running: devices that run a model; check_model: raises without one.

        tombstones: know which answers were erased: no label of them is taken.
        """
        self._db = db
        self._clock = clock
        self._tasks = tasks
        self._live = live
        self._running = running
        self._check_model = check_model
        self._tombstones = tombstones
        self._after = self._after_device = ""
        """What the tick has come to: the last part that was looked at, and the last device that got one."""

    def take(self, model: ModelName, rows: Iterable[Row], by: str) -> FeedbackUploadView:
        """Take labels; their devices get them from now on. Raises ModelUnknownError, NoLabelsError, TooManyLabelsError."""
        self._check_model(model)
        found = list(rows)
        if len(found) > MOST_ROWS:
            raise TooManyLabelsError(
                f"{len(found)} labels at once, at most {MOST_ROWS} are taken", next_step="send them in parts"
            )
        good, bad = self._sorted_out(model, found)
        with self._db.session() as session:  # nobody is erased from the log meanwhile
            good, bad = self._without_erased(session, model, found, good, bad)
            upload = self._keep(session, model, len(found), good, bad, by) if good else ""
        if not upload:
            first = f": line {bad[0].line}: {bad[0].error}" if bad else ""
            raise NoLabelsError(f"no row can be used{first}")
        self.advance(self._clock.now())
        return self.upload(upload, model)

    def _keep(self, session: Session, model: str, rows: int, good: _Good, bad: Sequence[BadRow], by: str) -> str:
        now = self._clock.now()
        upload = FeedbackUpload(
            id=f"u-{secrets.token_hex(8)}",
            model=model,
            rows=rows,
            refused=len(bad),
            bad=[[one.line, one.error] for one in bad[:SHOWN]],
            created_at=now,
            created_by=by[:120],
        )
        upload_id = upload.id
        number = upload_store.last_number(session)
        upload_store.add(session, upload, _parts(upload_id, good, number))
        store.set_labels(session, _labels(model, good, now))
        return upload_id

    def _without_erased(
        self, session: Session, model: str, rows: Sequence[Row], good: _Good, bad: list[BadRow]
    ) -> tuple[_Good, list[BadRow]]:
        """Leave out labels of answers that were erased, and count them on the receipts; their lines join the bad ones."""
        answers = {(row.line, _answer_of(model, str(row.item.get("device") or ""), row.item)) for row in rows}
        known = {} if self._tombstones is None else self._tombstones.erased(session, {one for _, one in answers})
        if self._tombstones is None or not known:
            return good, bad
        refused = {one.line for one in bad}
        late = sorted((line, known[one]) for line, one in answers if one in known and line not in refused)
        self._tombstones.count(session, [(model, erasure) for _, erasure in late])
        left = {
            (device, is_wide): some
            for (device, is_wide), items in good.items()
            if (some := [one for one in items if _answer_of(model, "" if is_wide else device, one[0]) not in known])
        }
        return left, sorted([*bad, *(BadRow(line, ERASED) for line, _ in late)], key=lambda one: one.line)

    def _sorted_out(self, model: ModelName, rows: Sequence[Row]) -> tuple[_Good, list[BadRow]]:
        """Return the items by device, each with its size, and the rows that cannot be used."""
        bad = [BadRow(row.line, row.error) for row in rows if row.error]
        named = sorted({one for row in rows if (one := str(row.item.get("device") or "")).isprintable() and one})
        live = {one for at in range(0, len(named), CHUNK) for one in self._live(named[at : at + CHUNK])}
        running: Sequence[str] | None = None
        good: _Good = {}
        for row in rows:
            if row.error:
                continue
            item = {name: one for name, one in row.item.items() if name != "device"}
            device = str(row.item.get("device") or "")
            size = _size(item)
            why = _flaw(item, size)
            if not why and device and device not in live:
                why = f"there is no device {device[:63] if device.isprintable() else ascii(device[:63])}"
            if not why and not device:
                running = self._running(model) if running is None else running
                why = _no_device(item, running, model)
            if why:
                bad.append(BadRow(row.line, why))
                continue
            for one in (device,) if device else running or ():
                good.setdefault((one, not device), []).append((item, size))
        return good, sorted(bad, key=lambda one: one.line)

    def advance(self, now: datetime) -> int:
        """Take in what devices did, and send what is next; return how many parts were sent. For the engine tick."""
        with self._db.read() as session:
            if not upload_store.has_open_parts(session):
                return 0
        with self._db.session() as session:
            parts = upload_store.sent(session, self._after, LOOKED_AT)
            self._after = parts[-1].id if len(parts) == LOOKED_AT else ""
            answers = self._tasks.answers([one.id for one in parts]) if parts else {}
            for part in parts:
                answer = answers.get(part.id)
                if answer is None or answer.state in _ENDED:
                    _end(part, answer)
            session.flush()
            following = upload_store.next_to_send(session, self._after_device, AT_ONCE)
            self._after_device = max(one.device_id for one in following) if len(following) == AT_ONCE else ""
            models = {one.upload_id: upload_store.upload(session, one.upload_id) for one in following}
            for part in following:
                known = models[part.upload_id]
                self._send(part, "" if known is None else known.model, "" if known is None else known.created_by)
            return sum(part.state == "sent" for part in following)

    def prune(self, now: datetime) -> None:
        """Delete uploads that are older than KEPT. For the engine, hourly."""
        with self._db.session() as session:
            upload_store.delete_before(session, now - KEPT)
            store.delete_labels_before(session, now - LABELS_KEPT)

    def _send(self, part: FeedbackPart, model: str, by: str) -> None:
        args = {"model": model, "items": part.items} | ({"wide": True} if part.broadcast else {})
        order = TaskOrder(FEEDBACK, args, PART_LIFE)
        try:
            self._tasks.create(part.device_id, order, by, part.id)
        except TooManyTasksError:  # some of them end: it is asked again
            return
        except EdgefleetError as error:
            part.state, part.reason, part.items = "failed", error.message[:200], []
        else:
            part.state, part.items = "sent", []

    def upload(self, upload_id: str, model: str) -> FeedbackUploadView:
        """Return how an upload of a model stands. Raises UploadUnknownError."""
        with self._db.read() as session:
            row = upload_store.upload(session, upload_id[:32])
            if row is None or row.model != model:
                raise UploadUnknownError(f"{model} has no upload of labels {upload_id[:32]!r}")
            failures = [PartFailure(*one) for one in upload_store.failures(session, row.id, SHOWN)]
            return _view(row, upload_store.outcomes(session, [row.id]), failures)

    def uploads(self, model: str, limit: int) -> list[FeedbackUploadView]:
        """Return the newest uploads of a model, without their failures."""
        with self._db.read() as session:
            rows = upload_store.newest(session, model, limit)
            outcomes = upload_store.outcomes(session, [one.id for one in rows])
            return [_view(row, outcomes, ()) for row in rows]


def _parts(upload_id: str, good: Mapping[tuple[str, bool], list[_Sized]], number: int) -> list[dict[str, Any]]:
    """Return the rows of the parts. number: of the last part of all."""
    found: list[dict[str, Any]] = []
    for (device, broadcast), items in sorted(good.items()):
        for some in _cut(items):
            number += 1
            found.append(
                {
                    "id": f"t-{secrets.token_hex(8)}",
                    "upload_id": upload_id,
                    "device_id": device,
                    "number": number,
                    "rows": len(some),
                    "broadcast": broadcast,
                    "items": some,
                    "state": "waiting",
                    "reason": "",
                    **dict.fromkeys(upload_store.OUTCOMES, 0),
                }
            )
    return found


def _labels(model: str, good: Mapping[tuple[str, bool], list[_Sized]], now: datetime) -> list[dict[str, Any]]:
    """Return the rows of labels by answer; one that goes to many devices is one."""
    found: dict[tuple[str, str], str] = {}
    for (device, is_wide), items in good.items():
        for item, _ in items:
            trace = str(item.get("trace_id") or item.get("key") or "")
            label = item.get("label", item.get("value"))
            if trace and label is not None and len(trace) <= MOST_TEXT and len(str(label)) <= MOST_TEXT:
                found["" if is_wide else device, trace] = str(label)
    return [
        {"model": model, "trace_id": trace, "device_id": device, "label": label, "received_at": now}
        for (device, trace), label in sorted(found.items())
    ]


def _answer_of(model: str, device: str, item: Mapping[str, Any]) -> AnswerKey:
    return AnswerKey(model, device, str(item.get("trace_id") or item.get("key") or ""))


def _cut(items: Sequence[_Sized]) -> Iterable[list[Any]]:
    part: list[Any] = []
    size = 0
    for item, more in items:
        if part and (len(part) >= PART_ROWS or size + more > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += more
    if part:
        yield part


def _size(item: Mapping[str, Any]) -> int:
    """Return how many bytes an item takes in a document; 0 when none can hold it, or a device cannot hand it on."""
    try:
        msgspec.msgpack.encode(item)  # it has no integers beyond 64 bits
        return len(json.dumps(item, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, OverflowError, RecursionError):
        return 0


def _flaw(item: Mapping[str, Any], size: int) -> str:
    """Return what no device could do anything with; classes and names the device checks itself."""
    if not size:
        return "it holds a number or a text that no device can read"
    has_answer = bool(item.get("trace_id") or item.get("key"))
    if (item.get("label") is not None or item.get("value") is not None) and not has_answer:
        return "it names no answer: give `trace_id` or `key`"
    if not item.keys() & {"label", "value", "kpi"}:
        return "it has no label, no value and no figure"
    return "it is too long" if size > PART_BYTES else ""


def _no_device(item: Mapping[str, Any], running: Sequence[str], model: str) -> str:
    if "label" not in item and "value" not in item:
        return "business figures need the `device` that they are of"
    if not running:
        return f"it names no device, and none runs {model}"
    if len(running) > BROADCAST:
        return f"it names no device, and {len(running)} run {model}: name the `device`"
    return ""


def _end(part: FeedbackPart, answer: TaskView | None) -> None:
    if answer is None or answer.state is not TaskState.DONE:
        part.state = "failed"
        part.reason = "the task is gone" if answer is None else (answer.reason or f"the task is {answer.state}")[:200]
        return
    counts = {name: int(n) for name, n in _WORDS.findall(answer.reason)}
    part.state = "done"
    for name in upload_store.OUTCOMES:
        # a device says what it likes of itself, but never of more labels than it got
        setattr(part, name, min(part.rows, counts.get(name, 0)))


def _view(
    row: FeedbackUpload, outcomes: Mapping[tuple[str, str, bool], Mapping[str, int]], failures: Sequence[PartFailure]
) -> FeedbackUploadView:
    mine = {key[1:]: one for key, one in outcomes.items() if key[0] == row.id}

    def total(name: str, *states: str, broadcast: bool | None = None) -> int:
        return sum(
            one[name]
            for (state, wide), one in mine.items()
            if (not states or state in states) and broadcast in {None, wide}
        )

    # of labels that went to every device, one matches on one device at most: the rest of the rows matched nowhere
    labels = row.rows - row.refused - total("rows", broadcast=False)
    matched_wide = min(labels, total("matched", broadcast=True))
    known_wide = min(labels, matched_wide + total("repeated", broadcast=True) + total("misfit", broadcast=True))
    is_open = any(state in {"waiting", "sent"} for state, _ in mine)
    has_wide = any(wide for _, wide in mine)
    failed = total("rows", "failed", broadcast=False)
    unmatched_wide = labels - known_wide if has_wide and not is_open else 0
    return FeedbackUploadView(
        id=row.id,
        model=row.model,
        state="open" if is_open else "partly" if total("parts", "failed") else "done",
        rows=row.rows,
        bad=row.refused,
        parts=total("parts"),
        over=total("parts", "done", "failed"),
        matched=total("matched", broadcast=False) + matched_wide,
        unmatched=total("unmatched", broadcast=False) + unmatched_wide,
        late=min(total("late", broadcast=False) + (min(unmatched_wide, total("late", broadcast=True))), row.rows),
        repeated=total("repeated", broadcast=False) + min(labels, total("repeated", broadcast=True)),
        misfit=total("misfit"),
        refused=total("refused", broadcast=False) + min(labels, total("refused", broadcast=True)),
        pending=total("rows", "waiting", "sent", broadcast=False) + (labels if has_wide and is_open else 0),
        failed=failed,
        created_at=row.created_at,
        created_by=row.created_by,
        bad_rows=[BadRow(int(line), str(error)) for line, error in row.bad],
        failures=failures,
    )
