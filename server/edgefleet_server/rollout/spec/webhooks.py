"""Reads `gates.webhooks` of a rollout's spec, and writes them back in normal form.

Pure. Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.outbound.address_policy import parse_target
from edgefleet_server.rollout.spec.model import DEFAULT_EVERY, DEFAULT_TIMEOUT, ELSEWHERE, GateKind, WebhookGate
from edgefleet_server.rollout.spec.reader import Place, duration_text

MAX_GATES: Final = 8

MAX_TIMEOUT: Final = timedelta(seconds=20)

_NAME: Final = "[a-z0-9][a-z0-9-]{0,30}"

_FIELDS: Final = ("name", "kind", "url", "every", "timeout")


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
