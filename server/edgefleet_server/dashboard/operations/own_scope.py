"""Whether a user may do what a form does, as far as the form says what it is about: who may not, sees no button.

The API decides again, with all that is filled in.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.grants.grant_scope import Touch
from edgefleet_server.access.grants.scoped_caller import Reach
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.access.rules import role_of, touch_of
from edgefleet_server.dashboard.operations.catalog import Operations

_PATH: Final = "path."
_NAME: Final = re.compile(r"\{(\w+)\}")


def may_do(
    caller: Principal, operations: Operations, operation_id: str, fields: Mapping[str, Any], role: Role, reach: Reach
) -> bool:
    """Return whether a caller may do an operation. fields: what the form holds already, by name. role: what the page says it needs."""
    if caller.may(role) or not caller.may_somewhere(role):
        return caller.may(role)
    operation = operations.get(operation_id)
    touch = touch_of(operation.method, operation.path)
    if role_of(operation.method, operation.path) is Role.VIEWER and "{rollout_id}" in operation.path:
        touch = Touch.ROLLOUT  # to answer for a stage: its role is asked over the rollout
    if touch is None:
        return False
    named = {name.removeprefix(_PATH): _text(value) for name, value in fields.items() if name.startswith(_PATH)}
    if touch is Touch.STATED or not all(named.get(name) for name in _NAME.findall(operation.path)):
        return True  # the user has yet to say it
    try:
        touched = reach.touched(touch, named)
    except EdgefleetError:
        return False
    return touched is None or caller.may(role, touched)


def _text(value: Any) -> str:
    return str(value[0]) if isinstance(value, Sequence) and not isinstance(value, str) and value else str(value)
