"""How a route learns what a request touches, and gets its caller.

What a request to a route touches stands in the policy table. Where the address names it, `authorize` asks before the route runs. Where
only the body does (`Touch.STATED`), the route gets a `ScopedCaller`: the principal in it comes out by saying what is touched.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.errors import ForbiddenError
from edgefleet_server.access.grants.grant_scope import EVERYBODY, EVERYTHING, Crowd, Touch, Touched
from edgefleet_server.access.model import Principal, Role


@dataclass(frozen=True, slots=True)
class Reach:
    """What the features know of what an address or a selector names. All raise where it names nothing."""

    device: Callable[[str], Crowd]
    """Id -> the groups and the site of a device."""
    rollout: Callable[[str], Touched]
    selector: Callable[[str], Crowd]
    """A selector -> what is known of all devices that it finds."""

    def touched(self, touch: Touch, named: Mapping[str, str]) -> Touched | None:
        """Return what a request touches, None for nothing. named: the parts of its address by name.

        What cannot be told is the whole fleet.
        """
        match touch:
            case Touch.NOTHING:
                return None
            case Touch.MODEL | Touch.MODEL_EVERYWHERE if "name" in named or "ref" in named:
                model = named["name"] if "name" in named else ReleaseRef.parse(named["ref"]).model
                return Touched(frozenset({model}), None if touch is Touch.MODEL else EVERYBODY)
            case Touch.DEVICE if "device_id" in named:
                return Touched(None, self.device(named["device_id"]))
            case Touch.ROLLOUT if "rollout_id" in named:
                return self.rollout(named["rollout_id"])
        return EVERYTHING


@dataclass(frozen=True, slots=True)
class ScopedCaller:
    """A caller who holds a role somewhere: whether there, is asked with what the request touches."""

    principal: Principal
    role: Role

    def on(self, touched: Touched) -> Principal:
        """Return the caller. Raises ForbiddenError when no single grant has all that is touched."""
        if not self.principal.may(self.role, touched):
            raise out_of_scope(self.principal, self.role, touched)
        return self.principal


def out_of_scope(principal: Principal, role: Role, touched: Touched) -> ForbiddenError:
    """Return the refusal of what no single grant covers."""
    return ForbiddenError(
        f"this needs the role {role} for {words(touched)}, by one grant alone; "
        f"the token {principal.id} ({principal.name}) has: {principal.said()}",
        next_step="name fewer models, and a group or a site of one grant in the selector (`group=NAME`), "
        "or ask an admin for a grant that covers all of it (`edgectl person grant NAME ROLE`)",
    )


def words(touched: Touched) -> str:
    """Return what is touched, in words."""
    if touched == EVERYTHING:
        return "the whole fleet"
    models = "whatever runs" if touched.models is None else f"model {', '.join(sorted(touched.models))}"
    if touched.devices is None:
        return models
    crowd = touched.devices
    conditions = [
        *(f"group {' or '.join(sorted(one))}" for one in crowd.groups),
        *(f"site {' or '.join(sorted(one))}" for one in crowd.sites),
    ]
    return f"{models} on {'devices of ' + ', '.join(conditions) if conditions else 'devices of any group and site'}"
