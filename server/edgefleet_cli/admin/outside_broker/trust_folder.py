"""The files of a broker on its own machine: what lies there, and how it is replaced.

A file is written next to the one in force, read back, and renamed. The list comes before the CAs: a CA without a list shuts out its
devices, a list without its CA does nothing. What the broker has still to read is noted until its command succeeds, over a power cut too.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgefleet_cli.admin.outside_broker.errors import BrokerTrustError
from edgefleet_cli.admin.outside_broker.trust_rules import BrokerTrust, fingerprint, read_cas, read_trust
from edgefleet_cli.core.errors import BadAnswerError, UnreadableFileError
from edgefleet_cli.core.files import whole_file, write_whole
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import struct_of

CRL_NAME = "crl.pem"
CAS_NAME = "trusted-cas.pem"
NOTES_NAME = "broker-trust.json"
_READABLE = 0o644  # both files are public, and the broker runs as a user of its own


class Notes(Struct, frozen=True):
    """What is remembered from run to run. tag: of what was fetched; files: SHA-256 of the files that it belongs to.

    due: what the broker has not done yet: "reload", "restart" or "".
    """

    tag: str = ""
    files: str = ""
    due: str = ""


@dataclass(frozen=True)
class Standing:
    """What lies in the folder. trust: None while it is incomplete or broken. known: fingerprints of the CAs. tag: "" = ask for all."""

    trust: BrokerTrust | None
    known: frozenset[str]
    tag: str
    due: str


def standing_of(folder: Path) -> Standing:
    """Return what lies there. Raises UnreadableFileError, and BrokerTrustError for CAs that cannot be read: then nobody is known."""
    crl, cas, notes = _read(folder / CRL_NAME), _read(folder / CAS_NAME), _notes(folder)
    known: frozenset[str] = frozenset()
    if cas is not None:
        try:
            known = frozenset(fingerprint(one) for one in read_cas(cas))
        except BrokerTrustError as error:
            raise BrokerTrustError(
                f"{folder / CAS_NAME} is broken",
                why=error.why,
                next_step="remove it, and run once more with --ca-sha256, the fingerprint that `edgectl key trust` shows",
            ) from error
    trust = None
    if crl is not None and cas is not None:
        try:
            trust = read_trust(crl, cas)
        except BrokerTrustError:
            trust = None  # a list that is broken already is replaced by any good one
    is_noted = notes.files == _digest(crl, cas)
    if trust is None or not is_noted:  # cut off, or written by somebody else: the broker may not have read it
        return Standing(trust, known, "", notes.due or ("reload" if notes.files else ""))
    return Standing(trust, known, notes.tag, notes.due)


def put(folder: Path, new: BrokerTrust, tag: str, due: str) -> None:
    """Replace both files, and note what the broker has to do, first of all in case this is cut off. Raises UnreadableFileError."""
    _write_notes(folder, Notes(due=due))
    _replace(folder / CRL_NAME, new.crl)
    _replace(folder / CAS_NAME, new.cas)
    note(folder, tag, due)


def note(folder: Path, tag: str, due: str) -> None:
    """Note the tag of what lies there, and what the broker has still to do. Raises UnreadableFileError."""
    files = _digest(_read(folder / CRL_NAME), _read(folder / CAS_NAME))
    _write_notes(folder, Notes(tag, files, due))


def _write_notes(folder: Path, notes: Notes) -> None:
    text = json.dumps({"tag": notes.tag, "files": notes.files, "due": notes.due}) + "\n"
    write_whole(folder / NOTES_NAME, text.encode())


def _replace(path: Path, data: bytes) -> None:
    with whole_file(path, "--out", replace=True) as sink:
        os.fchmod(sink.fileno(), _READABLE)
        sink.write(data)
        sink.flush()
        if Path(sink.name).read_bytes() != data:
            raise OSError("the disk gives back other bytes than were written")


def _digest(crl: bytes | None, cas: bytes | None) -> str:
    return sha256((crl or b"") + b"\0" + (cas or b"")).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {path}", why=error.strerror or str(error), next_step="check the folder and its permissions"
        ) from error


def _notes(folder: Path) -> Notes:
    try:
        return struct_of(json.loads((folder / NOTES_NAME).read_text("utf-8")), Notes)
    except (OSError, ValueError, BadAnswerError):
        return Notes()
