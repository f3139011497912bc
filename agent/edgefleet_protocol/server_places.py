"""Where devices reach their server, as the role `targets` announces it: `custom` of the TUF target `fleet/places.json` (ADR 0125).

The first place is the one to use; the others serve while a move is under way. `cas`: certificates (PEM) of the CAs that may sign the
server's own, and those of devices. `number` never goes back.
"""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from edgefleet_protocol.desired import MAX_INT
from edgefleet_protocol.errors import BadMessageError

TARGET = "fleet/places.json"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[!-~]+$")]


class ServerPlace(msgspec.Struct, frozen=True):
    """A base URL of the device listener, and a broker. mqtt: what the broker speaks."""

    url: _Text
    host: _Text
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    mqtt: Literal["5", "3.1.1"] = "5"


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """renew_from_s: certificates from before it (unix seconds) are renewed early. spread_s: devices act within it, each in its moment."""

    number: Annotated[int, msgspec.Meta(ge=1, le=MAX_INT)]
    places: Annotated[list[ServerPlace], msgspec.Meta(min_length=1, max_length=4)]
    cas: Annotated[list[Annotated[str, msgspec.Meta(max_length=4_096)]], msgspec.Meta(min_length=1, max_length=2)]
    renew_from_s: Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)] = 0
    spread_s: Annotated[int, msgspec.Meta(ge=0, le=7 * 86_400)] = 300


def parse_announcement(custom: Any) -> Announcement:
    """Return what plain values of JSON announce. Raises BadMessageError."""
    try:
        found = msgspec.convert(custom, Announcement)
        hosts = [(urlsplit(place.url).scheme, urlsplit(place.url).hostname) for place in found.places]
        [urlsplit(place.url).port for place in found.places]
    except (msgspec.ValidationError, ValueError) as error:
        raise BadMessageError(f"the announced places have no known form: {error}") from error
    if any(scheme != "https" or not host for scheme, host in hosts):
        raise BadMessageError("an announced place is no https address")
    if any(not pem.startswith(_BEGIN) or not pem.endswith(_END) or pem.count("-----B") != 1 for pem in found.cas):
        raise BadMessageError("an announced CA is not one certificate (PEM)")
    return found
