"""Bodies of the routes of ground truth."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_protocol.feedback_csv import COLUMNS, Row, read_rows

MOST_ITEMS = 50_000
_FIELDS = frozenset({*COLUMNS, "kpi"})


class FeedbackIn(BaseModel):
    """Labels in bulk: `items`, each as a device takes it (docs/reference/inference-api.md) with its `device`, and `csv`, a whole file."""

    model_config = ConfigDict(extra="forbid")

    items: list[dict[str, Any]] = Field(
        default_factory=list,
        max_length=MOST_ITEMS,
        description="device, trace_id or key, label or value, segment, at, kpi",
    )
    csv: str = Field(default="", description="a CSV file with a first line of column names")

    def rows(self) -> Iterator[Row]:
        """Yield the rows; one that cannot be read is said. Raises BadFeedbackFileError."""
        if self.csv:
            yield from read_rows(self.csv)
        for number, item in enumerate(self.items, start=1):
            foreign = sorted(set(item) - _FIELDS)
            yield Row(number, {} if foreign else item, f"there is no field {foreign[0][:40]!r}" if foreign else "")
