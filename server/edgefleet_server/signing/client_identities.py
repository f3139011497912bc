"""Certificates with which the server itself connects to the broker."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClientIdentity:
    """Files of a client certificate: `cert_file`, `key_file` (0600) and the CA that verifies the other side."""

    name: str
    cert_file: Path
    key_file: Path
    ca_file: Path


@dataclass(frozen=True)
class BriefIdentity:
    """A client certificate and its key (PEM) that are kept nowhere."""

    name: str
    cert: bytes
    key: bytes
