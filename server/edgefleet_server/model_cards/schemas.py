"""What people send of a model card."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Line = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
Item = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
_ID = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
SPDX_PATTERN = rf"^(\(*{_ID}\)*( (AND|OR|WITH) \(*{_ID}\)*)*)?$"
"""An SPDX licence expression by its form: `Apache-2.0`, `MIT OR GPL-2.0-only`, `LicenseRef-Ours`."""


class ModelCardIn(BaseModel):
    """What a person states of a release; what is left out is not stated.

    owner: who answers for it. licence: an SPDX expression, `LicenseRef-NAME` for one of your own. data: what the data is, its seasons and
    gaps, never the data itself. not_for: uses that it is not for.
    """

    model_config = ConfigDict(extra="forbid")

    summary: Text = ""
    owner: Line = ""
    contact: Line = ""
    licence: Annotated[str, Field(max_length=200, pattern=SPDX_PATTERN)] = ""
    intended_use: Text = ""
    not_for: Text = ""
    limits: list[Item] = Field(default_factory=list, max_length=50)
    data: Text = ""
    references: list[Item] = Field(default_factory=list, max_length=50)

    def as_given(self) -> dict[str, Any]:
        """Return what is stated, without what is left out."""
        return {name: value for name, value in self.model_dump().items() if value}
