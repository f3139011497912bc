"""Webhook gates of a stage: what they mean for a cell. Pure.

Its own module because a gate is somebody else's word about a stage, beside the devices' own. Names and meaning are Flagger's:
- `confirm-rollout`, `pre-rollout`: the stage opens only when they pass.
- `rollout`: asked again and again while the stage is open; it does not pass unless the latest answer does.
- `confirm-promotion`: asked when everything else is there; the stage passes only then.
- `rollback`: asked again and again while the stage is open; a status that passes means *roll back*, anything else means nothing.
Rules:
1. HTTP 200 to 202 pass, as in Flagger, whose own load tester answers 202. Another status, an error, silence, an answer that is too old
   or none at all: hold, never pass.
2. What was answered is part of the facts of a decision, with its status and its time: it is stored with it, and decides again the same.
Source: Flagger, "Webhooks" (docs.flagger.app/usage/webhooks); ecosystem.md §5.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.addresses import parse_target
from edgefleet_server.rollout.reading import Place, duration_text

PASSES: Final = 200
PASSES_TO: Final = 202
"""Flagger takes 200 to 202 for yes: `pkg/controller/webhook.go`."""
MAX_GATES: Final = 8
DEFAULT_EVERY: Final = timedelta(seconds=10)
DEFAULT_TIMEOUT: Final = timedelta(seconds=10)
MAX_TIMEOUT: Final = timedelta(seconds=20)
MIN_FRESH: Final = timedelta(minutes=1)

# ---- codes of what a cell waits for, or was stopped by: public and stable

GATE_OPENING: Final = "gate_opening"
GATE_CLOSED: Final = "gate_closed"
GATE_CONFIRM: Final = "gate_confirm"
GATE_ROLLBACK: Final = "gate_rollback"

_NAME: Final = "[a-z0-9][a-z0-9-]{0,30}"
_FIELDS: Final = ("name", "kind", "url", "every", "timeout")


class GateKind(StrEnum):
    """When a gate is asked, and what its answer does."""

    CONFIRM_ROLLOUT = "confirm-rollout"
    PRE_ROLLOUT = "pre-rollout"
    ROLLOUT = "rollout"
    CONFIRM_PROMOTION = "confirm-promotion"
    ROLLBACK = "rollback"


ELSEWHERE: Final[Mapping[str, str]] = {
    "confirm-traffic-increase": "each stage is one increase here: write confirm-rollout in the stage that it leads to",
    "post-rollout": "it decides nothing: `edgectl webhook create URL --events 'edgefleet.rollout.*'` tells of every end",
    "event": "it decides nothing: `edgectl webhook create URL --events 'edgefleet.rollout.*'` tells of every event",
}
"""Flagger's other kinds, and what has their meaning here."""
OPENING: Final = frozenset({GateKind.CONFIRM_ROLLOUT, GateKind.PRE_ROLLOUT})
"""Asked before the stage opens."""
WHILE_OPEN: Final = frozenset({GateKind.ROLLOUT, GateKind.ROLLBACK})
"""Asked again and again while the stage is open."""


@dataclass(frozen=True, slots=True)
class WebhookGate:
    """One gate of a stage. every: how long after an answer it is asked again."""

    name: str
    kind: GateKind
    url: str
    every: timedelta = DEFAULT_EVERY
    timeout: timedelta = DEFAULT_TIMEOUT

    @property
    def fresh(self) -> timedelta:
        """How long an answer counts."""
        return max(MIN_FRESH, 3 * self.every + self.timeout)


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate last said. status None: no HTTP answer came; error: why, body: the beginning of what it wrote. at: unix seconds."""

    at: float
    status: int | None = None
    error: str = ""
    body: str = ""


class GateFact(msgspec.Struct, frozen=True, kw_only=True):
    """A gate as a decision sees it. status None: not asked yet, no answer, or one that is older than `fresh_s`.

    passes_to: the highest status that passes. In evidence from when only 200 did it is missing: that decides as it did.
    """

    name: str
    kind: GateKind
    status: int | None = None
    error: str = ""
    body: str = ""
    age_s: float | None = None
    fresh_s: float = 60.0
    passes_to: int = PASSES

    @property
    def passes(self) -> bool:
        """Whether the latest answer has a status that passes, and is no older than it may be."""
        is_yes = self.status is not None and PASSES <= self.status <= self.passes_to
        return is_yes and self.age_s is not None and 0 <= self.age_s <= self.fresh_s

    @property
    def told(self) -> str:
        """What it said, in words."""
        if self.age_s is None:
            return "not asked yet"
        what = self.error or f"answered {self.status}"
        return what if 0 <= self.age_s <= self.fresh_s else f"{what}, {self.age_s:.0f} s ago"


Answers = Mapping[tuple[int, str], Mapping[int, Answered]]
"""By stage and stratum, by the gate's place: what was last answered."""


