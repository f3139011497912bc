"""What rollouts ask of many devices at once: which bundle their documents name, and what they say of one model.

It reads for a machine, a thousand devices in few statements, and trusts nothing that a device said:
a report that cannot be read is no report.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Select

from edgefleet_protocol.desired import ModelDesired, Ref
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.model import WantedRef
from edgefleet_server.fleet.reported import store as reported_store
from edgefleet_server.fleet.reported.model import ModelReport, SaidCandidate
from edgefleet_server.fleet.reported.store import Mark
from edgefleet_server.fleet.selectors import grammar
from edgefleet_server.fleet.selectors.count import (
    DeviceCount,
    DeviceSet,
    Shared,
    count_matching,
    count_shared,
    count_shared_each,
)

MAX_TEXT: Final = 1000


class _ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a stored report. Fields that it lacks are those of `messages.ModelState`."""

    model: str
    phase: Phase
    active_target: str = ""
    active_sha256: str = ""
    previous_sha256: str = ""
    wanted_sha256: str = ""
    attempt: int = 0
    gen: int = 0
    rollout: str = ""
    error_class: ErrorClass | None = None
    error_code: str = ""
    reason: str = ""
    serving: bool = False
    candidate: SaidCandidate | None = None


class _Refused(msgspec.Struct, frozen=True, kw_only=True):
    refused_gen: int = 0
    refused_code: str = ""
    refused_reason: str = ""


class ReportedStateReader:
    """Reads what many devices should run and what they say."""

    def __init__(self, db: Database) -> None:
        """Wire the database."""
        self._db = db

    def count_matching(self, selector: str, labels: Sequence[str] = ()) -> list[DeviceCount]:
        """Return how many live devices a selector matches, by profile and values of `labels`. Raises BadSelectorError."""
        with self._db.read() as session:
            return count_matching(session, grammar.parse_selector(selector), labels)

    def count_shared(self, mine: DeviceSet, theirs: Sequence[DeviceSet]) -> Shared:
        """Return how many live devices a crowd shares with any of others. Raises BadSelectorError."""
        with self._db.read() as session:
            return count_shared(session, mine, theirs)

    def count_shared_each(self, mine: DeviceSet, theirs: Select[Any]) -> dict[str, Shared]:
        """Return what `count_shared_each` of `selectors.count` does."""
        with self._db.read() as session:
            return count_shared_each(session, mine, theirs)

    def wants(self, device_ids: Sequence[DeviceId], model: str) -> dict[DeviceId, WantedRef]:
        """Return what each of these devices' documents says of a model; devices without a document are left out."""
        with self._db.read() as session:
            return {
                device: WantedRef(*_named(models.get(model), gen))
                for device, gen, models in desired_store.documents(session, device_ids)
            }

    def marks(self, device_ids: Sequence[DeviceId]) -> dict[DeviceId, Mark]:
        """Return for each known device what differs whenever `reports_of` or `wants` would: much less is read for it."""
        with self._db.read() as session:
            return dict(reported_store.marks(session, device_ids))

    def failed_since(self, model: str, since: datetime) -> list[DeviceId]:
        """Return devices that failed at a model, or went back by themselves, after a moment; some thousands at the most."""
        with self._db.read() as session:
            return reported_store.failed_since(session, model, since)

    def slots_of(self, device_ids: Sequence[DeviceId], model: str) -> dict[DeviceId, tuple[str, str]]:
        """Return what each of these devices has in its two slots, as `slots_in`; unknown devices are left out."""
        with self._db.read() as session:
            return {
                DeviceId(row.id): slots_in(row.reported, model) for row in reported_store.reported(session, device_ids)
            }

    def reports_of(self, device_ids: Sequence[DeviceId], model: str) -> dict[DeviceId, ModelReport]:
        """Return what each of these devices says of a model; unknown devices are left out."""
        with self._db.read() as session:
            return {
                DeviceId(row.id): report_of(row, model, row.reported)
                for row in reported_store.reported(session, device_ids)
            }

    def display_names(self, device_ids: Sequence[DeviceId]) -> dict[str, str]:
        """Return the display names of these devices, by id; devices without one are left out."""
        with self._db.read() as session:
            return store.display_names(session, device_ids)

    def model_reports(
        self, device_ids: Sequence[DeviceId], model: str
    ) -> dict[DeviceId, tuple[ModelReport, WantedRef | None]]:
        """Return what `reports_of` and `wants` do of each of these devices, read together."""
        with self._db.read() as session:
            return {
                DeviceId(row.id): (
                    report_of(row, model, row.reported),
                    None if row.gen is None else WantedRef(*_named(row.models.get(model), int(row.gen))),
                )
                for row in reported_store.reported_with_documents(session, device_ids)
            }


def slots_in(reported: Any, model: str) -> tuple[str, str]:
    """Return the digests of a model's active and other slot as a stored report (any JSON value) has them, "" for none."""
    state = _model_state(reported, model)
    return ("", "") if state is None else (state.active_sha256[:MAX_TEXT], state.previous_sha256[:MAX_TEXT])


def report_of(row: Any, model: str, reported: Any) -> ModelReport:
    """Return what a device row and its stored report (any JSON value) say of a model."""
    state, refused = _model_state(reported, model), _converted(reported, _Refused) or _Refused()
    revoked_at: datetime | None = row.revoked_at
    device: dict[str, Any] = {
        "device": DeviceId(row.id),
        "profile": ProfileName(row.profile),
        "status": store.status_of(row.is_online, revoked_at),
        "last_seen": row.last_seen,
        "reported_gen": row.reported_gen,
        "refused_gen": max(0, refused.refused_gen),
        "refused_code": refused.refused_code[:MAX_TEXT],
        "refused_reason": refused.refused_reason[:MAX_TEXT],
        "is_revoked": revoked_at is not None,
        "is_suspect": row.suspect_since is not None,
    }
    if state is None:
        return ModelReport(**device)
    fields: dict[str, Any] = msgspec.structs.asdict(state)
    del fields["model"]
    texts = {name: value[:MAX_TEXT] for name, value in fields.items() if type(value) is str}
    return ModelReport(**device, **fields | texts, has_report=True)


def _model_state(reported: Any, model: str) -> _ModelState | None:
    """Return the readable entry of a model; of several the last one, as the table of model states keeps it."""
    models = reported.get("models") if isinstance(reported, dict) else None
    if not isinstance(models, list):
        return None
    entries = [entry for entry in models if isinstance(entry, dict) and entry.get("model") == model]
    return _converted(entries[-1], _ModelState) if entries else None


def _converted(value: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, TypeError):
        return None


def _named(plain: Any, gen: int) -> tuple[Ref | None, int, Ref | None]:
    """Return the active bundle, the gen, and the candidate that is compared with it (a measurement is none)."""
    if plain is None:
        return None, gen, None
    model = msgspec.convert(plain, ModelDesired)
    return model.active, gen, None if model.mode == "measure" else model.candidate
