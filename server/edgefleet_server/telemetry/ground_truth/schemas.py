"""Bodies of the routes of ground truth."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgefleet_protocol.feedback_csv import COLUMNS, Row, read_rows

MOST_ITEMS = 50_000
_FIELDS = frozenset({*COLUMNS, "kpi"})


class FeedbackIn(BaseModel):
    """Labels in bulk: `items`, each as a device takes it (docs/reference/inference-api.md) with its `device`, or `csv`, a whole file."""

    model_config = ConfigDict(extra="forbid")

    items: list[dict[str, Any]] | None = Field(
        default=None, max_length=MOST_ITEMS, description="device, trace_id or key, label or value, segment, at, kpi"
    )
    csv: str | None = Field(default=None, description="a CSV file with a first line of column names")

    @model_validator(mode="after")
    def _one_of_both(self) -> "FeedbackIn":
        if (self.items is None) == (self.csv is None):
            raise ValueError("give `items` or `csv`")
        return self

    def rows(self) -> Iterator[Row]:
        """Yield the rows; one that cannot be read is said. Raises BadFeedbackFileError."""
        if self.csv is not None:
            yield from read_rows(self.csv)
            return
        for number, item in enumerate(self.items or (), start=1):
            foreign = sorted(set(item) - _FIELDS)
            yield Row(number, {} if foreign else item, f"there is no field {foreign[0][:40]!r}" if foreign else "")
