"""The settings of one identity provider by which people sign in (OpenID Connect): a table `[[identity_providers]]` of server.toml.

What a claim gives is a list of roles, each with its own scope; a role without a scope is for the whole fleet.
"""

from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

MIN_SESSION_S: Final = 300
MAX_SESSION_S: Final = 12 * 3600
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class ClaimedRole(BaseModel):
    """What one value of the groups claim gives: a role over models × groups × sites, each a list of names or open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(min_length=1, max_length=255)
    role: str = Field(min_length=1, max_length=20)
    models: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()


class IdentityProvider(BaseModel):
    """One issuer. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")
    """In addresses, in the audit trail, and in names of people who come from it. Never used for another issuer later."""
    label: str = Field(default="", max_length=60)
    """On the button of the sign-in page; "" = the name."""
    issuer: str = Field(min_length=8, max_length=255)
    """URL of the issuer, exactly as it calls itself."""
    client_id: str = Field(min_length=1, max_length=255)
    client_secret: SecretStr | None = None
    """Secret of this client at the issuer; better in a file. None and no file: a public client, held by PKCE alone."""
    client_secret_file: Path | None = None
    """File with that secret, read at each sign-in: a new one needs no restart."""
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """How the secret is sent."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    """What is asked for; always with `openid`."""
    groups_claim: str = Field(default="groups", min_length=1, max_length=255)
    """Claim of the ID token with a person's groups or roles: a text, or a list of texts. Dots lead into objects."""
    roles: tuple[ClaimedRole, ...] = Field(min_length=1, max_length=200)
    """What values of that claim give. Without one a person is refused."""
    email_domains: tuple[str, ...] = ()
    """Only people whose verified e-mail address is in one of these domains; () = any."""
    subjects: tuple[str, ...] = ()
    """Only these `sub`; () = any."""
    acr: tuple[str, ...] = ()
    """The sign-in at the issuer must have been one of these classes (`acr`); () = any."""
    amr: tuple[str, ...] = ()
    """The sign-in at the issuer must have used one of these methods (`amr`), such as `mfa`; () = any."""
    new_people: Literal["wait", "add"] = "wait"
    """Who comes for the first time waits until an admin says which person that is, or is added as a new person."""
    session_s: int = Field(default=8 * 3600, ge=MIN_SESSION_S, le=MAX_SESSION_S)
    """How long a sign-in lasts; who was removed at the issuer is out after so long at the most."""

    @property
    def title(self) -> str:
        """What people call it."""
        return self.label or self.name

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        parts = urlsplit(self.issuer)
        is_near = parts.scheme == "http" and parts.hostname in LOOPBACK
        if not parts.hostname or parts.query or parts.fragment or not (parts.scheme == "https" or is_near):
            raise ValueError(
                f"the issuer of {self.name} must be https://HOST/… without a query; plain http is for loopback only"
            )
        if self.client_secret is not None and self.client_secret_file is not None:
            raise ValueError(f"client_secret and client_secret_file of {self.name} are both set; keep one of them")
        if "openid" not in self.scopes:
            raise ValueError(f"the scopes of {self.name} lack openid")
        return self


def check_providers(providers: tuple[IdentityProvider, ...]) -> None:
    """Raise ValueError for two providers of one name, or of one issuer: a person is known by issuer and subject."""
    for what in ("name", "issuer"):
        seen = [getattr(one, what) for one in providers]
        twice = sorted({one for one in seen if seen.count(one) > 1})
        if twice:
            raise ValueError(f"two identity providers have the {what} {twice[0]}")
