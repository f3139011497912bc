"""The fleets that the explorer walks through, from one device on."""

from __future__ import annotations

from typing import Final

from tests.server.rollout.explored import Fleet

FLEETS: Final = (
    Fleet("one-device", ("rpi",), ({"name": "all", "size": {"percent": 100}, "soak": "1h"},)),
    Fleet("two-in-one-stage", ("rpi", "rpi"), ({"name": "all", "size": {"percent": 100}, "soak": "1h"},)),
    Fleet(
        "three-in-two-stages",
        ("rpi", "rpi", "rpi"),
        (
            {"name": "canary", "size": {"count": 2}, "soak": "1h"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
        ),
    ),
    Fleet(
        "approval-between-strata-of-a-label",
        ("rpi/site=a", "rpi/site=b"),
        (
            {"name": "first", "size": {"count": 1}, "soak": "0s"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h", "approval": {"role": "approver", "timeout": "1h"}},
        ),
    ),
    Fleet(
        "two-strata-and-a-joiner",
        ("rpi", "jet", "rpi"),
        (
            {"name": "first", "size": {"count": 1}, "soak": "0s"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
        ),
        on_fail="pause",
        late=1,
    ),
)
