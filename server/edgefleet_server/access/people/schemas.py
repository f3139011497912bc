"""Bodies of the routes of people."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.accounts.model import AccountState
from edgefleet_server.access.grants.schemas import GrantOut
from edgefleet_server.access.model import PersonKind
from edgefleet_server.access.people.model import PersonView


class PersonIn(BaseModel):
    """A person or a service to add."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    kind: PersonKind = PersonKind.PERSON


class PersonChangeIn(BaseModel):
    """What changes of a person or a service."""

    model_config = ConfigDict(extra="forbid")

    disabled: bool


class PersonOut(BaseModel):
    """A person or a service, the owner of tokens. tokens: how many of theirs are in force.

    account: whether the person signs in with a password;
    grants: what limits all their tokens; null: nothing is said, and each token decides.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    kind: PersonKind
    created_at: datetime
    created_by: str
    disabled_at: datetime | None
    tokens: int
    account: AccountState
    grants: list[GrantOut] | None

    @classmethod
    def of(cls, view: PersonView) -> "PersonOut":
        """Return the body of a person."""
        grants = None if view.grants is None else [GrantOut.of(one) for one in view.grants]
        return cls(
            id=view.id,
            name=view.name,
            kind=view.kind,
            created_at=view.created_at,
            created_by=view.created_by,
            disabled_at=view.disabled_at,
            tokens=view.tokens,
            account=view.account,
            grants=grants,
        )
