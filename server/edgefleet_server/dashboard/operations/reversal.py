"""How an action on a page is undone: the operation that puts back what was, offered with the sentence on what was done. Pure.

Only what puts back all that was set is offered; samples of an objective that its removal dropped are counted anew. An act that ends
something (a token, a rollout, a device) or that devices have begun to follow has none: its own page says how to go on.

The offer travels in a cookie, sealed with the key of the session: nobody else can put one there.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

BEFORE: Final[Mapping[str, str]] = {
    "pause_rollout": "get_rollout",
    "resume_rollout": "get_rollout",
    "update_device": "get_device",
    "update_group": "get_group",
    "delete_group": "get_group",
    "update_alert_rule": "get_alert_rule",
    "end_alert_silence": "get_alert_silence",
    "delete_maintenance_window": "get_maintenance_window",
    "set_alias": "get_alias",
    "remove_alias": "get_alias",
    "set_prices": "get_prices",
    "remove_prices": "get_prices",
    "put_slo": "get_slo",
    "delete_slo": "get_slo",
    "set_prediction_log": "get_prediction_log",
    "stop_prediction_log": "get_prediction_log",
    "update_contact_point": "get_contact_point",
    "update_trigger": "get_trigger",
    "put_model_card": "get_model_card",
}
"""What is read before an operation, with the same path, so that it can be put back."""
STANDING: Final[Mapping[str, tuple[str, ...]]] = {"resume_rollout": ("state", "code", "reason")}
"""What has to be as it was for an operation that takes no ETag to undo another one: what a gate has paused since stays paused."""
GONE: Final = "gone"
"""How something stands that was removed: an ETag cannot say that nothing was made again in its place."""
MAX_REASON: Final = 500
MAX_CHARS: Final = 3_000
"""A browser keeps cookies of 4,096 bytes; what is longer is not offered."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was done. path: the fields of the path; body: what was sent; before: what `BEFORE` read, None where there was nothing yet."""

    operation: str
    path: Mapping[str, str]
    body: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Undo:
    """The form that undoes it: the operation and its fields, one value each. A field `next` is the page to go to, else the same one."""

    operation: str
    fields: Mapping[str, str]


def can_undo(operation: str) -> bool:
    """Say whether an operation has something that undoes it, at least sometimes."""
    return operation in _MAKERS


def undo_of(done: Done) -> Undo | None:
    """Return what undoes it; None when nothing does."""
    make = _MAKERS.get(done.operation)
    return None if make is None else make(done)


def standing(operation: str, seen: Mapping[str, Any]) -> str:
    """Return how what an operation changes stands, of what `BEFORE` read; "" where an ETag says it."""
    names = STANDING.get(operation, ())
    return json.dumps([seen.get(name) for name in names], ensure_ascii=False) if names else ""


def _same_path(operation: str) -> Callable[[Done], Undo]:
    return lambda done: _undo(operation, done.path)


def _paused_again(done: Done) -> Undo | None:
    """Pause with the reason of before; None where it is not known."""
    if done.before is None:
        return None
    return _undo("pause_rollout", done.path, {"reason": str(done.before.get("reason") or "")[:MAX_REASON]})


def _undo(operation: str, path: Mapping[str, str], body: Mapping[str, Any] | None = None) -> Undo:
    fields = {f"path.{name}": value for name, value in path.items()}
    return Undo(operation, fields if body is None else fields | {"body": json.dumps(body, ensure_ascii=False)})


def _patched(done: Done) -> Undo | None:
    """Put back the fields that were sent; of labels, those that were named."""
    if done.before is None or not done.body:
        return None
    old: dict[str, Any] = {name: done.before.get(name) for name in done.body}
    if isinstance(done.body.get("labels"), Mapping):
        known = done.before.get("labels") or {}
        old["labels"] = {key: known.get(key) for key in done.body["labels"]}
    return None if old == dict(done.body) else _undo(done.operation, done.path, old)


def _contact_patched(done: Done) -> Undo | None:
    """Put back what was sent; an old URL is a secret that nobody is shown again."""
    return None if "url" in done.body else _patched(done)


def _rule_patched(done: Done) -> Undo | None:
    """Put back the fields of a rule that were sent. What was a default is one again, where the rule says so: not the same value by hand."""
    undo = _patched(done)
    if undo is None or done.before is None:
        return undo
    was_changed, default = done.before.get("changed_at") is not None, done.before.get("default")
    old = {name: done.before.get(name) if was_changed else None for name in done.body}
    if "threshold" in old and old["threshold"] == default:
        old["threshold"] = None
    return _undo(done.operation, done.path, old)


