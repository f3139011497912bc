"""Teams of models: keys that exist in this process only, and their answers."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.team_request import TeamAnswer, team_answer_bytes, team_request_of
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.teams.views import TeamRequestView


def member(*, is_ecdsa: bool = False) -> CryptoSigner:
    """Make the key of one of a team."""
    if is_ecdsa:
        return CryptoSigner(ec.generate_private_key(ec.SECP256R1()))
    return CryptoSigner.generate_ed25519()


def pem(one: CryptoSigner) -> str:
    """Return the public part."""
    return one._private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_file(one: CryptoSigner, file: Path, passphrase: bytes | None = None) -> Path:
    """Write the private key as a file; return where."""
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, PrivateFormat

    how = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    file.write_bytes(one._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    return file


def team_answer(request: TeamRequestView, *members: CryptoSigner) -> str:
    """Return an answer of these, without a question and without a look."""
    asked = team_request_of(request.document.encode())
    signatures = [one.sign(asked.proposed.signed_bytes) for one in members]
    return team_answer_bytes(TeamAnswer(request=asked.id, signatures=signatures)).decode()


def form_team(
    signing: SigningService, model: str, members: Sequence[CryptoSigner], threshold: int, new_models: str = ""
) -> TeamRequestView:
    """Let a team take a model over: enough of them sign; return what came of it."""
    asked = signing.teams.set_team(model, [pem(one) for one in members], threshold, new_models)
    return signing.teams.take(asked.id, team_answer(asked, *members[:threshold]))
