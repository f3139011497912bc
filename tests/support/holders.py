"""Holders of offline keys, as `edgectl key init --offline` makes them, on folders that stand for media."""

from collections.abc import Iterable
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_ceremony.public_part import PublicPart, body_of, part_bytes
from edgefleet_ceremony.root_fields import OFFLINE_ROLES
from edgefleet_ceremony.signature_request import answer_bytes, request_of
from edgefleet_cli.keys.holder_folder import FOLDER, PUBLIC_FILE, make_holder, read_signers
from edgefleet_cli.keys.request_signature import signed_by
from edgefleet_server.signing.ceremony.views import SigningRequestView
from edgefleet_server.signing.service import SigningService

PASSPHRASE = b"five words taken at random"
NAMES = ("anna", "ben", "carl")


def media(
    folder: Path, names: Iterable[str] = NAMES, *, threshold: int = 2, algorithm: str = "ed25519"
) -> dict[str, Path]:
    """Make a medium with keys for each name; return where each is."""
    found = {}
    for name in names:
        found[name] = folder / name
        found[name].mkdir(parents=True)
        make_holder(found[name], name, threshold, algorithm, lambda _what: PASSPHRASE)
    return found


def part_text(holder: str, threshold: int = 1) -> str:
    """Return the public part of a holder whose private keys are thrown away."""
    signers = {role: CryptoSigner.generate_ed25519() for role in OFFLINE_ROLES}
    keys = {role: one.public_key for role, one in signers.items()}
    body = body_of(holder, threshold, keys)
    proof = {role: one.sign(body).signature for role, one in signers.items()}
    return part_bytes(PublicPart(holder=holder, threshold=threshold, keys=keys, proof=proof)).decode()


def public(medium: Path) -> str:
    """Return the text of a holder's public part."""
    return (medium / FOLDER / PUBLIC_FILE).read_text()


def answer(request: SigningRequestView, medium: Path) -> str:
    """Return a holder's answer, without a question."""
    return answer_bytes(
        signed_by(request_of(request.document.encode()), read_signers(medium, lambda _what: PASSPHRASE))
    ).decode()


def hold_ceremony(signing: SigningService, holders: dict[str, Path], *signers: str) -> list[str]:
    """Give root and targets of a trial to holders; return the private keys that the server had and destroyed."""
    asked = signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in signers or ("anna", "ben")])
    return signing.ceremony.finish()
