"""What goes over the API of prediction logs."""

from typing import Annotated, Literal

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


class WrittenRecordIn(StrictBody):
    """A record in a data set, by its device and id, and the answer it is of."""

    device: str = Field(min_length=1, max_length=63, pattern="^[a-z0-9-]+$")
    record: str = Field(min_length=1, max_length=32, pattern="^[0-9a-z]+$")
    trace_id: str = Field(default="", max_length=128)


class WrittenDataSetIn(StrictBody):
    """A data set that was written. digest: sha256 of its `dataset.json`; place: where, as its maker says; retraining: it was made for."""

    model: str = Field(max_length=63)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    format: Literal["folder", "npz", "parquet", "coco"]
    place: str = Field(min_length=1, max_length=500)
    retraining: str = Field(default="", max_length=32)
    records: list[WrittenRecordIn] = Field(min_length=1, max_length=50_000)


class DataSetPurgeIn(StrictBody):
    """What its holder says: the records that an erasure asks for are gone. digest: of `dataset.json` since then.

    records: how many were listed; it is refused when more were asked for since.
    """

    erasure: str = Field(max_length=32)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    records: Annotated[int, Whole(0, 1_000_000_000)] | None = None
