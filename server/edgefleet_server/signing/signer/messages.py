"""What is said on the socket of the signing process: one frame for a question, one for its answer. No I/O.

A frame is its length, four bytes, and MessagePack. A question is one of the structs below, named by its tag; there is none that signs
bytes as they come.
"""

from datetime import datetime
from typing import Final, Literal

import msgspec

MAX_FRAME: Final = 16 * 1024 * 1024
MAX_DOCUMENTS: Final = 2_000
MAX_SERIALS: Final = 200_000
MAX_DOCUMENT_BYTES: Final = 6 * 1024 * 1024
"""Of all documents of one question together: the client asks several where there are more."""


class Question(msgspec.Struct, frozen=True, tag=True):
    """Base of what may be asked."""


class AskStatus(Question, frozen=True, tag="status"):
    """How it is. Answer: Status."""


class AskInventory(Question, frozen=True, tag="inventory"):
    """Which keys there are. Answer: `keys.json`."""


class AskPublic(Question, frozen=True, tag="public"):
    """Whether a key can be used; probe: let it sign where it lies elsewhere. Answer: PublicPart."""

    keyid: str
    probe: bool = False


class AskRoot(Question, frozen=True, tag="root"):
    """Whether the root key is here. Answer: PublicPart, or none."""


class SignDocuments(Question, frozen=True, tag="documents"):
    """To sign payloads of the director with those keys that can be used, `threshold` of them at least. Answer: by payload."""

    keyids: list[str]
    threshold: int
    payload_type: str
    payloads: list[bytes]


class SignMetadata(Question, frozen=True, tag="metadata"):
    """To sign metadata of a role. content: its signed part, in the form that is signed. Answer: the signature, hex."""

    role: str
    keyid: str
    content: bytes


class SignEvidence(Question, frozen=True, tag="evidence"):
    """To sign the manifest of an archive of evidence with a key of the role `audit`. Answer: the signature of its DSSE form."""

    keyid: str
    manifest: bytes


class Prepare(Question, frozen=True, tag="prepare"):
    """To make a key for a role ready. besides: as the key ring has it. Answer: PublicPart."""

    role: str
    algorithm: str
    besides: list[str] | None


class TakeIn(Question, frozen=True, tag="take-in"):
    """To add a key that lies elsewhere. record: an inventory of this one key. Answer: PublicPart."""

    record: bytes


class Settle(Question, frozen=True, tag="settle"):
    """To note what metadata says. Answer: nothing."""

    named: list[str]
    root_version: int


class Discard(Question, frozen=True, tag="discard"):
    """To revoke keys and delete their files. Answer: nothing."""

    keyids: list[str]


class DiscardUnused(Question, frozen=True, tag="discard-unused"):
    """To revoke keys of roles that no metadata ever named. Answer: nothing."""

    roles: list[str]
    named: list[str]


class Destroy(Question, frozen=True, tag="destroy"):
    """To destroy a role's keys that no metadata names any more. Answer: names of files."""

    role: str
    named: list[str]


class IssueCertificate(Question, frozen=True, tag="certificate"):
    """To issue a certificate. spki: the public key, DER; hosts: of a listener, None for a client. Answer: Certificate.

    by_next, before_s: as in a `CaChoice`.
    """

    spki: bytes
    subject: str
    life_s: int
    hosts: list[str] | None = None
    by_next: bool = False
    before_s: int = 0


class IssueCrl(Question, frozen=True, tag="crl"):
    """To sign the list of revoked certificates. serials: hex. Answer: PEM."""

    serials: list[str]


class ChangeCa(Question, frozen=True, tag="change-ca"):
    """To make, promote or drop the CA that is to follow. Answer: PEM of the CA that was made or promoted, empty for none."""

    act: Literal["make", "promote", "drop"]


class AskCa(Question, frozen=True, tag="ca"):
    """To say which CAs there are. Answer: list of PEM, the CA first, then the one that is to follow, where there is one."""


AnyQuestion = (
    AskStatus
    | AskInventory
    | AskPublic
    | AskRoot
    | SignDocuments
    | SignMetadata
    | SignEvidence
    | Prepare
    | TakeIn
    | Settle
    | Discard
    | DiscardUnused
    | Destroy
    | IssueCertificate
    | IssueCrl
    | ChangeCa
    | AskCa
)


class PublicPart(msgspec.Struct, frozen=True):
    """The public part of a key, as TUF has it."""

    keyid: str
    algorithm: str
    public: str


class Certificate(msgspec.Struct, frozen=True):
    """A certificate just issued."""

    pem: bytes
    subject: str
    serial: str
    key_sha256: str
    not_before: datetime
    not_after: datetime
    issuer: str = ""


class Status(msgspec.Struct, frozen=True):
    """How the signing process is. signed, refused: by role, since it started."""

    pid: int
    started: datetime
    signed: dict[str, int]
    refused: dict[str, int]


class Answer(msgspec.Struct, frozen=True):
    """value: what was asked for; code: of the error, "" for none."""

    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    code: str = ""
    message: str = ""
    next_step: str = ""


_QUESTION = msgspec.msgpack.Decoder(AnyQuestion)
_ANSWER = msgspec.msgpack.Decoder(Answer)
_ENCODER = msgspec.msgpack.Encoder()


def frame(message: msgspec.Struct) -> bytes:
    """Return a message with its length in front."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(4, "big") + body


def question_of(body: bytes) -> AnyQuestion:
    """Return the question in a frame. Raises msgspec.MsgspecError."""
    found: AnyQuestion = _QUESTION.decode(body)
    return found


def answer_of(body: bytes) -> Answer:
    """Return the answer in a frame. Raises msgspec.MsgspecError."""
    return _ANSWER.decode(body)


def answered(value: object) -> Answer:
    """Return the answer that holds a value."""
    return Answer(msgspec.Raw(_ENCODER.encode(value)))
