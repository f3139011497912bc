"""Whether a user may do what a form does, as far as the form says what it is about: who may not, sees no button.

The API decides again, with all that is filled in.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.grants.grant_scope import EVERYBODY, Crowd, Scope, Touch, Touched
from edgefleet_server.access.grants.scoped_caller import Reach
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.access.rules import role_of, touch_of
from edgefleet_server.dashboard.operations.catalog import Operations

_PATH: Final = "path."
ABOUT_MODEL: Final = "about.model"
"""A field of a form that is sent nowhere: the model that it is about, where neither path nor body says it."""
_UNSAID: Final[frozenset[str]] = frozenset()
"""The models of a request that does not name one yet."""
_NAME: Final = re.compile(r"\{(\w+)\}")


def may_do(
    caller: Principal, operations: Operations, operation_id: str, fields: Mapping[str, Any], role: Role, reach: Reach
) -> bool:
    """Return whether a caller may do an operation. fields: what the form holds already, by name. role: what the page says it needs."""
    if caller.may(role) or not caller.may_somewhere(role):
        return caller.may(role)
    if about := _text(fields.get(ABOUT_MODEL, "")):
        return caller.may(role, Touched(frozenset({about}), None))
    operation = operations.get(operation_id)
    touch = touch_of(operation.method, operation.path)
    if role_of(operation.method, operation.path) is Role.VIEWER and "{rollout_id}" in operation.path:
        touch = Touch.ROLLOUT  # to answer for a stage: its role is asked over the rollout
    if touch is None:
        return False
    if touch is Touch.STATED:
        return _may_some(caller, operation_id, fields, role, reach)
    named = {name.removeprefix(_PATH): _text(value) for name, value in fields.items() if name.startswith(_PATH)}
    if not all(named.get(name) for name in _NAME.findall(operation.path)):
        return True  # the user has yet to say it
    try:
        touched = reach.touched(touch, named)
    except EdgefleetError:
        return False
    return touched is None or caller.may(role, touched)


def _may_some(caller: Principal, operation_id: str, fields: Mapping[str, Any], role: Role, reach: Reach) -> bool:
    """Return whether there is anything to fill in with which a caller may do an operation whose body says what it touches."""
    grants = (*caller.grants, *(caller.limits or ()))
    scopes = [one.scope for one in grants]
    try:
        stated = _stated(operation_id, fields, reach, _in_all(scopes))
    except EdgefleetError:
        return False
    if stated is None or stated.models != _UNSAID:
        return stated is None or caller.may(role, stated)
    models = {model for scope in scopes for model in scope.models} | {""}
    return any(caller.may(role, Touched(frozenset({model}), stated.devices)) for model in models)


def _in_all(scopes: Sequence[Scope]) -> Crowd:
    """Return devices that are in each group and at each site of some scopes: a selector that is still to be written may find just those."""
    groups = {frozenset({name}) for scope in scopes for name in scope.groups}
    return Crowd(tuple(groups), tuple({frozenset({name}) for scope in scopes for name in scope.sites}))


def _stated(operation_id: str, fields: Mapping[str, Any], reach: Reach, unsaid: Crowd) -> Touched | None:
    """Return what a body touches as far as it is filled in, None for nothing that could be told. unsaid: devices that are not said yet."""
    said = {name.removeprefix("body."): _text(fields[name]) for name in fields if name.startswith("body.")}
    body = {**json.loads(_text(fields.get("body", "{}"))), **said}
    release = _text(fields.get("path.ref", "")) or body.get("release", "")
    model = frozenset({release.partition("@")[0]}) if release else _UNSAID
    if body.get("device"):
        crowd = reach.device(body["device"])
    else:
        is_said = "selector" in body or "body" in fields  # a whole document without a selector is for all devices
        crowd = reach.selector(body.get("selector") or "") if is_said else unsaid
    match operation_id:
        case "deploy_release" | "create_rollout":
            return Touched(model, crowd)
        case "create_tasks":
            return Touched(None, crowd)
        case "undo_model":
            name = body.get("name", "").partition("@")[0]
            return Touched(frozenset({name}) if name else _UNSAID, EVERYBODY)
        case "create_release":
            return Touched(frozenset({body["model"]}) if body.get("model") else _UNSAID, None)
    return None


def _text(value: Any) -> str:
    return str(value[0]) if isinstance(value, Sequence) and not isinstance(value, str) and value else str(value)
