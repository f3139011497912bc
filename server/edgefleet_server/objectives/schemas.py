"""What goes over the API about objectives."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SloIn(BaseModel):
    """An objective as its file writes it: OpenSLO v1, `kind: SLO`. Fields are those of docs/reference/slo.md.

    Any value is taken here: each mistake is named with its place when the file is read.
    """

    model_config = ConfigDict(extra="allow")

    apiVersion: Any = Field(None, description="openslo/v1")  # noqa: N815  # named by OpenSLO
    kind: Any = Field(None, description="SLO")
    metadata: Any = Field(None, description="`name`, and `displayName` where people should read something else.")
    spec: Any = Field(None, description="What is measured, of which model, the target and its window.")

    def document(self) -> dict[str, Any]:
        """Return the file."""
        return self.model_dump(exclude_unset=True)
