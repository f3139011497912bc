"""edgefleet from a notebook: publish a model object, deploy it, look at rollouts and devices as data frames.

Server and token are found as `edgectl` finds them, or said with `connect`. A refusal is an EdgefleetError; its notes tell more.
"""

from edgefleet_sdk.fleet import Fleet
from edgefleet_sdk.notebook_answers import Answer

__all__ = ["Answer", "Fleet", "connect", "deploy", "devices", "explain", "publish", "rollout", "rollouts"]

_fleet = Fleet()
connect, publish, deploy = _fleet.connect, _fleet.publish, _fleet.deploy
devices, rollouts, rollout, explain = _fleet.devices, _fleet.rollouts, _fleet.rollout, _fleet.explain
