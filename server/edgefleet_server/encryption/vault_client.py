"""Reads one secret of HashiCorp Vault or OpenBao by HTTP: engine KV, version 1 or 2. Blocks; no redirect is followed."""

import http.client
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edgefleet_server.encryption.errors import KeyUnreadableError

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 64 * 1024
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class VaultClient:
    """url: of the secret, as `https://HOST:8200/v1/secret/data/edgefleet`; ca_file: PEM of its CA, None = those of the system."""

    url: str
    token: str = field(repr=False)
    ca_file: Path | None = None

    def read(self, name: str) -> str:
        """Return a field of the secret. Raises KeyUnreadableError, which quotes nothing that Vault answered."""
        status, body = self._get()
        if status != http.client.OK:
            reason = {403: "the token may not read it, or has expired", 404: "there is no such secret"}.get(status, "")
            raise self._failed(f"Vault answered {status}{': ' if reason else ''}{reason}")
        try:
            data = json.loads(body)["data"]
            data = data["data"] if isinstance(data.get("data"), dict) else data
            value = data[name]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._failed(f"the secret has no field {name!r}") from None
        if not isinstance(value, str):
            raise self._failed(f"its field {name!r} is no text")
        return value

    def _get(self) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme not in {"https", "http"} or not host or "@" in parts.netloc:
            raise self._failed("the address is not like https://HOST:8200/v1/secret/data/edgefleet")
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise self._failed("the token would be sent without encryption; use https")
        connection: http.client.HTTPConnection
        try:
            if parts.scheme == "https":
                trust = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
                connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=trust)
            else:
                connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
            try:
                connection.request("GET", parts.path or "/", headers={"X-Vault-Token": self.token})
                answer = connection.getresponse()
                return answer.status, answer.read(MAX_BYTES)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed(f"Vault does not answer ({type(error).__name__})") from None

    def _failed(self, why: str) -> KeyUnreadableError:
        return KeyUnreadableError(
            f"the sealing key cannot be read from {self.url}: {why}",
            next_step="check `secrets_vault_url`, the token and Vault's own log, then start again",
        )
