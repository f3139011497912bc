"""Which entries of the audit trail belong to a model: by the address that each one names. Pure.

Most addresses name the model, one of its releases or one of its rollouts. A release or a rollout that is made has no address yet: its
entry names the list alone, and is found by who made it and when.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import unquote

from edgefleet_terms.audit_chain.hash_chain import AuditRecord

CLOSE: Final = timedelta(seconds=10)
"""So far apart are the entry of something made and the time that it has itself, at most."""
_API: Final = ("api", "v1")
_FOR_ALL: Final = frozenset({"erasures", "release-policies"})
"""What is decided for all models at once."""


@dataclass(frozen=True, slots=True)
class ModelObjects:
    """What belongs to a model. release: only this one, "" = all; rollouts, retrainings: ids; triggers: names.

    made: when something was made, and by whom (as entries name people), by the operation.
    """

    model: str
    release: str = ""
    rollouts: Collection[str] = ()
    retrainings: Collection[str] = ()
    triggers: Collection[str] = ()
    made: Mapping[str, Collection[tuple[datetime, str]]] = field(default_factory=dict)


def concerns(record: AuditRecord, known: ModelObjects) -> bool:
    """Tell whether an entry belongs to a model."""
    parts = [unquote(one) for one in record.object.split("/") if one]
    if tuple(parts[:2]) != _API or len(parts) < 3:
        return False
    kind, name = parts[2], _bare(parts[3]) if len(parts) > 3 else ""
    if not name:
        return kind in _FOR_ALL or _is_making(record, known)
    owned: Mapping[str, Collection[str]] = {
        "models": {known.model},
        "prediction-logs": {known.model},
        "rollouts": known.rollouts,
        "experiments": known.rollouts,
        "retrainings": known.retrainings,
        "triggers": known.triggers,
    }
    if kind == "releases":
        model, _, version = name.partition("@")
        return model == known.model and known.release in {"", f"{model}@{version}"}
    return kind in _FOR_ALL or name in owned.get(kind, ())


def _is_making(record: AuditRecord, known: ModelObjects) -> bool:
    at = datetime.fromisoformat(record.at)
    return any(
        abs(at - made) <= CLOSE and (record.actor == by or record.actor.startswith(f"{by} ("))
        for made, by in known.made.get(record.action, ())
    )


def _bare(step: str) -> str:
    """Return a step of an address without its verb: `r-1:abort` is about `r-1`."""
    return step.partition(":")[0]
