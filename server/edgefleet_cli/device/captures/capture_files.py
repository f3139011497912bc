"""Captured records on the operator's machine: keys, opening, and files that other tools read.

The private key is made and used here and nowhere else (ADR 0030). A record becomes `<id>.json`, and `<id>.npz` when it holds
arrays; one that nobody opened stays `<id>.sealed` next to its `<id>.json`.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.transport.reply import Document, Reply

MAX_PLAIN_BYTES = 64 * 1024 * 1024
_RECORD = re.compile(r"[0-9a-z]{1,32}")
_DTYPE = re.compile(r"[<|][biuf][1248]")


def make_key(path: Path) -> str:
    """Write a new private key, readable by its owner only, and return the public one as hex. Raises UsageError."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from edgefleet_protocol.hpke import public_of

    if path.exists():
        raise UsageError(
            f"{path} already exists",
            why="private keys are never overwritten",
            next_step="give another file with --out",
        )
    secret = X25519PrivateKey.generate()
    pem = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, pem)
    except OSError as error:
        raise UsageError(f"cannot write {path}", why=str(error), next_step="give another file with --out") from error
    return public_of(secret.private_bytes_raw()).hex()


def read_key(path: Path) -> bytes:
    """Return the raw private key in a file of `make_key`. Raises UsageError."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"cannot read the key in {path}", why=str(error), next_step="give the file that `capture-key create` wrote"
        ) from error
    if not isinstance(key, X25519PrivateKey):
        raise UsageError(f"{path} holds another kind of key", why="expected X25519", next_step="give the capture key")
    return key.private_bytes_raw()


def save(record: Reply[api.capture.SealedCapture], folder: Path, private_key: bytes | None) -> list[Path]:
    """Write one record of the API's answer, opened where there is a key; return the files. Raises SealedError, UsageError."""
    name = record.value.id
    if _RECORD.fullmatch(name) is None:
        raise UsageError(
            f"{name[:40]!r} is not the id of a record", why="the server sent it", next_step="check the server"
        )
    sealed = base64.b64decode(record.value.sealed)
    about = {key: value for key, value in record.raw.items() if key != "sealed"}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if private_key is None:
            return [_write(folder / f"{name}.json", _json(about)), _write(folder / f"{name}.sealed", sealed)]
        plain = open_record(sealed, about, private_key)
        return _save_plain(folder / name, about, plain)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}", why=str(error), next_step="give another --out") from error


def open_folder(folder: Path, private_key: bytes) -> list[Path]:
    """Open every `.sealed` record of a folder in place; return the files written. Raises SealedError, UsageError."""
    written: list[Path] = []
    try:
        for sealed in sorted(folder.glob("*.sealed")):
            about = json.loads(sealed.with_suffix(".json").read_text("utf-8"))
            plain = open_record(sealed.read_bytes(), about, private_key)
            written += _save_plain(sealed.with_suffix(""), about, plain)
            sealed.unlink()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot open the records in {folder}", why=str(error), next_step="fetch them again"
        ) from error
    return written


def open_record(sealed: bytes, about: Document, private_key: bytes) -> Document:
    """Return the content of a record. Raises SealedError: not for this key, altered, or relabelled on its way."""
    import msgspec

    from edgefleet_protocol.hpke import SealedError, about_record, unseal

    bound = about_record(str(about.get("device")), str(about.get("id")), str(about.get("sha256")))
    packed = unseal(private_key, sealed, bound)
    try:
        unpacker = zlib.decompressobj()
        plain = msgspec.msgpack.decode(unpacker.decompress(packed, MAX_PLAIN_BYTES))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise SealedError(f"the record opened and is none: {error}") from error
    if not isinstance(plain, dict):
        raise SealedError("the record opened and is none: it holds no fields")
    return plain


def _save_plain(stem: Path, about: Document, plain: Document) -> list[Path]:
    arrays: dict[str, bytes] = {}
    fields = {name: _field(f"in.{name}", value, arrays) for name, value in plain.get("fields", {}).items()}
    outputs = {name: _field(f"out.{name}", value, arrays) for name, value in plain.get("outputs", {}).items()}
    facts = {key: value for key, value in plain.items() if key not in {"v", "fields", "outputs"}}
    document = {**about, **facts, "fields": fields, "outputs": outputs}
    written = [_write(stem.with_name(stem.name + ".json"), _json(document))]
    if arrays:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in arrays.items():
                archive.writestr(f"{name}.npy", data)
        written.append(_write(stem.with_name(stem.name + ".npz"), buffer.getvalue()))
    return written


def _field(name: str, value: Any, arrays: dict[str, bytes]) -> Any:
    """Return how a field stands in the JSON; an array goes into `arrays` as .npy and leaves its shape there."""
    if not (isinstance(value, dict) and set(value) == {"dtype", "shape", "data"}):
        return value
    dtype, shape, data = value["dtype"], value["shape"], value["data"]
    if _DTYPE.fullmatch(str(dtype)) is None or math.prod(shape) * int(dtype[-1]) != len(data):
        return {"unreadable": str(dtype)[:20]}
    arrays[name] = _npy(dtype, shape, data)
    return {"array": name, "dtype": dtype, "shape": shape}


def _npy(dtype: str, shape: list[int], data: bytes) -> bytes:
    """Return a .npy file, format 1.0: edgectl does not load numpy for this."""
    dimensions = ", ".join(str(int(n)) for n in shape) + ("," if len(shape) == 1 else "")
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({dimensions}), }}"
    head += " " * (-(10 + len(head) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode("latin-1") + data


def _json(document: Document) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _write(path: Path, data: bytes) -> Path:
    write_private(path, data)
    return path
