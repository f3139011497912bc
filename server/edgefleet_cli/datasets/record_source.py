"""Captured records of a model from the server, opened here with the tenant's private key, and the ground truth that is known of them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from edgefleet_cli.core import api
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.datasets.bundle_facts import fetch_facts
from edgefleet_cli.datasets.model import NO_CLASS, DataSetError, Record, ReleaseFacts
from edgefleet_cli.datasets.samples import Labels
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.feedback_csv import read_rows
from edgefleet_protocol.hpke import SealedError, key_id, public_of

_RECORD = re.compile(r"[0-9a-z]{1,32}")
_DEVICE = re.compile(r"[a-z0-9-]{1,63}")
REASONS: Final = frozenset({"random", "low_confidence", "drift", "disagreement", "flag"})
MOST_TEXT: Final = 128


@dataclass(frozen=True)
class Wanted:
    """Which records. run: those of a retraining, "" for any; devices: () for every device that runs the model."""

    model: str
    run: str = ""
    devices: Sequence[str] = ()
    since: datetime | None = None
    reasons: Sequence[str] = ()


@dataclass
class Opened:
    """Records that were opened. other_key: how many are sealed to another key, as before it was replaced."""

    records: list[Record] = field(default_factory=list)
    labels: dict[tuple[str, str], str] = field(default_factory=dict)
    other_key: int = 0


def listed(client: ApiClient, wanted: Wanted) -> list[tuple[str, dict[str, Any]]]:
    """Return (place, record) of each captured record that is wanted, as the server lists them. Raises ApiError."""
    if wanted.run:
        base = f"/retrainings/{part(wanted.run)}/captures"
        found = [(base, one.raw) for one in client.each(base, api.capture.Capture)]
    else:
        devices = wanted.devices or [
            one.value.id
            for one in client.pages("/devices", api.device.Device, selector=f"model.{wanted.model}").replies
        ]
        found = []
        for device in devices:
            base = f"/devices/{part(device)}/captures"
            found += [(base, one.raw) for one in client.each(base, api.capture.Capture)]
    return [(base, one) for base, one in found if _is_wanted(one, wanted)]


def opened(
    client: ApiClient, found: Sequence[tuple[str, dict[str, Any]]], private_key: bytes, advance: Callable[[int], None]
) -> Opened:
    """Read and open records. Raises ApiError, BundleError, DataSetError for a record that is not what it says, SealedError for none."""
    own_key = key_id(public_of(private_key))
    facts: dict[str, ReleaseFacts] = {}
    result = Opened()
    for base, about in found:
        advance(1)
        _note_label(about, result.labels)
        if str(about.get("key", own_key)) != own_key:
            result.other_key += 1
            continue
        raw = (
            about
            if about.get("sealed")
            else client.get(f"{base}/{part(str(about['id']))}", api.capture.SealedCapture).raw
        )
        sha256 = str(raw.get("sha256"))
        if sha256 not in facts:
            facts[sha256] = fetch_facts(client, str(raw.get("model")), sha256)
        result.records.append(open_one(raw, private_key, facts[sha256]))
    if found and not result.records:
        raise SealedError(
            f"none of {len(found)} records opens with this key: they are for another one",
            next_step="give the private key of `edgectl capture-key show`, or the one before it",
        )
    return result


def open_one(raw: dict[str, Any], private_key: bytes, facts: ReleaseFacts) -> Record:
    """Return one record of the API's answer. Raises SealedError, DataSetError."""
    from edgefleet_cli.device.captures.capture_files import open_record

    record, device = str(raw.get("id")), str(raw.get("device"))
    if _RECORD.fullmatch(record) is None or _DEVICE.fullmatch(device) is None:
        raise DataSetError(
            f"{record[:40]!r} of {device[:40]!r} is not the name of a record",
            why="the server sent it",
            next_step="check the server",
        )
    plain = open_record(base64.b64decode(str(raw.get("sealed"))), raw, private_key)
    answer, seen, reason = plain.get("label"), plain.get("seen"), str(plain.get("reason"))
    fields, outputs = plain.get("fields"), plain.get("outputs")
    return Record(
        id=record,
        device=device,
        trace_id=str(plain.get("trace_id") or "")[:MOST_TEXT],
        reason=reason if reason in REASONS else "other",
        seen=seen if type(seen) is int and seen > 0 else 1,
        taken_at=str(raw.get("taken_at") or ""),
        answer=answer if type(answer) is int and answer >= 0 else NO_CLASS,
        fields=fields if isinstance(fields, dict) else {},
        outputs=outputs if isinstance(outputs, dict) else {},
        facts=facts,
    )


def labels_of(text: str) -> dict[tuple[str, str], str]:
    """Return ground truth by device and trace id of a CSV file (docs/how-to/send-ground-truth.md). Raises DataSetError."""
    found: dict[tuple[str, str], str] = {}
    try:
        for row in read_rows(text):
            if row.error:
                raise DataSetError(
                    f"line {row.line} of the labels: {row.error}", next_step="correct the line; nothing was written"
                )
            trace = str(row.item.get("trace_id") or row.item.get("key") or "")
            label = row.item.get("label", row.item.get("value"))
            if trace and label is not None:
                found[str(row.item.get("device") or ""), trace] = str(label)
    except DataSetError:
        raise
    except EdgefleetError as error:
        raise DataSetError("the labels cannot be read", why=error.message, next_step=error.next_step) from error
    return found


def together(first: Labels, second: Labels) -> Labels:
    """Return the labels of both; where both have one, the second's."""
    return {**first, **second}


def _is_wanted(about: dict[str, Any], wanted: Wanted) -> bool:
    if about.get("model") != wanted.model or (wanted.reasons and about.get("reason") not in wanted.reasons):
        return False
    return wanted.since is None or datetime.fromisoformat(str(about.get("taken_at"))) >= wanted.since


def _note_label(about: dict[str, Any], labels: dict[tuple[str, str], str]) -> None:
    truth = about.get("ground_truth")
    if isinstance(truth, str) and truth:
        labels[str(about.get("device")), str(about.get("trace_id"))] = truth
