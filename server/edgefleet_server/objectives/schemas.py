"""What goes over the API about objectives."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SloIn(BaseModel):
    """An objective as its file writes it: OpenSLO v1, `kind: SLO`. Fields of `spec` are those of docs/reference/slo.md."""

    model_config = ConfigDict(extra="allow")

    apiVersion: str = Field(description="openslo/v1")  # noqa: N815  # named by OpenSLO
    kind: str = Field(description="SLO")
    metadata: dict[str, Any] = Field(description="`name`, and `displayName` where people should read something else.")
    spec: dict[str, Any] = Field(description="What is measured, of which model, the target and its window.")

    def document(self) -> dict[str, Any]:
        """Return the file."""
        return self.model_dump()
