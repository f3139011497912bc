"""What goes over the API of prediction logs."""

from typing import Annotated

from pydantic import Field

from edgefleet_server.fleet.schemas import StrictBody
from edgefleet_server.web.strict_types import Whole


class PredictionLogIn(StrictBody):
    """What to keep of a model's answers. ratio: share, above 0, 1 = all. inputs: also what the privacy policy of the bundle keeps."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    inputs: bool = False
    keep_days: Annotated[int, Whole(1, 3_660)] = 180


class ErasureIn(StrictBody):
    """Whom to erase: the subject as callers name it with `X-Edgefleet-Subject`. models: from their logs only, empty: from all."""

    subject: str = Field(min_length=1, max_length=128)
    models: list[Annotated[str, Field(max_length=63)]] = Field(default=[], max_length=64)
