"""What of a spec the simulation does not play. It is refused by name: a story that leaves out what was asked for would be a lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.fleet.selectors.grammar import parse_selector
from edgefleet_server.rollout.preparation.membership import labels_in
from edgefleet_server.rollout.spec.maintenance_windows import TZ_DEVICE
from edgefleet_server.rollout.spec.model import Membership, Mode, Spec
from edgefleet_sim.scenario import Scenario
from edgefleet_terms.reserved_labels import SITE_LABEL, TZ_LABEL


class NotSimulatedError(EdgefleetError):
    """A spec asks for something that the simulation does not support."""

    code = "sim.not_simulated"


def check_scope(spec: Spec, scenario: Scenario) -> None:
    """Raise NotSimulatedError naming every field that the simulation does not play."""
    found = list(_beyond(spec, scenario))
    if found:
        raise NotSimulatedError(
            f"the simulation does not play {'; '.join(found)}",
            next_step="leave these out of the spec for the simulation; `edgectl rollout plan` and `lint` support all of it",
        )


def _beyond(spec: Spec, scenario: Scenario) -> Iterator[str]:
    for index, stage in enumerate(spec.stages):
        at = f"$.stages[{index}]"
        if stage.gates:
            yield f"{at}.webhook (no other program answers)"
        keys = [requirement.key for requirement in parse_selector(stage.match).requirements]
        yield from _unlabelled(f"{at}.match", keys, scenario)
    if spec.device.start_within and any(stage.mode is not Mode.ACTIVE for stage in spec.stages):
        yield "$.device.start_within in stages beside what serves (their devices begin at once)"
    if spec.gates.quality is not None:
        yield "$.gates.quality (nothing is measured)"
    if spec.limits.per_site is not None:
        yield from _unlabelled("$.limits.per_site", [SITE_LABEL], scenario)
    for index, window in enumerate(spec.windows):
        if window.tz == TZ_DEVICE:
            yield from _unlabelled(f"$.windows[{index}].tz {TZ_DEVICE}", [TZ_LABEL], scenario)
    yield from _unlabelled("$.strata", labels_in(spec.strata), scenario)
    if spec.membership is Membership.SNAPSHOT and (scenario.joiners or scenario.leavers):
        yield "$.membership snapshot (devices join or leave later)"


def _unlabelled(at: str, keys: Sequence[str], scenario: Scenario) -> Iterator[str]:
    """Yield a field that asks for labels which the devices of the scenario do not have."""
    missing = [key for key in keys if key not in scenario.labels]
    if missing:
        yield f"{at} (the scenario's labels lack {', '.join(missing)})"
