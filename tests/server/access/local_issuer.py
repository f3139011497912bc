"""A stand-in for the issuers of GitHub Actions and GitLab: signs ID tokens with claims of their form. No real CI is asked by any test."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from edgefleet_server.access.model import Role
from edgefleet_server.access.openid.issuer_documents import CONFIGURATION
from edgefleet_server.access.trusted_pipelines.model import ISSUERS, Provider, TrustedPipeline
from edgefleet_server.outbound.http_post import Fetched

AUDIENCE = "https://fleet.example"


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a key that all tests of the process share."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def another_key() -> rsa.RSAPrivateKey:
    """Return the key of somebody else."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def rsa_jwk(key: rsa.RSAPrivateKey, kid: str = "k1", **more: Any) -> dict[str, Any]:
    """Return the public part of a key as JWK."""
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": "RS256", **more}


def ec_jwk(key: ec.EllipticCurvePrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """Return the public part of a key as JWK."""
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def rule(name: str = "release", **changes: Any) -> TrustedPipeline:
    """Return the rule that trusts main of acme/vision at GitHub."""
    usual: dict[str, Any] = {
        "provider": Provider.GITHUB,
        "issuer": ISSUERS[Provider.GITHUB],
        "repository": "acme/vision",
        "repository_id": "",
        "ref": "refs/heads/main",
        "environment": "",
        "workflow": "",
        "roles": (Role.PUBLISHER,),
        "created_at": datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
        "created_by": "ann",
    }
    return TrustedPipeline(name=name, **{**usual, **changes})


@dataclass
class LocalIssuer:
    """Signs tokens, and answers for its documents. asked: the URLs that were fetched."""

    url: str = "https://token.actions.githubusercontent.com"
    keys: list[dict[str, Any]] = field(default_factory=lambda: [rsa_jwk(rsa_key())])
    jti: int = 0
    asked: list[str] = field(default_factory=list)

    def document(self, path: str) -> bytes:
        """Return the body of a document."""
        if path.endswith(CONFIGURATION):
            return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/.well-known/jwks"}).encode()
        return json.dumps({"keys": self.keys}).encode()

    def fetch(self, url: str, _timeout_s: float, _limit: int) -> Fetched:
        """Answer in the place of the network."""
        self.asked.append(url)
        return Fetched(200, self.document(url))

    def github(self, now: datetime, **changes: Any) -> dict[str, Any]:
        """Return the claims of a job of GitHub Actions on main of acme/vision; a change to None leaves a claim out."""
        self.jti += 1
        claims = {
            "jti": f"jti-{self.jti}",
            "sub": "repo:acme/vision:ref:refs/heads/main",
            "aud": AUDIENCE,
            "iss": self.url,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()) - 300,
            "exp": int(now.timestamp()) + 300,
            "ref": "refs/heads/main",
            "ref_type": "branch",
            "repository": "acme/vision",
            "repository_id": "4711",
            "repository_owner": "acme",
            "repository_owner_id": "42",
            "event_name": "push",
            "workflow_ref": "acme/vision/.github/workflows/release.yml@refs/heads/main",
            "runner_environment": "github-hosted",
        }
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def gitlab(self, now: datetime, **changes: Any) -> dict[str, Any]:
        """Return the claims of a job of GitLab CI on a protected tag of acme/edge/vision."""
        self.jti += 1
        claims = {
            "jti": f"jti-{self.jti}",
            "sub": "project_path:acme/edge/vision:ref_type:tag:ref:v1.2.0",
            "aud": AUDIENCE,
            "iss": self.url,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()) - 5,
            "exp": int(now.timestamp()) + 3600,
            "project_path": "acme/edge/vision",
            "project_id": "99",
            "ref": "v1.2.0",
            "ref_type": "tag",
            "ref_path": "refs/tags/v1.2.0",
            "ref_protected": "true",
            "pipeline_source": "push",
        }
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def signed(self, claims: dict[str, Any], *, key: Any = None, alg: str = "RS256", **header: Any) -> str:
        """Return a token. header: more of its head."""
        return jwt.encode(claims, key or rsa_key(), algorithm=alg, headers={"kid": "k1", **header})
