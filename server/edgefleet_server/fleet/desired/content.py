"""What documents say, apart from whom they are for and their number. Pure.

A rollout sends thousands of devices the same: what a document says after some changes is worked out once for all whose
document said the same before (`Contents`), and only the rest of it is made for each.

That somebody watches a device is in the telemetry request of its document (ADR 0044); telemetry asks for it:
1. A watch lasts LIFE and is renewed once half of it is over while somebody looks; nobody has to end it.
2. It asks for `live` windows too, and never shortens what a rollout asked for. A rollout's request never ends a watch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from edgefleet_protocol.desired import ModelDesired, Task, TelemetryRequest
from edgefleet_server.fleet.desired.candidate import CandidateRequest, with_candidate
from edgefleet_server.fleet.desired.model import ModelChange

LIFE: Final = timedelta(minutes=5)


def watched_until(request: TelemetryRequest, now: datetime) -> datetime | None:
    """Return until when somebody watches; None when nobody does."""
    until = request.predictions_until
    return None if until is UNSET or until <= now else until


def is_renewal_due(request: TelemetryRequest, now: datetime) -> bool:
    """Say whether the document has to be signed again for somebody who looks now."""
    until = watched_until(request, now)
    return until is None or until - now < LIFE / 2


def watched(request: TelemetryRequest, now: datetime) -> TelemetryRequest:
    """Return the request with a watch from now on."""
    until = (now + LIFE).replace(microsecond=0)
    is_live = request.profile == "live" and (request.until is None or request.until >= until)
    if is_live:
        return msgspec.structs.replace(request, predictions_until=until)
    return TelemetryRequest(profile="live", until=until, predictions_until=until)


def still_watched(request: TelemetryRequest, before: TelemetryRequest, now: datetime) -> TelemetryRequest:
    """Return `request`, which replaces `before`, with the watch that is in force; one that is over is left out."""
    until = watched_until(before, now) or UNSET
    chosen = request.predictions_until if request.predictions_until is not UNSET else until
    if chosen is not UNSET and chosen <= now:
        chosen = UNSET
    return msgspec.structs.replace(request, predictions_until=chosen)


DESIRED_LIFE: Final = timedelta(days=7)
MAX_TASKS: Final = 32


class Texts(NamedTuple):
    """A stored document's content as the database keeps it: JSON texts."""

    models: str
    telemetry: str
    tasks: str


class DocumentParts(NamedTuple):
    """A document's content before it is signed again."""

    models: dict[str, ModelDesired]
    telemetry: TelemetryRequest
    tasks: list[Task]


NOTHING: Final = DocumentParts({}, TelemetryRequest(), [])
"""What a device without a document was sent. Never changed."""
_MODELS: Final = msgspec.json.Decoder(dict[str, ModelDesired])
_TELEMETRY: Final = msgspec.json.Decoder(TelemetryRequest)
_TASKS: Final = msgspec.json.Decoder(list[Task])


@dataclass(frozen=True, slots=True)
class Content:
    """What a document says, signed at a moment. columns: what its row has in common with the rows of all devices that get the same."""

    models: dict[str, ModelDesired]
    telemetry: TelemetryRequest
    tasks: list[Task]
    issued: datetime
    expires: datetime
    columns: Mapping[str, Any]


def content_of(
    before: DocumentParts, now: datetime, models: Mapping[str, ModelDesired], telemetry: TelemetryRequest
) -> Content:
    """Return what a document says from now on: a watch goes on, tasks that are over and the oldest of too many are left out."""
    telemetry = still_watched(telemetry, before.telemetry, now)
    tasks = [task for task in before.tasks if task.until is None or task.until > now][-MAX_TASKS:]
    issued, expires = now.replace(microsecond=0), (now + DESIRED_LIFE).replace(microsecond=0)
    columns = {
        "models": msgspec.to_builtins(dict(models)),
        "telemetry": msgspec.to_builtins(telemetry),
        "tasks": msgspec.to_builtins(tasks),
        "issued_at": issued,
        "expires_at": expires,
        "resign_at": now + DESIRED_LIFE / 2,
        "changed_at": now,
    }
    return Content(dict(models), telemetry, tasks, issued, expires, columns)


class Contents:
    """What documents of one moment say after changes, each worked out once."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._known: dict[tuple[object, ...], Content | None] = {}

    def after(self, before: Texts | None, changes: Sequence[ModelChange]) -> Content | None:
        """Return what a document says after a device's changes; None where nothing is left to change (`ModelChange.over`)."""
        key = (before, *((one.model, one.active, one.telemetry, one.over, one.order) for one in changes))
        if key not in self._known:
            parts = NOTHING if before is None else _read(before)
            valid = [change for change in changes if is_still_so(parts.models, change)]
            self._known[key] = content_of(parts, self._now, *changed(parts, valid)) if valid else None
        return self._known[key]

    def again(self, before: Texts | None) -> Content:
        """Return what a document says when it is signed again as it is."""
        key = (before,)
        content = self._known.get(key)
        if content is None:
            parts = NOTHING if before is None else _read(before)
            content = self._known[key] = content_of(parts, self._now, parts.models, parts.telemetry)
        return content

    def models(self, before: Texts | None, changes: Sequence[ModelChange]) -> dict[str, ModelDesired]:
        """Return the models of a document after a device's changes."""
        found = self.after(before, changes) if changes else None
        if found is not None:
            return found.models
        return {} if before is None else _read_models(before.models)


@lru_cache(maxsize=64)
def _read_models(text: str) -> dict[str, ModelDesired]:
    return _MODELS.decode(text)


def _read(texts: Texts) -> DocumentParts:
    return DocumentParts(_MODELS.decode(texts.models), _TELEMETRY.decode(texts.telemetry), _TASKS.decode(texts.tasks))


def changed(parts: DocumentParts, changes: Sequence[ModelChange]) -> tuple[dict[str, ModelDesired], TelemetryRequest]:
    """Return the models and the telemetry request after changes."""
    models, telemetry = dict(parts.models), parts.telemetry
    for change in changes:
        if change.order is not None:
            order = _with_candidate(models, change)
            models = models if isinstance(order, str) else order
        elif change.active is None:
            models.pop(change.model, None)
        else:
            known = models.get(change.model)
            is_same = known is not None and known.active is not None and known.active.sha256 == change.active.sha256
            # a candidate goes on while that version is only offered again
            candidate = known if is_same and known is not None else ModelDesired(active=None)
            models[change.model] = msgspec.structs.replace(candidate, active=change.active)
        telemetry = change.telemetry or telemetry
    return models, telemetry


def is_still_so(models: Mapping[str, ModelDesired], change: ModelChange) -> bool:
    """Return whether a document, now that it is locked, still names what the change replaces, or can take its candidate."""
    if change.order is not None:
        return not isinstance(_with_candidate(models, change), str)
    named = models.get(change.model)
    return change.over is None or (
        named is not None and named.active is not None and named.active.sha256 == change.over
    )


def _with_candidate(models: Mapping[str, ModelDesired], change: ModelChange) -> dict[str, ModelDesired] | str:
    assert change.active is not None, "a candidate has a bundle"
    assert change.order is not None, "asked for changes of candidates only"
    return with_candidate(models, CandidateRequest(change.model, change.active, change.order))