def _made_again(operation: str, names: Sequence[str]) -> Callable[[Done], Undo | None]:
    def make(done: Done) -> Undo | None:
        if done.before is None:
            return None
        return _undo(operation, {}, {name: done.before[name] for name in names if done.before.get(name) is not None})

    return make


def _ended(operation: str, name: str, key: str, page: str = "") -> Callable[[Done], Undo | None]:
    """End what was made, by a field of the answer. page: to go to afterwards, where what was made has a page of its own."""

    def make(done: Done) -> Undo | None:
        if key not in done.answer:
            return None
        undo = _undo(operation, {name: str(done.answer[key])})
        return Undo(operation, {**undo.fields, "next": page}) if page else undo

    return make


def _put(
    get_back: Callable[[Mapping[str, Any]], Mapping[str, Any]], put: str, remove: str
) -> Callable[[Done], Undo | None]:
    """Put back what was there; remove it where there was nothing."""

    def make(done: Done) -> Undo | None:
        if done.before is None:
            return _undo(remove, done.path) if done.operation == put and remove else None
        return _undo(put, done.path, get_back(done.before))

    return make


def _stated_again(done: Done) -> Undo | None:
    """State what was stated of this release; what it has from its parent cannot be stated again as the parent's."""
    if done.before is None:
        return None
    stated = done.before["stated"]
    if stated["by"] and stated["of"] != done.before["ref"]:
        return None
    old = {name: value for name, value in stated.items() if name not in _OF_STATEMENT and value}
    return _undo("put_model_card", done.path, old)


_OF_STATEMENT: Final = frozenset({"of", "by", "at"})
"""Fields of a statement that nobody gives."""
_ALIAS: Final = _put(lambda before: {"version": before["version"]}, "set_alias", "remove_alias")
_SLO: Final = _put(lambda before: before["document"], "put_slo", "delete_slo")
_PRICES: Final = _put(lambda before: before["prices"], "set_prices", "remove_prices")
_LOG: Final = _put(
    lambda before: {name: before[name] for name in ("ratio", "inputs", "keep_days")}, "set_prediction_log", ""
)
_MAKERS: Final[Mapping[str, Callable[[Done], Undo | None]]] = {
    "pause_rollout": _same_path("resume_rollout"),
    "resume_rollout": _paused_again,
    "update_device": _patched,
    "update_group": _patched,
    "update_trigger": _patched,
    "create_trigger": _ended("delete_trigger", "name", "name", "/retraining"),
    "update_alert_rule": _rule_patched,
    "create_group": _ended("delete_group", "name", "name", "/groups"),
    "delete_group": _made_again("create_group", ("name", "selector")),
    "create_alert_silence": _ended("end_alert_silence", "silence_id", "id"),
    "end_alert_silence": _made_again("create_alert_silence", ("matchers", "selector", "comment", "until")),
    "create_maintenance_window": _ended("delete_maintenance_window", "window_id", "id"),
    "delete_maintenance_window": _made_again(
        "create_maintenance_window", ("name", "cron", "tz", "duration_s", "selector")
    ),
    "set_alias": _ALIAS,
    "remove_alias": _ALIAS,
    "set_prices": _PRICES,
    "remove_prices": _PRICES,
    "put_model_card": _stated_again,
    "put_slo": _SLO,
    "delete_slo": _SLO,
    "set_prediction_log": _LOG,
    "stop_prediction_log": _LOG,
    "create_contact_point": _ended("delete_contact_point", "contact_id", "id", "/settings/contacts"),
    "update_contact_point": _contact_patched,
}


def sealed(said: str, undo: Undo | None, key: str) -> str:
    """Return the value of the cookie: what was done and what undoes it, with its seal. Too long an offer is left out."""
    offer = None if undo is None else {"operation": undo.operation, "fields": dict(undo.fields)}
    text = _packed({"said": said, "undo": offer})
    if len(text) > MAX_CHARS:
        text = _packed({"said": said, "undo": None})
    return f"{text}.{_seal(text, key)}"


def opened(value: str, key: str) -> tuple[str, Undo | None]:
    """Return what `sealed` was given; ("", None) for anything that was not sealed with this key."""
    text, _, seal = value.partition(".")
    if not hmac.compare_digest(seal.encode(), _seal(text, key).encode()):
        return "", None
    try:
        known = json.loads(base64.urlsafe_b64decode(text))
    except (binascii.Error, ValueError):
        return "", None
    undo = known["undo"]
    return known["said"], None if undo is None else Undo(undo["operation"], undo["fields"])


def _packed(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).decode()


def _seal(text: str, key: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
