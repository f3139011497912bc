"""What goes over the API about release policies."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.web.strict_types import Moment


class ApprovePolicyIn(BaseModel):
    """Which change is approved. asked_at: when it was asked for, as the policy's `change` says: what came after it is another one."""

    model_config = ConfigDict(extra="forbid")

    asked_at: Moment


class ReleasePolicyIn(BaseModel):
    """A policy as its file says it. models: none = every model; since: releases made before are left alone, null = from now on.

    require: `owner`, `licence`, `card`, `importance`, `sealed`, `hold_out>=N`, `signers>=N`.
    """

    model_config = ConfigDict(extra="forbid")

    models: list[Annotated[str, Field(max_length=63)]] = Field(default_factory=list, max_length=200)
    require: list[Annotated[str, Field(max_length=40)]] = Field(min_length=1, max_length=20)
    since: Moment | None = None
