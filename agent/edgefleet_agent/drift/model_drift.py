"""What is known of the drift of one version of a model: its reference, a watch for each signal, and the open block. Pure.

1. A block is five minutes by the clock (`detector.BLOCK_S`). What a worker tells counts in the block in which it was told; agentd asks
   just before a block ends.
2. A block without answers is none: nothing is learned of it, and no drift ends by it.
3. A worker that counts by other bins than before begins again; the same reference, told by the next worker, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from edgefleet_agent.worker.control.protocol import LEARN_FROM
from edgefleet_protocol.drift.detector import BLOCK_S, Change, SignalWatch, step, watches_of
from edgefleet_protocol.drift.histogram import SignalSums, merged_windows
from edgefleet_protocol.drift.reference import Reference, SignalKind, basis_of

MAX_TOLD: Final = 16
"""Drifts of one block that are told one by one; where more signals moved at once, these moved most."""


class ModelDrift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one digest; kept as it is in a state file. n, source: of the reference. slot: the number of the open block, -1 = none.

    block, classes: what was counted in it.
    """

    model: str
    sha256: str
    version: str
    basis: bytes = b""
    source: str = ""
    n: int = 0
    watches: list[SignalWatch] = []
    slot: int = -1
    block: list[SignalSums] = []
    classes: list[int] = []
    v: int = 1

    @property
    def is_drifting(self) -> bool:
        """Whether any signal drifts."""
        return any(watch.is_drifting for watch in self.watches)


def following(known: ModelDrift, reference: Reference) -> ModelDrift:
    """Return the state of a version whose worker counts by a reference."""
    basis = basis_of(reference)
    if basis == known.basis and [one.signal for one in known.watches] == [one.signal for one in watches_of(reference)]:
        return known
    begun = ModelDrift(model=known.model, sha256=known.sha256, version=known.version)
    return replace(begun, basis=basis, source=reference.source, n=reference.n, watches=watches_of(reference))


def noted(
    known: ModelDrift, basis: bytes, signals: Sequence[SignalSums], classes: Sequence[int], at_s: float
) -> tuple[ModelDrift, list[Change]]:
    """Return the state after a worker told what it counted, and what changed because a block was over. signals: of that basis."""
    known, changes = closed(known, at_s)
    if not known.watches or not (signals or any(classes)):
        return known, changes
    block = known.block
    if signals and basis == known.basis and len(signals) in (len(known.watches), len(known.watches) - 1):
        block = merged_windows([block, signals]) if block else list(signals)
    longest = max(len(known.classes), len(classes))
    sums = [sum(one[i] for one in (known.classes, classes) if i < len(one)) for i in range(longest)]
    return replace(known, slot=_slot(at_s), block=block, classes=sums), changes


def closed(known: ModelDrift, at_s: float) -> tuple[ModelDrift, list[Change]]:
    """Return the state with the open block judged if its time is over at `at_s` (unix seconds), and what changed by it."""
    if known.slot in (-1, _slot(at_s)):
        return known, []
    sums = list(known.block)
    if len(sums) < len(known.watches) and known.watches[-1].signal.kind == SignalKind.CLASSES:
        sums = [*sums, SignalSums(tuple(known.classes) or (0,))] if sums else sums
    changes: list[Change] = []
    watches = list(known.watches)
    for at, one in enumerate(sums):
        watches[at], found = step(watches[at], one, float((known.slot + 1) * BLOCK_S))
        changes += found
    return replace(known, watches=watches, slot=-1, block=[], classes=[]), changes


def told(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that are told: all ends, and of what began the MAX_TOLD that moved most."""
    begun = sorted((one for one in changes if not one.is_over), key=lambda one: -one.verdict.psi)
    return [*(one for one in changes if one.is_over), *begun[:MAX_TOLD]]


def detail_of(known: ModelDrift, change: Change) -> dict[str, Any]:
    """Return what an event says of a change."""
    return {
        "lane": "active",
        "version": known.version,
        "signal": change.name,
        "kind": change.kind,
        "scale": change.scale,
        "cause": change.verdict.cause,
        "psi": round(change.verdict.psi, 4),
        "shift_z": round(change.shift_z, 3),
        "n": change.verdict.n,
        "since": int(change.since),
    }


def reason_of(change: Change) -> str:
    """Return a change in words."""
    if change.is_over:
        return f"{change.name} is as usual again"
    verdict = change.verdict
    moved = {"missing": "more of its values are missing", "range": "more of its values are beyond its range"}
    if verdict.cause in moved:
        return f"{change.name}: {moved[verdict.cause]} than in the reference, of {verdict.n} in {change.scale}"
    shift = f", its mean moved by {change.shift_z:+.2f} standard deviations" if change.shift_z else ""
    return f"{change.name} differs from its reference: PSI {verdict.psi:.2f} over {change.scale}{shift}"


def drifting(known: ModelDrift) -> list[dict[str, Any]]:
    """Return the signals that drift, with the longest scale at which they do."""
    found = []
    for watch in known.watches:
        for scale, one in reversed(watch.scales.items()):
            if one.since > 0:
                psi = round(one.last.psi, 4) if one.last is not None else 0.0
                found.append(
                    {
                        "signal": watch.signal.name,
                        "kind": watch.signal.kind,
                        "scale": scale,
                        "psi": psi,
                        "since": int(one.since),
                    }
                )
                break
    return found


def summary(known: ModelDrift, learning: int) -> Mapping[str, Any]:
    """Return what `edge-agent status` shows. learning: answers of which a reference is being learned."""
    words = [
        one.last.verdict for watch in known.watches for name, one in watch.scales.items() if name == "5m" and one.last
    ]
    return {
        "version": known.version,
        "reference": known.source or ("learning" if learning else "none"),
        "n": known.n or learning,
        "wanted": 0 if known.n else LEARN_FROM,
        "basis": known.basis.hex(),
        "signals": len(known.watches),
        "judged": sum(word not in ("learning", "too_few") for word in words),
        "drifting": drifting(known),
    }


def _slot(at_s: float) -> int:
    return int(at_s // BLOCK_S)
