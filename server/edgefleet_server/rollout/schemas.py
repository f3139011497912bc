"""Bodies of the rollout routes. A spec is taken as it is and judged by `parse_spec`, which names every mistake by path."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.spec.parser import Document
from edgefleet_server.web.strict_types import Flag


class CommandIn(BaseModel):
    """What a person says with a command. rollback: with abort only; stratum: with promote only (null: all strata)."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=500)
    rollback: Flag = False
    stratum: str | None = Field(default=None, max_length=800)


class SkipIn(BaseModel):
    """Which stage is left out, and why. stage: its name; stratum: only there (null: in all)."""

    model_config = ConfigDict(extra="forbid")

    stage: str = Field(min_length=1, max_length=63)
    reason: str = Field(default="", max_length=500)
    stratum: str | None = Field(default=None, max_length=800)


class AnswerIn(BaseModel):
    """What a person says of stages that wait for an approval. stratum: only there (null: all that wait)."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=500)
    stratum: str | None = Field(default=None, max_length=800)


class RetryIn(BaseModel):
    """Which failed devices to try again. failed: all of them, not only those of the moment; devices: only these (empty: all)."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=500)
    failed: Flag = False
    devices: list[str] = Field(default_factory=list, max_length=1000)


class RetireIn(BaseModel):
    """Why a release is withdrawn. It is shown wherever the release is. older: with all releases of the model published before it."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500)
    older: Flag = False


class UndoIn(BaseModel):
    """What to undo: a model's name, or one release of it (`name@version`). dry_run: only tell what it would do."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=127)
    reason: str = Field(default="", max_length=500)
    dry_run: Flag = False


class _AsSpec:
    """Says in the API's description what `parse_spec` takes."""

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(TypeAdapter(Document | Spec).core_schema)


SpecIn = Annotated[dict[str, Any], _AsSpec()]
