"""When the first outcomes of a stratum are so bad that no other device is offered the release meanwhile. Pure; ADR 0051.

1. The abort test counts a device without an outcome as good, because bad ones speak first: two crashes among fifty canaries under way
   prove nothing yet. But nothing is lost by offering to nobody else meanwhile.
2. So the offers of a stratum rest while so many of the devices with an outcome failed that the test would stop a rollout of these alone:
   two of two at the defaults. Devices under way go on, and nothing is taken back. A device in its soak has an outcome: it is healthy.
3. It ends by itself. With each device that turns out well the evidence falls; and when nobody is under way any more, those with an
   outcome are all that are exposed, so that the abort test itself stops the stratum.
"""

from typing import Final

from edgefleet_server.rollout.analysis import stage_gates
from edgefleet_server.rollout.analysis.model import Facts
from edgefleet_server.rollout.failure_ratio import log_e_abort

DOUBT: Final = "doubt"
LEAST_FAILED: Final = 2
"""Failures without which nobody is in doubt: one device may be broken itself."""


def doubt(facts: Facts) -> str:
    """Return why no other device is offered the release in a stratum now, "" when nothing speaks against it."""
    failed = facts.counts.failed
    known = failed + facts.counts.healthy + facts.soaking
    at = stage_gates.abort_at(facts)
    if failed < LEAST_FAILED or at is None or not 0 < facts.max_failure < 1:
        return ""
    if log_e_abort(failed, known, facts.max_failure) < at:
        return ""
    return f"{failed} of the first {known} devices with an outcome failed: no other device is offered it until more is known"
