"""Bodies of the routes of local accounts."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.accounts.model import Invitation
from edgefleet_server.access.model import Role
from edgefleet_server.web.strict_types import Moment


class InvitationIn(BaseModel):
    """A one-time code to make. person: by name or id, added if there is none; roles: none = those of the account.

    expires_at: null = in 24 hours.
    """

    model_config = ConfigDict(extra="forbid")

    person: str = Field(min_length=1, max_length=80)
    roles: list[Role] = Field(default_factory=list)
    expires_at: Moment | None = None


class InvitationOut(BaseModel):
    """A one-time code just made: let the person open `url_path` at this server before `expires_at`, and choose a password there."""

    model_config = ConfigDict(from_attributes=True)

    person: str
    roles: list[Role]
    url_path: str
    expires_at: datetime

    @classmethod
    def of(cls, made: Invitation) -> "InvitationOut":
        """Return the body of a code."""
        return cls.model_validate(made)
