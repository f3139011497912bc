"""Bodies of the routes of identities."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.identities.model import Identity


class IdentityOut(BaseModel):
    """Somebody as an identity provider knows them: `issuer` and `subject`. name, email: for reading only.

    person: whom it signs in as; "": it waits until an admin says who it is.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    provider: str
    issuer: str
    subject: str
    name: str
    email: str
    person: str
    person_id: str
    first_seen_at: datetime
    last_seen_at: datetime

    @classmethod
    def of(cls, identity: Identity) -> "IdentityOut":
        """Return the body of an identity."""
        return cls.model_validate(identity)


class IdentityLinkIn(BaseModel):
    """Which person an identity is. person: by name or id, "" = a new one."""

    model_config = ConfigDict(extra="forbid")

    person: str = Field(default="", max_length=80)
