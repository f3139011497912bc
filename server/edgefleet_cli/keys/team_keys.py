"""The key of one of a team: a file, encrypted or not, or a place that signs (PKCS#11, Vault, a cloud's key service)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.keys.errors import BadMediumError
from edgefleet_cli.keys.holder_folder import read_file
from edgefleet_terms.key_services import fault_of, sends_token_in_the_clear

if TYPE_CHECKING:
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]  # documented, but not in __all__

    from edgefleet_cli.keys.passphrases import Passphrase

PLACES: Final = ("hsm:", "hv:", "awskms:", "gcpkms:", "azurekms:")


def signature_by(where: str, keys: Mapping[str, Any], payload: bytes, passphrase: Passphrase) -> Signature:
    """Return the signature of one of a team. where: a file or a URI; keys: of the team, by id.

    Raises BadMediumError, BadRequestFileError, UsageError. Blocks on the network for a place.
    """
    signature = _by_place(where, keys, payload, passphrase) if where.startswith(PLACES) else None
    if signature is None and not where.startswith(PLACES):
        signer = _file_signer(Path(where), passphrase)
        if signer.public_key.keyid in keys:
            signature = signer.sign(payload)
    if signature is None:
        raise UsageError(
            f"the key {where} is not one of the team",
            why=f"the team's keys are {', '.join(sorted(one[:12] for one in keys))}",
            next_step="give the key of one of the team; `edgectl key team MODEL` shows them",
        )
    return signature


def _file_signer(file: Path, passphrase: Passphrase) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    data = read_file(file)
    try:
        try:
            private = load_pem_private_key(data, None)
        except TypeError:  # it is encrypted
            private = load_pem_private_key(data, passphrase(str(file)))
        return CryptoSigner(private)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadMediumError(
            f"{file} does not open",
            why="the passphrase is wrong, or it is no private key in PEM",
            next_step="try again; without its passphrase a key is lost, and the others of the team replace it",
        ) from error


def _by_place(where: str, keys: Mapping[str, Any], payload: bytes, passphrase: Passphrase) -> Signature | None:
    """Return the signature of a place by the key of the team that verifies it, None where none does."""
    from securesystemslib.exceptions import UnsupportedLibraryError
    from securesystemslib.signer import Signer  # type: ignore[attr-defined]

    if sends_token_in_the_clear(where, os.environ.get("VAULT_ADDR", "")):
        raise UsageError(
            f"the token for {where} would be sent without encryption",
            why="VAULT_ADDR begins with http:// and is another machine",
            next_step="give it with https://",
        )
    why = next_step = ""
    for key in keys.values():
        try:
            signature = Signer.from_priv_key_uri(where, key, lambda _name: passphrase(where).decode()).sign(payload)
            key.verify_signature(signature, payload)
        except UnsupportedLibraryError as error:
            raise BadMediumError(
                f"the library for {where} is not installed",
                why=str(error),
                next_step="install edgefleet with the extra for it: hsm, vault or awskms; securesystemslib with gcpkms or azurekms",
            ) from error
        except Exception as error:  # noqa: BLE001 - whatever a driver or a cloud raises; the next key may be the right one
            why, next_step = fault_of(error)
            continue
        return signature
    raise BadMediumError(
        f"{where} does not sign for this team",
        why=why,
        next_step=next_step,
    )
