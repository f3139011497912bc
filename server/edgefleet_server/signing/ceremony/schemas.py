"""Bodies of the routes of requests for signatures. Additive only."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from edgefleet_ceremony.file_format import MAX_BYTES
from edgefleet_ceremony.public_part import MAX_HOLDERS

_File = Annotated[str, Field(max_length=MAX_BYTES)]


class SigningRequestIn(BaseModel):
    """What is asked for: `parts` alone gives root and targets to holders, with `replace` one takes another's place."""

    parts: Annotated[
        Sequence[_File],
        Field(
            max_length=MAX_HOLDERS,
            description="public.json of each holder, as `edgectl key init --offline --out MEDIUM` wrote it",
        ),
    ] = ()
    threshold: Annotated[
        int | None, Field(ge=1, le=MAX_HOLDERS, description="how many holders must sign; without it as they agreed")
    ] = None
    replace: Annotated[str, Field(max_length=40, description="the holder whose place the one in `parts` takes")] = ""
    new_keys: Annotated[
        Sequence[str],
        Field(
            max_length=5,
            description="roles of the server that get a new key: releases, director, audit, snapshot, timestamp",
        ),
    ] = ()
    renew: Annotated[Sequence[str], Field(max_length=2, description="`root`, `targets` or both")] = ()


class SigningAnswersIn(BaseModel):
    """Answers of holders, as `edgectl key sign` wrote them."""

    answers: Annotated[Sequence[_File], Field(min_length=1, max_length=MAX_HOLDERS)]
