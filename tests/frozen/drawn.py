"""Keys and secrets from a published seed. A freeze copies this file into its environment; unpacking computes them again.

A draw is numbered by a file in FROZEN_DRAWS, which all processes of a freeze share; without that variable nothing is changed.
These keys protect nothing: anybody can compute them. The name of the machine is hidden by the way.
"""

import base64
import fcntl
import hashlib
import os
import pathlib
import secrets
import socket
from typing import Any

SEED = b"edgefleet: published seed of the frozen versions"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
HOST = "frozen"
BOARD = "/sys/class/dmi/id/product_name"


def drawn(kind: str, number: int) -> bytes:
    """Return the 32 bytes of a draw."""
    return hashlib.sha256(SEED + f":{kind}:{number}".encode()).digest()


def text_of(number: int) -> str:
    """Return a drawn text, of the form of `secrets.token_urlsafe(32)`."""
    return base64.urlsafe_b64encode(drawn("text", number)).rstrip(b"=").decode()


def key_of(kind: str, number: int) -> Any:
    """Return a drawn private key of cryptography. kind: ed25519 or p256."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(drawn(kind, number))
    return ec.derive_private_key(int.from_bytes(drawn(kind, number), "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())


def _next_number() -> int:
    with open(os.environ["FROZEN_DRAWS"], "a+", encoding="ascii") as file:  # noqa: PTH123  # paths are patched below
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = len(file.read())
        file.write(".")
    return number


def install() -> None:
    """Replace the sources of keys, secrets and names of the machine in this process."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def generate(_: type) -> Any:
        return key_of("ed25519", _next_number())

    def generate_private_key(curve: Any, _: Any = None) -> Any:
        if curve.name != "secp256r1":
            raise NotImplementedError(curve.name)
        return key_of("p256", _next_number())

    def token_urlsafe(_: int | None = None) -> str:
        return text_of(_next_number())

    read_bytes = pathlib.Path.read_bytes

    def read_no_board(path: pathlib.Path) -> bytes:
        if str(path) == BOARD:
            raise FileNotFoundError(BOARD)
        return read_bytes(path)

    replaced: list[tuple[Any, str, Any]] = [
        (ed25519.Ed25519PrivateKey, "generate", classmethod(generate)),
        (ec, "generate_private_key", generate_private_key),
        (secrets, "token_urlsafe", token_urlsafe),
        (socket, "gethostname", lambda: HOST),
        (pathlib.Path, "read_bytes", read_no_board),
    ]
    for owner, name, value in replaced:
        setattr(owner, name, value)


if "FROZEN_DRAWS" in os.environ:
    install()
