"""Bodies of grants, and of what is given roles."""

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


class RolesIn(BaseModel):
    """Roles to give: over the whole fleet, or only for these models, on devices in these groups and at these sites. A viewer sees all.

    scoped: more grants, each with a scope of its own.
    """

    model_config = ConfigDict(extra="forbid")

    roles: list[Role] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list, max_length=50)
    groups: list[str] = Field(default_factory=list, max_length=50)
    sites: list[str] = Field(default_factory=list, max_length=50)
    scoped: list[GrantIn] = Field(default_factory=list, max_length=50)

    def over_all(self) -> tuple[Role, ...]:
        """Return the roles over the whole fleet."""
        return tuple(one for one in sorted(set(self.roles)) if one is Role.VIEWER or self._scope().is_whole)

    def in_parts(self) -> tuple[Grant, ...]:
        """Return the grants of a part of the fleet."""
        scope = self._scope()
        own = [] if scope.is_whole else [Grant(one, scope) for one in self.roles if one is not Role.VIEWER]
        return tuple(dict.fromkeys([*own, *(one.to_grant() for one in self.scoped)]))

    def _scope(self) -> Scope:
        return Scope(frozenset(self.models), frozenset(self.groups), frozenset(self.sites))


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
