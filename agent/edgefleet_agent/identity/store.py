"""Who this device is: written by `enroll`, renewed by `renew`, read by agentd and the verifier.

The private key never leaves `identity/key.pem` (0600). `root.json` is the pinned start of trust and never replaced; newer
roots live in ngclient's cache and are followed from it.
"""

from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.errors import NotEnrolledError

KEY_FILE = "key.pem"

CERT_FILE = "cert.pem"

CA_FILE = "ca.pem"

ROOT_FILE = "root.json"

RECORD_FILE = "identity.msgpack"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer to the enrolment. mqtt: "5" or "3.1.1", what the broker speaks. server_id: `aud` of device tokens.

    cert_from_s, cert_until_s: life of the certificate, unix seconds; 0 = not looked at yet. display_name: as the server had it when
    it issued the certificate. cert_serial: of the certificate, lower-case hex; "" where an older agent wrote the record.
    place: number of the announcement that the addresses are of (`places`); 0 = they are from enrolment or renewal.
    """

    v: int = 1
    device: str
    tenant: str
    profile: str
    broker_host: str
    broker_port: int
    mqtt: str
    url: str
    enrolled_at: str
    server_id: str = ""
    cert_from_s: int = 0
    cert_until_s: int = 0
    display_name: str = ""
    cert_serial: str = ""
    place: int = 0


def load_identity(folder: Path) -> Identity:
    """Return the identity in `folder`. Raises NotEnrolledError, StateFileError, OSError."""
    record = read_record(Identity, folder / RECORD_FILE)
    if record is None:
        raise NotEnrolledError(f"{folder.parent} holds no identity: this device was not enrolled")
    return record


def renewal_due_s(identity: Identity) -> int:
    """Return when two thirds of the certificate's life are over, unix seconds; 0 when its life is not known yet."""
    return identity.cert_from_s + (identity.cert_until_s - identity.cert_from_s) * 2 // 3
