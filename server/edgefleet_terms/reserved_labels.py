"""Labels of a device that mean something to edgefleet itself; every other label belongs to the user. Pure."""

from typing import Final

PIN_LABEL: Final = "edgefleet/pinned"
"""A device with this label takes part in no rollout; the label's value says why."""

TZ_LABEL: Final = "tz"
"""The device's time zone, by its IANA name, for rollout windows that follow the device's clock."""

SITE_LABEL: Final = "site"
"""Where the device stands: the devices of one site share a line, for limits per site."""
