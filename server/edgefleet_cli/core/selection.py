"""What to say where a selector matches no device: that, or that there is none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.api_client import ApiClient

NO_DEVICES: Final = "no devices; enrol one with `edgectl device enroll`"


def no_match(api: ApiClient, selector: str | None) -> str:
    """Return `no device matches 'site=nowhere' (8 in all)`, or how to enrol the first device of an empty fleet."""
    from edgefleet_cli.core.api.fleet import FleetSummary

    count = api.get("/fleet/summary", FleetSummary).value.devices
    if not count:
        return NO_DEVICES
    return f"no device matches {selector!r} ({count} in all)" if selector else f"no device matches ({count} in all)"
