"""edgefleet from a notebook: publish a model object, deploy it, look at rollouts and devices as data frames.

Which server and which token is found as `edgectl` finds them (`EDGECTL_SERVER`, `EDGECTL_TOKEN`, the saved contexts), or said
with `connect`. Refusals are raised as `edgefleet_protocol.errors.EdgefleetError`, with why and the next step as notes.
"""

from edgefleet_sdk.fleet import Fleet
from edgefleet_sdk.results import Answer

__all__ = ["Answer", "Fleet", "connect", "deploy", "devices", "publish", "rollout", "rollouts"]

_fleet = Fleet()
connect, publish, deploy = _fleet.connect, _fleet.publish, _fleet.deploy
devices, rollouts, rollout = _fleet.devices, _fleet.rollouts, _fleet.rollout
