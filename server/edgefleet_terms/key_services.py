"""What went wrong at a key service (Vault, AWS KMS, …), in words, from the error of its library. Pure: the libraries need not be there.

Errors are known by the name of their class and by what the service answered, as the libraries `hvac`, `boto3` and `requests` give them on.
"""

from typing import Any, Final

ANSWERS: Final = 200
"""Characters of a service's own words that are quoted at most."""

_VAULT: Final = {
    "VaultDown": (
        "Vault is sealed, or in maintenance",
        "unseal it: `vault operator unseal`; then the same again, nothing was changed",
    ),
    "Forbidden": (
        "Vault refuses the token: it has expired, or its policy does not allow `update` on this key's path transit/sign/NAME",
        "look at `vault token lookup` with this token; renew it, or give it the policy that docs/operate/keys.md shows",
    ),
    "InvalidPath": (
        "Vault has nothing at this path: the transit engine is not enabled at `transit/`, or there is no such key",
        "`vault secrets list` and `vault list transit/keys` show what there is",
    ),
    "VaultNotInitialized": ("Vault was not set up", "`vault operator init`"),
    "RateLimitExceeded": ("Vault was asked too often by its own limit", "raise the quota for this server in Vault"),
}
_AWS: Final = {
    "AccessDeniedException": (
        "the credentials may not use the key",
        "allow `kms:Sign` on this key, in the key's policy or in that of the role",
    ),
    "NotFoundException": ("there is no such key in this account and region", "check the id or alias, and AWS_REGION"),
    "DisabledException": ("the key is disabled", "enable it, or rotate the role to another key"),
    "KMSInvalidStateException": (
        "the key is about to be deleted, or not ready",
        "cancel its deletion, or rotate the role to another key",
    ),
    "InvalidKeyUsageException": ("the key is not for signing", "make one with the usage SIGN_VERIFY"),
    "ThrottlingException": ("the service was asked too often", "raise the quota, or keep this role's key in a file"),
}
_CREDENTIALS: Final = (
    "the credentials are missing, wrong or expired",
    "give this process the usual credentials of the service, or renew them",
)
_AWS_CREDENTIALS: Final = frozenset(
    {
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "InvalidClientTokenId",
        "IncompleteSignature",
    }
)
_NO_CREDENTIALS: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "Unauthorized"}
)
_AWAY: Final = frozenset(
    {
        "ConnectionError",
        "ConnectTimeout",
        "ReadTimeout",
        "SSLError",
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
    }
)
_OTHER: Final = "check that the place answers, and the credentials that this server has for it"


def fault_of(error: BaseException) -> tuple[str, str]:
    """Return why a key service did not sign, and what to do next."""
    kind, said = type(error).__name__, str(error)[:ANSWERS]
    known = _known(kind, error, said)
    if known is None:
        return f"{kind}: {said}", _OTHER
    return f"{known[0]} ({kind}: {said})", known[1]


def _known(kind: str, error: BaseException, said: str) -> tuple[str, str] | None:
    if kind == "InvalidRequest" and "key not found" in said:
        return "Vault has no such key", "`vault list transit/keys` shows its keys; check the name in hv:NAME/VERSION"
    if kind == "InvalidRequest" and "version" in said:
        return "Vault does not sign with this version of the key", "`vault read transit/keys/NAME` shows its versions"
    code = _aws_code(error)
    if code:
        return _CREDENTIALS if code in _AWS_CREDENTIALS else _AWS.get(code)
    if kind == "NoRegionError":
        return "no region is given", "set AWS_REGION"
    if kind == "UnverifiedSignatureError":
        return (
            "what the place signed does not verify: it has another key than the public one that was given",
            "export the public key of exactly this key and version again",
        )
    if kind in _NO_CREDENTIALS:
        return _CREDENTIALS
    if kind in _AWAY:
        return "the place does not answer", "check its address, the network and its certificate"
    return _VAULT.get(kind)


def _aws_code(error: BaseException) -> str:
    # boto3 makes a class for each error of a service; all have the answer
    response: Any = getattr(error, "response", None)
    try:
        return str(response["Error"]["Code"])
    except (TypeError, KeyError):
        return ""


def sends_token_in_the_clear(uri: str, address: str) -> bool:
    """Return whether a key in Vault would be asked for over plain HTTP at another machine. address: VAULT_ADDR, "" = hvac's own."""
    if not uri.startswith("hv:") or not address.startswith("http://"):
        return False
    host = address.removeprefix("http://").partition("/")[0]
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name not in {"localhost", "127.0.0.1", "::1"}
