"""Bodies of the routes of teams. Additive only."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from edgefleet_ceremony.file_format import MAX_BYTES
from edgefleet_ceremony.public_part import MAX_HOLDERS


class TeamIn(BaseModel):
    """The keys that are to sign a model, and how many of them must."""

    keys: Annotated[
        Sequence[Annotated[str, Field(max_length=4000)]],
        Field(min_length=1, max_length=MAX_HOLDERS, description="public keys, PEM, one of each of the team"),
    ]
    threshold: Annotated[int, Field(ge=1, le=MAX_HOLDERS, description="how many of them must sign")] = 1
    new_models: Annotated[
        Literal["", "close", "open"],
        Field(
            description="whether this server may sign models that it does not sign today: `close`, `open`, or as before"
        ),
    ] = ""


class TeamAnswerIn(BaseModel):
    """The answer of one of a team, as `edgectl` writes it."""

    answer: Annotated[str, Field(max_length=MAX_BYTES)]
