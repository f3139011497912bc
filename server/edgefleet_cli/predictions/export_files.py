"""Parquet files of prediction logs on the operator's machine, and opening what is sealed in them. The private key stays here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import write_private

_SHA256 = re.compile(r"[0-9a-f]{64}")
OPENED = "_opened"
"""Folder for what was opened: readers of a whole folder leave out names that begin so."""


class Opened(NamedTuple):
    """What a key opened of a file. path: of the copy, None where it opened nothing; left: answers that stay sealed."""

    path: Path | None
    answers: int
    left: int


def fetch_file(folder: Path, model: str, sha256: str, read: Callable[[], bytes]) -> Path:
    """Write a file of the log unless it is there as it should be, checking its digest. Raises UsageError."""
    path = folder / f"{model}.{sha256}.parquet"
    try:
        if path.exists() and _digest(path.read_bytes()) == sha256:
            return path
    except OSError as error:
        raise _unusable(folder, error) from error
    data = read()
    if _digest(data) != sha256:
        raise UsageError(f"the file {sha256[:16]} is damaged", why="its sha256 is another", next_step="fetch it again")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, data)
    except OSError as error:
        raise _unusable(folder, error) from error
    return path


def remove_others(folder: Path, model: str, listed: Collection[str]) -> int:
    """Remove files of the log that the server has no more, and what was opened of them; return how many. Raises UsageError.

    A file of which rows were erased is replaced by another: what stays would be read twice.
    """
    try:
        old = [
            path
            for place in (folder, folder / OPENED)
            for path in place.glob(f"{model}.*.parquet")
            if _SHA256.fullmatch(path.stem[len(model) + 1 :]) and path.stem[len(model) + 1 :] not in listed
        ]
        for path in old:
            path.unlink()
    except OSError as error:
        raise _unusable(folder, error) from error
    return len(old)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot use the folder {folder}", why=str(error), next_step="give another --out")


def open_file(path: Path, private_key: bytes) -> Opened:
    """Write a copy with the sealed answers opened to the folder `_opened` next to the file. Raises UsageError.

    Answers for another key, as before it was replaced, stay sealed, and so do those that a device only says are sealed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError(
            "opening answers needs pyarrow",
            why=str(error),
            next_step="pip install 'edgefleet[parquet]', or leave --key out",
        ) from error
    from edgefleet_protocol.hpke import SealedError
    from edgefleet_protocol.prediction_parts import HEADS, decode_head

    table = pq.read_table(path)
    heads = [decode_head(base64.b64decode(one)) for one in json.loads((table.schema.metadata or {})[HEADS])]
    keys = {(head.device, head.log, head.part): head for head in heads}
    opened: dict[tuple[str, str, int, int], Any] = {}
    lines = table.to_pylist()
    sealed = [line for line in lines if line["epoch"] is not None and line["epoch"] >= 0]
    left = 0
    for line in sealed:
        place = (line["device"], line["log"], line["part"])
        name = (*place, line["epoch"])
        try:
            if name not in opened:
                opened[name] = None
                head = keys[place]
                opened[name] = _cipher(private_key, head.keys[line["epoch"]], head.device, head.model)
            line.update(_answer(opened[name], line["nonce"], line["body"]))
        except SealedError:
            left += 1
    if sealed and left == len(sealed):
        return Opened(None, 0, left)
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines, schema=table.schema), data, compression="zstd")
    out = path.parent / OPENED / path.name
    try:
        out.parent.mkdir(exist_ok=True, mode=0o700)
        write_private(out, data.getvalue())
    except OSError as error:
        raise _unusable(path.parent, error) from error
    return Opened(out, len(sealed) - left, left)


def _cipher(private_key: bytes, sealed: bytes, device: str, model: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from edgefleet_protocol.hpke import about_log, unseal

    return ChaCha20Poly1305(unseal(private_key, sealed, about_log(device, model)))


def _answer(cipher: Any, nonce: int, body: bytes) -> dict[str, Any]:
    from cryptography.exceptions import InvalidTag

    from edgefleet_protocol.hpke import SealedError
    from edgefleet_protocol.prediction_parts import columns_of

    if cipher is None:
        raise SealedError("the key of this answer does not open")
    try:
        clear = cipher.decrypt(nonce.to_bytes(12, "big"), body, None)
    except InvalidTag as error:
        raise SealedError("an answer does not open with this key: it is for another one, or it was altered") from error
    return columns_of(clear)
