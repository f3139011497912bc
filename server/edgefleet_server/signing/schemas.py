"""Bodies of the routes of keys. Additive only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.signing.trust import AuthorityView, CertificatesView


@dataclass(frozen=True)
class TrustOut:
    """What devices trust besides the TUF roles. is_root_here: the root key and its passphrase both lie on this server, as in a trial.

    first_root_sha256: of the first root file, to compare with what a machine pins that verifies what this server signs.
    """

    authority: AuthorityView
    certificates: Sequence[CertificatesView]
    is_root_here: bool
    first_root_sha256: str


class RotateKeyIn(BaseModel):
    """The new key of a role: made on the server with an algorithm, or one that lies in an HSM or a key service."""

    model_config = ConfigDict(extra="forbid")

    algorithm: Literal["ed25519", "ecdsa-sha2-nistp256"] = "ed25519"
    """Of a key that the server makes."""
    uri: str = Field(default="", max_length=500)
    """Where the key is: ``hsm:…``, ``hv:…``, ``awskms:…``, ``gcpkms:…`` or ``azurekms:…``; "" = the server makes one."""
    public_key: str = Field(default="", max_length=4000)
    """Public key of the key at `uri`, PEM."""


class RevokeKeyIn(RotateKeyIn):
    """The key that follows the revoked ones."""

    keyid: str = Field(default="", max_length=64)
    """Only this key; "" = all that may sign today."""
