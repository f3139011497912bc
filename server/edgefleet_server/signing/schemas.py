"""Bodies of the routes of keys. Additive only."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_server.signing.trust import AuthorityView, CertificatesView


@dataclass(frozen=True)
class TrustOut:
    """What devices trust besides the TUF roles. is_root_here: the root key and its passphrase both lie on this server, as in a trial."""

    authority: AuthorityView
    certificates: Sequence[CertificatesView]
    is_root_here: bool
