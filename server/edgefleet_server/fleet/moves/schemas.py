"""Bodies of requests about moves of the server."""

from typing import Annotated

from pydantic import Field

from edgefleet_server.fleet.moves.model import LONGEST_SPREAD_S, SPREAD_S
from edgefleet_server.fleet.schemas import StrictBody
from edgefleet_server.web.strict_types import Whole


class MovePlanIn(StrictBody):
    """Where the server is to be reached: what is left out stays as it is."""

    host: Annotated[
        str, Field(max_length=253, description="name or address, of the device listener and of the server's own broker")
    ] = ""
    device_port: Annotated[int, Whole(0, 65535)] = 0
    broker_host: Annotated[str, Field(max_length=253, description="of the broker, where it is another one")] = ""
    broker_port: Annotated[int, Whole(0, 65535)] = 0


class MoveStartIn(StrictBody):
    """How devices are told. ahead: although nothing answers at the new place yet, as before a move to another machine."""

    ahead: bool = False
    spread_s: Annotated[int, Whole(0, LONGEST_SPREAD_S)] = SPREAD_S


class MoveFinishIn(StrictBody):
    """How many devices may be left behind: they find the server no more once the place that they know is gone."""

    leave_behind: Annotated[int, Whole(0, 10_000_000)] = 0
