"""Bodies of requests about a restored server."""

from typing import Annotated

from pydantic import Field, StringConstraints

from edgefleet_server.fleet.schemas import StrictBody
from edgefleet_server.web.strict_types import Whole

Model = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class RecoveryIn(StrictBody):
    """version: sign every role above it, 0 = none. models: lost models whose role is made again, without bundles; it stays for good."""

    version: Annotated[int, Whole(0)] = 0
    models: list[Model] = Field(default=[], max_length=256)
