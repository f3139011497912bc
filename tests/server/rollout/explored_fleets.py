"""The fleets that the explorer walks through, from one device on, with stages of every mode."""

from __future__ import annotations

from typing import Final

from tests.server.rollout.explored import Fleet

HOUR_TO_ANSWER: Final = {"role": "approver", "timeout": "1h"}
WITH_NOBODY_BETWEEN: Final = frozenset(
    {"pause", "abort", "promote", "skip", "retry", "undo", "deployed over", "refuses", "has trouble"}
)
"""Without these, two devices in one stage are small enough to be explored whole: the way back is still a person's word, too."""
NOBODY_TAKES_BACK: Final = frozenset({"abort", "abort_rollback", "undo", "deny", "skip", "retry", "deployed over"})
FLEETS: Final = (
    Fleet("one-device", ("rpi",), ({"name": "all", "size": {"percent": 100}, "soak": "1h"},), is_small=True),
    Fleet(
        "one-that-is-offered-again",
        ("rpi",),
        ({"name": "all", "size": {"percent": 100}, "soak": "1h"},),
        device={"retries": {"max": 1, "backoff": "1h..1h", "on": ["disk"]}},
        without=frozenset({"deployed over", "has trouble"}),
        is_small=True,
    ),
    Fleet(
        "two-in-one-stage-with-nobody-between",
        ("rpi", "rpi"),
        ({"name": "all", "size": {"percent": 100}, "soak": "1h"},),
        without=WITH_NOBODY_BETWEEN,
        is_small=True,
    ),
    Fleet(
        "two-strata-with-nobody-between",
        ("rpi", "jet"),
        ({"name": "all", "size": {"percent": 100}, "soak": "1h"},),
        on_fail="pause",
        without=WITH_NOBODY_BETWEEN,
    ),
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
            {"name": "rest", "size": {"percent": 100}, "soak": "1h", "approval": HOUR_TO_ANSWER},
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
    Fleet(
        "a-shadow-then-all",
        ("rpi",),
        (
            {"name": "shadow", "size": {"percent": 100}, "soak": "1h", "mode": "shadow"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
        ),
        is_small=True,
    ),
    Fleet(
        "two-versions-then-the-winner-at-a-word",
        ("rpi",),
        (
            {"name": "ab", "size": {"percent": 100}, "soak": "1h", "mode": "split", "share_pct": 50},
            {"name": "winner", "size": {"percent": 100}, "soak": "0s", "approval": HOUR_TO_ANSWER},
        ),
        is_small=True,
    ),
    Fleet(
        "blue-green",
        ("rpi", "rpi"),
        (
            {"name": "green", "size": {"percent": 100}, "soak": "1h", "mode": "shadow"},
            {"name": "switch", "size": {"percent": 100}, "soak": "0s", "approval": HOUR_TO_ANSWER},
        ),
        on_fail="pause",
    ),
    Fleet(
        "every-mode-and-a-joiner",
        ("rpi", "rpi", "rpi"),
        (
            {"name": "shadow", "size": {"count": 2}, "soak": "1h", "mode": "shadow"},
            {"name": "split", "size": {"count": 2}, "soak": "0s", "mode": "split", "share_pct": 10},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
        ),
        late=1,
    ),
    *(
        Fleet(
            f"a-liar-{name}",
            ("rpi",) * count,
            (
                {"name": "canary", "size": {"count": min(2, count - 1) or 1}, "soak": "1h"},
                {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
            )[1 if count < 3 else 0 :],
            without=NOBODY_TAKES_BACK,
            liar=0,
        )
        for count, name in ((1, "alone"), (2, "of-two"), (3, "of-three"), (4, "of-four"))
    ),
)
BY_NAME: Final = {one.name: one for one in FLEETS}
