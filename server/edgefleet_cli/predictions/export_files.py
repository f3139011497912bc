"""Parquet files of prediction logs on the operator's machine, and opening what is sealed in them. The private key stays here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import write_private

HEADS = b"edgefleet.heads"


def fetch_file(folder: Path, sha256: str, read: Callable[[], bytes]) -> Path:
    """Write a file of the log unless it is there, checking its digest. Raises UsageError."""
    path = folder / f"{sha256}.parquet"
    if path.exists():
        return path
    data = read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UsageError(f"the file {sha256[:16]} is damaged", why="its sha256 is another", next_step="fetch it again")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, data)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}", why=str(error), next_step="give another --out") from error
    return path


def open_file(path: Path, private_key: bytes) -> Path:
    """Write a copy with the sealed answers opened, next to the file. Raises UsageError, SealedError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError(
            "opening answers needs pyarrow",
            why=str(error),
            next_step="pip install 'edgefleet[parquet]', or leave --key out",
        ) from error
    from edgefleet_protocol.prediction_parts import decode_head

    table = pq.read_table(path)
    heads = [decode_head(base64.b64decode(one)) for one in json.loads((table.schema.metadata or {})[HEADS])]
    keys = {(head.device, head.log, head.part): head for head in heads}
    opened: dict[tuple[str, str, int, int], Any] = {}
    lines = table.to_pylist()
    for line in lines:
        if line["epoch"] is not None and line["epoch"] >= 0:
            place = (line["device"], line["log"], line["part"])
            name = (*place, line["epoch"])
            if name not in opened:
                head = keys[place]
                opened[name] = _cipher(private_key, head.keys[line["epoch"]], head.device, head.model)
            line.update(_answer(opened[name], line["nonce"], line["body"]))
    out = path.with_suffix(".opened.parquet")
    pq.write_table(pa.Table.from_pylist(lines, schema=table.schema), out, compression="zstd")
    out.chmod(0o600)
    return out


def _cipher(private_key: bytes, sealed: bytes, device: str, model: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from edgefleet_protocol.hpke import about_log, unseal

    return ChaCha20Poly1305(unseal(private_key, sealed, about_log(device, model)))


def _answer(cipher: Any, nonce: int, body: bytes) -> dict[str, Any]:
    import msgspec
    from cryptography.exceptions import InvalidTag

    from edgefleet_protocol.hpke import SealedError
    from edgefleet_protocol.prediction_parts import Answer

    try:
        answer = msgspec.msgpack.decode(cipher.decrypt(nonce.to_bytes(12, "big"), body, None), type=Answer)
    except (InvalidTag, msgspec.MsgspecError) as error:
        raise SealedError("an answer does not open with this key: it is for another one, or it was altered") from error
    return {
        "label": answer.labels[0] if answer.labels else None,
        "score": answer.scores[0] if answer.scores else None,
        "answer": msgspec.json.encode(answer).decode(),
    }
