"""How simulated devices of a profile behave: links that drop, late answers, drifting inputs, installs that fail. Pure.

A profile is a mix of behaviours; which one a device has follows from its number, so a second run has the same devices.
Source: ADR 0148; docs/operate/load-test.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from edgefleet_protocol.errors import EdgefleetError


class UnknownLoadProfileError(EdgefleetError):
    """There is no load profile of that name."""

    code = "sim.unknown_load_profile"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one device does.

    drops_per_hour: links that break, on average; away_s: how long it stays away then, at most. skew_s: how wrong its clock may be.
    late_s: how late it answers and reports, at most. drifts: the answers of its model move. fails: share of the installs that fail.
    is_patient: it comes back with full jitter, as agents do; else at once. steps_s: how long a step of an install takes.
    """

    drops_per_hour: float = 0.0
    away_s: float = 0.0
    skew_s: float = 0.0
    late_s: float = 0.0
    drifts: bool = False
    fails: float = 0.0
    is_patient: bool = True
    steps_s: float = 1.0


STEADY: Final = Behaviour()
FLAKY: Final = Behaviour(drops_per_hour=12.0, away_s=30.0, skew_s=600.0, fails=0.05)
SLOW: Final = Behaviour(late_s=5.0, steps_s=10.0)
DRIFT: Final = Behaviour(drifts=True)
STORM: Final = Behaviour(is_patient=False)

PROFILES: Final[dict[str, tuple[Behaviour, ...]]] = {
    "steady": (STEADY,),
    "flaky": (FLAKY,),
    "slow": (SLOW,),
    "drift": (DRIFT,),
    "storm": (STORM,),
    # of ten devices seven do as they should
    "mixed": (STEADY, FLAKY, STEADY, STEADY, SLOW, STEADY, STEADY, replace(DRIFT, fails=0.02), STEADY, STEADY),
}


def behaviour_of(profile: str, number: int) -> Behaviour:
    """Return how the device of a number behaves. Raises UnknownLoadProfileError."""
    mix = PROFILES.get(profile)
    if mix is None:
        raise UnknownLoadProfileError(
            f"there is no load profile {profile!r}", next_step=f"use one of {', '.join(PROFILES)}"
        )
    return mix[number % len(mix)]


def delay_s(failures: int, draw: float, *, is_patient: bool, most_s: float = 300.0) -> float:
    """Return how long a device waits before it connects again: full jitter, as agents do. draw: 0 to 1.

    failures: since the last connection that stood. An impatient one comes within a second, all the others of its kind too.
    """
    ceiling = min(most_s, 0.5 * 2.0 ** min(failures, 16))
    return draw * (ceiling if is_patient else 1.0)
