"""Stand-ins of key services, over real HTTP, for the libraries that talk to them: no Vault and no cloud is asked by any test.

`VaultStandIn` answers as the transit engine of Vault does (`/v1/transit/keys/NAME`, `/v1/transit/sign/NAME`), `AwsKmsStandIn` as AWS KMS
does (JSON 1.1, `TrentService.GetPublicKey` and `.Sign`), each with the errors that the real one documents.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TOKEN = "hvs.stand-in"
Answer = tuple[int, dict[str, Any]]


class _Http:
    """A server on a free port of this machine that answers JSON."""

    def __init__(self, answer: Callable[[str, str, Any, dict[str, Any]], Answer]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    given = json.loads(body or b"{}")
                except ValueError:
                    given = {}
                status, data = answer(self.command, self.path, self.headers, given)
                raw = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815  # names of the base class

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class VaultStandIn:
    """The transit engine. is_sealed: Vault is; may_sign: the token's policy allows it; tokens: those that have not expired."""

    def __init__(self) -> None:
        self.keys: dict[str, list[Ed25519PrivateKey]] = {}
        self.tokens = {TOKEN}
        self.is_sealed = False
        self.may_sign = True
        self.signed: list[tuple[str, int]] = []
        self._http = _Http(self._answer)
        self.url, self.close = self._http.url, self._http.close

    def _answer(self, method: str, path: str, headers: Any, given: dict[str, Any]) -> Answer:
        if self.is_sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if headers.get("X-Vault-Token") not in self.tokens:
            return 403, {"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}
        parts = path.strip("/").split("/")
        if parts[:2] != ["v1", "transit"] or len(parts) != 4:
            return 404, {"errors": [f'no handler for route "{path}". route entry not found.']}
        action, name = parts[2:]
        if action == "keys":
            return self._key(method, name)
        if action == "sign" and method in {"POST", "PUT"}:
            return self._sign(name, given)
        return 405, {"errors": ["unsupported operation"]}

    def _key(self, method: str, name: str) -> Answer:
        if method in {"POST", "PUT"}:
            self.keys.setdefault(name, []).append(Ed25519PrivateKey.generate())
        if name not in self.keys:
            return 404, {"errors": []}
        keys = {
            str(number): {
                "name": "ed25519",
                "public_key": base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode(),
                "creation_time": "2026-12-01T00:00:00Z",
            }
            for number, key in enumerate(self.keys[name], start=1)
        }
        return 200, {"data": {"name": name, "type": "ed25519", "latest_version": len(keys), "keys": keys}}

    def _sign(self, name: str, given: dict[str, Any]) -> Answer:
        if not self.may_sign:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if name not in self.keys:
            return 400, {"errors": ["signing key not found"]}
        version = int(given.get("key_version") or len(self.keys[name]))
        if not 1 <= version <= len(self.keys[name]):
            return 400, {"errors": ["requested version for signing is higher than the latest key version"]}
        self.signed.append((name, version))
        signature = self.keys[name][version - 1].sign(base64.b64decode(given["input"]))
        text = f"vault:v{version}:{base64.b64encode(signature).decode()}"
        return 200, {"data": {"signature": text, "key_version": version}}


class AwsKmsStandIn:
    """AWS KMS with P-256 keys for signing. error: answered in the place of a signature. Requests without a signature of AWS are refused."""

    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.error = ""
        self.asked: list[str] = []
        self._http = _Http(self._answer)
        self.url, self.close = self._http.url, self._http.close

    def _answer(self, _method: str, _path: str, headers: Any, given: dict[str, Any]) -> Answer:
        action = str(headers.get("X-Amz-Target", "")).removeprefix("TrentService.")
        self.asked.append(action)
        if not str(headers.get("Authorization", "")).startswith("AWS4-HMAC-SHA256 Credential="):
            return 400, {"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"}
        key = self.keys.get(given.get("KeyId", ""))
        if self.error or key is None:
            return 400, {
                "__type": self.error or "NotFoundException",
                "message": f"of the stand-in, for {given.get('KeyId')}",
            }
        algorithm = "ECDSA_SHA_256"
        if action == "GetPublicKey":
            public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return 200, {
                "KeyId": given["KeyId"],
                "PublicKey": base64.b64encode(public).decode(),
                "KeyUsage": "SIGN_VERIFY",
                "KeySpec": "ECC_NIST_P256",
                "SigningAlgorithms": [algorithm],
            }
        assert (action, given["MessageType"], given["SigningAlgorithm"]) == ("Sign", "DIGEST", algorithm)
        signature = key.sign(base64.b64decode(given["Message"]), ec.ECDSA(Prehashed(hashes.SHA256())))
        return 200, {
            "KeyId": given["KeyId"],
            "Signature": base64.b64encode(signature).decode(),
            "SigningAlgorithm": algorithm,
        }
