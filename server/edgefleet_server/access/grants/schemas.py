"""Bodies of grants."""

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, Role


class GrantIn(BaseModel):
    """A role in a scope: for these models, on devices in one of these groups and at one of these sites. Empty: any."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    models: list[str] = Field(default_factory=list, max_length=50)
    groups: list[str] = Field(default_factory=list, max_length=50)
    sites: list[str] = Field(default_factory=list, max_length=50)

    def to_grant(self) -> Grant:
        """Return the grant."""
        return Grant(self.role, Scope(frozenset(self.models), frozenset(self.groups), frozenset(self.sites)))


class GrantOut(BaseModel):
    """A role in a scope. Empty: any model, any group, any site."""

    role: Role
    models: list[str]
    groups: list[str]
    sites: list[str]

    @classmethod
    def of(cls, grant: Grant) -> "GrantOut":
        """Return the body of a grant."""
        scope = grant.scope
        return cls(role=grant.role, models=sorted(scope.models), groups=sorted(scope.groups), sites=sorted(scope.sites))
