"""What of a spec the simulation does not play. It is refused by name: a story that leaves out what was asked for would be a lie."""

from __future__ import annotations

from collections.abc import Iterator

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.rollout.spec.fields import PREVIOUS, PROFILE
from edgefleet_server.rollout.spec.maintenance_windows import TZ_DEVICE
from edgefleet_server.rollout.spec.model import Membership, Mode, Spec

_NO_LABELS = "simulated devices have no labels"


class NotSimulatedError(EdgefleetError):
    """A spec asks for something that the simulation does not play."""

    code = "sim.not_simulated"


def check_scope(spec: Spec, *, joiners: int) -> None:
    """Raise NotSimulatedError naming every field that the simulation does not play."""
    found = list(_beyond(spec, joiners))
    if found:
        raise NotSimulatedError(
            f"the simulation does not play {'; '.join(found)}",
            next_step="leave these out of the spec for the simulation; `edgectl rollout plan` and `lint` take all of it",
        )


def _beyond(spec: Spec, joiners: int) -> Iterator[str]:
    for index, stage in enumerate(spec.stages):
        at = f"$.stages[{index}]"
        if stage.gates:
            yield f"{at}.webhook (no other program answers)"
        if stage.match:
            yield f"{at}.match ({_NO_LABELS})"
    if spec.device.start_within and any(stage.mode is not Mode.ACTIVE for stage in spec.stages):
        yield "$.device.start_within in stages beside what serves (their devices begin at once)"
    if spec.gates.quality is not None:
        yield "$.gates.quality (nothing is measured)"
    if spec.limits.per_site is not None:
        yield f"$.limits.per_site ({_NO_LABELS})"
    for index, window in enumerate(spec.windows):
        if window.tz == TZ_DEVICE:
            yield f"$.windows[{index}].tz {TZ_DEVICE} ({_NO_LABELS}; UTC or a zone can be played)"
    if spec.rollback_to != PREVIOUS:
        yield "$.rollback_to (devices go back to what they ran)"
    if spec.strata != (PROFILE,):
        yield f"$.strata ({_NO_LABELS})"
    if spec.membership is Membership.SNAPSHOT and joiners:
        yield "$.membership snapshot (devices join later)"