def facts_of_gates(gates: Sequence[WebhookGate], answers: Mapping[int, Answered], now: datetime) -> list[GateFact]:
    """Return the gates of a stage with what they last said."""
    found = []
    for place, gate in enumerate(gates):
        said = answers.get(place)
        age_s = None if said is None else round(now.timestamp() - said.at, 3)
        found.append(
            GateFact(
                name=gate.name,
                kind=gate.kind,
                status=None if said is None else said.status,
                error="" if said is None else said.error,
                body="" if said is None else said.body,
                age_s=age_s,
                fresh_s=gate.fresh.total_seconds(),
                passes_to=PASSES_TO,
            )
        )
    return found


def waits_to_open(facts: Iterable[GateFact]) -> str:
    """Return why a stage may not open yet, "" when it may."""
    return _waits(facts, OPENING)


def asks_for_rollback(facts: Iterable[GateFact]) -> str:
    """Return which gate asks to roll back, "" when none does."""
    asking = [one for one in facts if one.kind is GateKind.ROLLBACK and one.passes]
    return "; ".join(f"gate {one.name} asks to roll back{_quoted(one.body)}" for one in asking)


def is_closed(facts: Iterable[GateFact]) -> str:
    """Return which gate holds an open stage, "" when none does."""
    return _waits(facts, frozenset({GateKind.ROLLOUT}))


def waits_for_confirmation(facts: Iterable[GateFact]) -> str:
    """Return which gate has to confirm that the stage passes, "" when all did."""
    return _waits(facts, frozenset({GateKind.CONFIRM_PROMOTION}))


def _waits(facts: Iterable[GateFact], kinds: frozenset[GateKind]) -> str:
    waiting = [one for one in facts if one.kind in kinds and not one.passes]
    return "; ".join(f"gate {one.name} ({one.kind.value}): {one.told}" for one in waiting)


def _quoted(body: str) -> str:
    text = " ".join(body.split())[:120]
    return f": {text}" if text else ""


# ---- the spec


def parse_gates(place: Place | None) -> tuple[WebhookGate, ...]:
    """Return the gates that a stage's field `webhook` writes: one object, or a list of them."""
    if place is None:
        return ()
    items = [place] if isinstance(place.value, dict) else place.items()
    if items is None:
        return ()
    if len(items) > MAX_GATES:
        place.fail(f"expected at most {MAX_GATES} gates, got {len(items)}")
        return ()
    found = [gate for index, item in enumerate(items) if (gate := _gate(item, index)) is not None]
    names = [gate.name for gate in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        place.fail(f"the name {name!r} is given twice; gates of a stage need different names")
    return tuple(found)


def _gate(place: Place, index: int) -> WebhookGate | None:
    if not place.only(_FIELDS):
        return None
    before = len(place.errors)
    kind = _kind(place)
    written = place.need("url", "say where the gate is asked, for example https://host.example/gate")
    url = (written.text() or "") if written is not None else ""
    if written is not None and url:
        try:
            parse_target(url)
        except EdgefleetError as error:
            written.fail(error.message)
    named = place.get("name")
    name = (named.text(_NAME) or "") if named is not None else f"{kind.value}-{index + 1}"
    every = place.duration("every", DEFAULT_EVERY, positive=True)
    timeout = place.duration("timeout", DEFAULT_TIMEOUT, positive=True)
    if timeout > MAX_TIMEOUT:
        place.at("timeout").fail(f"expected at most {duration_text(MAX_TIMEOUT)}, got {duration_text(timeout)}")
    return WebhookGate(name, kind, url, every, timeout) if len(place.errors) == before else None


def _kind(place: Place) -> GateKind:
    written = place.need("kind", f"write one of {', '.join(kind.value for kind in GateKind)}")
    if written is not None and isinstance(written.value, str) and written.value in ELSEWHERE:
        written.fail(f"{written.value} is no gate; {ELSEWHERE[written.value]}")
        return GateKind.CONFIRM_PROMOTION
    return place.choice("kind", GateKind, GateKind.CONFIRM_PROMOTION)


def dump_gates(gates: Sequence[WebhookGate]) -> list[dict[str, Any]]:
    """Return gates in normal form."""
    return [
        {
            "name": gate.name,
            "kind": gate.kind.value,
            "url": gate.url,
            "every": duration_text(gate.every),
            "timeout": duration_text(gate.timeout),
        }
        for gate in gates
    ]
