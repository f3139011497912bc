"""Answers that are kept for a day, so that a request sent again with its `Idempotency-Key` is done once. Thread-safe; calls block.

- A key belongs to a token and stands for one request: method, address and body, by their digest.
- It is taken before the request is done and filled with the answer afterwards. Only what was done is kept: a refusal wrote nothing,
  so it frees the key.
- An answer may hold a secret that is shown once and stored nowhere else (a token, a webhook's key). So it is sealed to the caller: with a
  key made of the operator token, of which the server has only a digest, and the idempotency key (ADR 0047).
"""

import secrets
import zlib
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.errors import AnswerLostError, KeyReusedError, StillRunningError
from edgefleet_server.access.idempotency import store as idempotency_store
from edgefleet_server.access.tables import RepeatRow
from edgefleet_server.db.database import Database

KEPT: Final = timedelta(days=1)
RUNS_AT_MOST: Final = timedelta(minutes=10)
MAX_KEPT_BYTES: Final = 1024 * 1024
PRUNE_BATCH: Final = 5_000
MAX_UNFREED: Final = 1_000
"""Keys of failed requests that a process remembers to give back once the database is there again."""
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may come again. token: its text, which opens the answer; request_sha256: of method, address and body."""

    token_id: str
    token: str
    key: str
    request_sha256: str

    @property
    def key_sha256(self) -> str:
        """What the key is stored as."""
        return sha256_hex(self.key.encode())


class KeptAnswer(msgspec.Struct, frozen=True):
    """The answer of a request that was done. operation: for the audit trail."""

    status: int
    operation: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


class RepeatBook:
    """Remembers requests by their keys."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock
        self._unfreed: deque[Asked] = deque(maxlen=MAX_UNFREED)

    def begin(self, asked: Asked) -> KeptAnswer | None:
        """Take a key: None = go on and do it; else the answer of the first time.

        Raises KeyReusedError, StillRunningError, AnswerLostError.
        """
        now = self._clock.now()
        with self._db.session() as session:
            idempotency_store.forget(session, asked.token_id, asked.key_sha256, before=now - KEPT)
            if idempotency_store.add(session, asked.token_id, asked.key_sha256, asked.request_sha256, now):
                return None
            row = idempotency_store.find(session, asked.token_id, asked.key_sha256)
        if row is None:  # it was freed just now
            raise StillRunningError("the first request with this key ended just now without being done")
        if row.request_sha256 != asked.request_sha256:
            raise KeyReusedError("this Idempotency-Key was sent before with another request")
        if row.status is None:
            if now - row.created_at < RUNS_AT_MOST:
                raise StillRunningError("the first request with this key is still being done")
            raise AnswerLostError("the first request with this key was cut off: nobody knows how far it came")
        return _opened(asked, row)

    def keep(self, asked: Asked, answer: KeptAnswer) -> None:
        """Store the answer of a request that was done."""
        sealed = _sealed(asked, answer)
        kept = sealed if len(sealed) <= MAX_KEPT_BYTES else b""
        with self._db.session() as session:
            idempotency_store.fill(session, asked.token_id, asked.key_sha256, answer.status, kept)

    def free(self, asked: Asked) -> None:
        """Give a key back: its request was refused or failed. While the database is away that is put off until `free_due`."""
        try:
            with self._db.session() as session:
                idempotency_store.forget(session, asked.token_id, asked.key_sha256)
        except SQLAlchemyError:
            self._unfreed.append(asked)

    def free_due(self) -> None:
        """Give back what could not be given back before; for each second of a listener. Puts it off again while the database is away."""
        for _ in range(len(self._unfreed)):
            self.free(self._unfreed.popleft())

    def prune(self) -> int:
        """Forget answers that are older than KEPT; return how many. For the engine tick."""
        with self._db.session() as session:
            return idempotency_store.prune(session, self._clock.now() - KEPT, PRUNE_BATCH)


def _cipher(asked: Asked) -> AESGCM:
    info = b"edgefleet kept answer " + asked.key.encode()
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(asked.token.encode()))


def _sealed(asked: Asked, answer: KeptAnswer) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    plain = zlib.compress(msgspec.msgpack.encode(answer))
    return nonce + _cipher(asked).encrypt(nonce, plain, asked.request_sha256.encode())


def _opened(asked: Asked, row: RepeatRow) -> KeptAnswer:
    if not row.sealed:
        raise AnswerLostError(
            f"the first request with this key was done ({row.status}); its answer was too large to keep"
        )
    try:
        plain = _cipher(asked).decrypt(
            row.sealed[:_NONCE_BYTES], row.sealed[_NONCE_BYTES:], asked.request_sha256.encode()
        )
    except InvalidTag as error:
        raise AnswerLostError(
            f"the first request with this key was done ({row.status}); its answer is damaged"
        ) from error
    return msgspec.msgpack.decode(zlib.decompress(plain), type=KeptAnswer)
