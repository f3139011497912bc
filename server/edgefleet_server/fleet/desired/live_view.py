"""That somebody watches a device, in the telemetry request of its document (ADR 0044). Pure.

Documents keep it, telemetry asks for it. Rules:
1. A watch lasts LIFE and is renewed once half of it is over while somebody looks; nobody has to end it.
2. It asks for `live` windows too, and never shortens what a rollout asked for. A rollout's request never ends a watch.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import UNSET

from edgefleet_protocol.desired import TelemetryRequest

LIFE: Final = timedelta(minutes=5)


def watched_until(request: TelemetryRequest, now: datetime) -> datetime | None:
    """Return until when somebody watches; None when nobody does."""
    until = request.predictions_until
    return None if until is UNSET or until <= now else until


def is_renewal_due(request: TelemetryRequest, now: datetime) -> bool:
    """Say whether the document has to be signed again for somebody who looks now."""
    until = watched_until(request, now)
    return until is None or until - now < LIFE / 2


def watched(request: TelemetryRequest, now: datetime) -> TelemetryRequest:
    """Return the request with a watch from now on."""
    until = (now + LIFE).replace(microsecond=0)
    is_live = request.profile == "live" and (request.until is None or request.until >= until)
    if is_live:
        return msgspec.structs.replace(request, predictions_until=until)
    return TelemetryRequest(profile="live", until=until, predictions_until=until)


def still_watched(request: TelemetryRequest, before: TelemetryRequest, now: datetime) -> TelemetryRequest:
    """Return `wish`, which replaces `before`, with the watch that is in force; one that is over is left out."""
    until = watched_until(before, now) or UNSET
    chosen = request.predictions_until if request.predictions_until is not UNSET else until
    if chosen is not UNSET and chosen <= now:
        chosen = UNSET
    return msgspec.structs.replace(request, predictions_until=chosen)
