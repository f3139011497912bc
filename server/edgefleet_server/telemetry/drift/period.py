"""What devices counted of a release in a period, and how that went on: read from the steps of a scale."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec
from sqlmodel import Session

from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, unpack
from edgefleet_protocol.drift.reference import Reference
from edgefleet_server.telemetry import store as window_store
from edgefleet_server.telemetry.drift.cluster_test import mean_shares
from edgefleet_server.telemetry.drift.model import Heard, Member, SignalSpec
from edgefleet_server.telemetry.drift.rules import expected_shares, psi_of, shares_of
from edgefleet_server.telemetry.drift.specs import CLASSES, folded_classes
from edgefleet_server.telemetry.signals import store
from edgefleet_server.telemetry.signals.model import Scale

MOST_WINDOWS: Final = 100_000
HISTORY: Final = 24
MOST_STEPS: Final = 168
HISTORY_DEVICES: Final = 20
LEAST_IN_STEP: Final = 30


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read: bundles that count by one basis, on these devices."""

    digests: Sequence[str]
    basis: str
    scale: Scale
    members: Mapping[str, Member]


def drawn(devices: Iterable[str], most: int) -> list[str]:
    """Return at most so many devices, always the same ones of the same fleet."""
    return sorted(sorted(devices, key=lambda one: sha256(one.encode()).digest())[:most])


def counted(session: Session, wanted: Wanted, since: datetime, until: datetime) -> dict[str, list[SignalSums]]:
    """Return the signals of each device in steps that began in a span of time."""
    parts: dict[str, list[list[SignalSums]]] = {}
    rows = store.buckets_of(
        session, wanted.digests, wanted.basis, wanted.scale.seconds, since, until, list(wanted.members)
    )
    for device, _, _, signals in rows:
        parts.setdefault(device, []).append(unpack(signals))
    return {device: merged_windows(windows) for device, windows in parts.items()}


def classes(
    session: Session, wanted: Wanted, reference: Reference, since: datetime, until: datetime
) -> dict[str, SignalSums]:
    """Return the answered classes of each device in a span of time, in the bins in which they are judged."""
    if not any(reference.classes):
        return {}
    found: dict[str, list[int]] = {}
    rows = window_store.classes_of_devices(session, wanted.digests, list(wanted.members), since, until, MOST_WINDOWS)
    for device, packed in rows:
        counts = folded_classes(msgspec.msgpack.decode(packed, type=list[int]), reference.classes)
        known = found.get(device)
        found[device] = counts if known is None else [a + b for a, b in zip(known, counts, strict=True)]
    return {device: SignalSums(tuple(max(0, one) for one in counts)) for device, counts in found.items()}


def heard_of(
    specs: Sequence[SignalSpec],
    members: Mapping[str, Member],
    sums: Mapping[str, Sequence[SignalSums]],
    answered: Mapping[str, SignalSums],
) -> list[list[Heard]]:
    """Return what was heard of each signal. Devices whose counts do not have the bins of the reference are left out."""
    found = []
    for number, spec in enumerate(specs):
        heard = []
        for device, member in members.items():
            if spec.name == CLASSES and spec.kind == CLASSES:
                one = answered.get(device)
            else:
                own = sums.get(device, ())
                one = own[number] if number < len(own) else None
            if one is not None and len(one.bins) == spec.bins:
                heard.append(Heard(member, one))
        found.append(heard)
    return found


def history(
    session: Session, wanted: Wanted, specs: Sequence[SignalSpec], newest: datetime
) -> list[list[float | None]]:
    """Return the effect (PSI) of each signal in the last HISTORY steps, oldest first: of the mean over some devices."""
    begins = [newest - wanted.scale.length * back for back in reversed(range(HISTORY))]
    few = drawn(wanted.members, HISTORY_DEVICES)
    by_step: dict[datetime, list[list[SignalSums]]] = defaultdict(list)
    rows = store.buckets_of(
        session, wanted.digests, wanted.basis, wanted.scale.seconds, begins[0], newest + wanted.scale.length, few
    )
    for _, at, _, signals in rows:
        by_step[at].append(unpack(signals))
    return [
        [_effect(spec, [own[number] for own in by_step.get(at, ()) if number < len(own)]) for at in begins]
        for number, spec in enumerate(specs)
    ]


def own_steps(session: Session, wanted: Wanted, last: datetime) -> dict[str, list[list[SignalSums]]]:
    """Return the signals of each device step by step up to the one that began at `last`, oldest first, at most MOST_STEPS of each."""
    found: dict[str, list[list[SignalSums]]] = {}
    since = last - wanted.scale.length * MOST_STEPS
    rows = store.buckets_of(
        session,
        wanted.digests,
        wanted.basis,
        wanted.scale.seconds,
        since,
        last + wanted.scale.length,
        list(wanted.members),
    )
    for device, _, _, signals in rows:
        found.setdefault(device, []).append(unpack(signals))
    return found


def _effect(spec: SignalSpec, sums: Sequence[SignalSums]) -> float | None:
    some = [one for one in sums if one.n + one.missing >= LEAST_IN_STEP and len(one.bins) == spec.bins]
    if not some or spec.kind == CLASSES:
        return None
    n = sum(one.n + one.missing for one in some)
    shares = mean_shares([shares_of(Heard(_NOBODY, one)) for one in some])
    return round(max(0.0, psi_of(shares, expected_shares(spec), n) - (len(shares) - 1) / n), 4)


_NOBODY: Final = Member("", "")
