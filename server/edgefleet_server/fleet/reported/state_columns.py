"""A reported state as columns of the rows that keep it. Pure."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_target_path
from edgefleet_protocol.messages import ModelState, State, assignment_of

MIB: Final = 1024 * 1024
MAX_MODELS: Final = 64
MAX_NAME: Final = 63
MAX_SIGNALS: Final = 8
MAX_SIGNAL: Final = 120
MAX_BOOT_ID: Final = 64
MAX_REPORT_BYTES: Final = 64 * 1024
MODEL_COLUMNS: Final = ("version", "active_target", "active_sha256", "phase", "assignment", "error_class")


def device_columns(state: State, free_mb: int | None) -> dict[str, Any]:
    """Return what the row of a device keeps of a state. free_mb: what it keeps already, for a state that does not say."""
    plain: dict[str, Any] = msgspec.to_builtins(named_fields(state))
    free = state.facts.get("disk_free_bytes")
    told, used = _places_of(state.facts.get("place"))
    return {
        "boot_id": state.boot_id[:MAX_BOOT_ID],
        "state_seq": state.seq,
        "reported_gen": max(0, min(state.gen, 2**62)),
        "reported": plain if len(json.dumps(plain)) <= MAX_REPORT_BYTES else None,
        "free_mb": free // MIB if isinstance(free, int) and 0 <= free < 2**62 else free_mb,
        "drift": _drift_of(state.facts.get("drift")),
        "place_told": told,
        "place_used": used,
    }


def model_columns(state: State) -> dict[str, dict[str, Any]]:
    """Return what is kept of each model, by its name."""
    return {model.model[:MAX_NAME]: _model(model) for model in state.models[:MAX_MODELS]}


def _model(model: ModelState) -> dict[str, Any]:
    return {
        "version": _version_of(model.active_target),
        "active_target": model.active_target[:255],
        "active_sha256": model.active_sha256[:64],
        "phase": model.phase.value,
        "assignment": assignment_of(model.phase).value,
        "error_class": None if model.error_class is None else model.error_class.value,
    }


def compared(reported: Mapping[str, Any] | None) -> Any:
    """Return what of a report somebody may wait for: all of documents and models but how far a download is."""
    if reported is None:
        return None
    models = [{**model, "progress_pct": 0} for model in reported["models"]]
    return reported["gen"], reported["refused_gen"], reported["refused_code"], models


def named_fields(message: msgspec.Struct) -> Any:
    """Return a message with its field names, since the wire form is positional."""
    named = msgspec.structs.asdict(message)
    for field, value in named.items():
        if isinstance(value, msgspec.Struct):
            named[field] = named_fields(value)
        elif isinstance(value, list):
            named[field] = [named_fields(item) if isinstance(item, msgspec.Struct) else item for item in value]
    return named


def _places_of(said: Any) -> tuple[int, int]:
    """Return which announcement of the server's place a device knows and which it uses, as it says; 0 for none, and for what is none."""
    is_pair = isinstance(said, list) and len(said) == 2 and all(type(one) is int and 0 <= one < 2**62 for one in said)
    return (said[0], said[1]) if is_pair else (0, 0)


def _drift_of(said: Any) -> dict[str, list[str]] | None:
    """Return by model the signals that a state says drift, at most so many of so many letters; None for none."""
    found: dict[str, list[str]] = {}
    for model, signals in list(said.items())[:MAX_MODELS] if isinstance(said, Mapping) else ():
        names = (
            [one[:MAX_SIGNAL] for one in signals[:MAX_SIGNALS] if isinstance(one, str)]
            if isinstance(signals, list)
            else []
        )
        if names and isinstance(model, str):
            found[model[:MAX_NAME]] = names
    return found or None


def _version_of(target: str) -> str:
    try:
        return parse_target_path(target)[1]
    except EdgefleetError:
        return ""
