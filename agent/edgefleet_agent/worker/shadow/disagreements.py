"""The inputs on which old and new disagree most: the `TOP` worst of one candidate, in one file, replaced whole.

1. Kept by difference, so that the file is bounded whatever the traffic; a new candidate begins a new file.
2. Raw inputs are in it only when the device's settings say so (`shadow_keep_inputs`); by default a record holds the answers of both
   versions and a salted hash of the input, which tells equal inputs apart and nothing else.
3. Written at most every SAVE_EVERY_S while something changed, and at the end: flash wears.
"""

import hashlib
import heapq
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import write_file
from edgefleet_runtime.port import Array
from edgefleet_runtime.postprocess import jsonable

TOP = 16
SAVE_EVERY_S = 10.0
MAX_INPUT_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 16 * 1024

_log = logging.getLogger(__name__)


class Keep(Protocol):
    """What a capture offers. reason: why this one is worth keeping. inputs: as the model got them. outputs: answers by version."""

    def __call__(
        self, reason: str, inputs: Mapping[str, Array], outputs: Mapping[str, Any], *, difference: float
    ) -> None:
        """Keep it, or not, as the policy says."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One disagreement. at_s: unix seconds. inputs: only where the device may keep them, else empty."""

    difference: float
    at_s: int
    reason: str
    input_hash: str
    answers: dict[str, Any]
    inputs: dict[str, Any] = {}


class KeptFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file: worst first."""

    v: int = 1
    model: str
    active_sha256: str
    candidate_sha256: str
    kept: list[Kept]


class Worst:
    """A small capture: the worst disagreements of one pair of versions. Used from one thread."""

    def __init__(self, path: Path | None, model: str, candidate_sha256: str, *, keep_inputs: bool) -> None:
        self._path = path
        self._model = model
        self._candidate = candidate_sha256
        self._keep_inputs = keep_inputs
        self._active = ""
        self._clock = SystemClock()
        self._salt = os.urandom(16)
        self._heap: list[tuple[float, int, Kept]] = []
        self._count = 0
        self._saved_s = self._clock.monotonic_s()
        self._is_dirty = False

    def against(self, active_sha256: str) -> None:
        """Begin again when another version serves; go on with what an earlier worker kept of the same pair."""
        if active_sha256 == self._active:
            return
        self._active = active_sha256
        known = read_kept(self._path) if self._path is not None else None
        same = known is not None and (known.active_sha256, known.candidate_sha256) == (active_sha256, self._candidate)
        kept = known.kept[:TOP] if known is not None and same else []
        self._heap = [(one.difference, -index, one) for index, one in enumerate(kept)]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def is_worth(self, difference: float) -> bool:
        """Say whether a sample of this difference would be kept: so that nothing is prepared for one that is not."""
        return difference > 0 and (len(self._heap) < TOP or difference > self._heap[0][0])

    def __call__(
        self, reason: str, inputs: Mapping[str, Array], outputs: Mapping[str, Any], *, difference: float
    ) -> None:
        """Keep a disagreement if it is among the worst."""
        if not self.is_worth(difference):
            return
        self._count += 1
        one = Kept(
            difference=round(difference, 6),
            at_s=int(self._clock.now().timestamp()),
            reason=reason,
            input_hash=self._hash(inputs),
            answers={name: _bounded(answer) for name, answer in outputs.items()},
            inputs=self._plain(inputs) if self._keep_inputs else {},
        )
        entry = (difference, self._count, one)
        if len(self._heap) < TOP:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)
        self._is_dirty = True
        if self._clock.monotonic_s() - self._saved_s >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the file if something changed. A full disk is logged and leaves the old file."""
        if self._path is None or not self._is_dirty:
            return
        self._saved_s, self._is_dirty = self._clock.monotonic_s(), False
        kept = [one for _, _, one in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]
        content = KeptFile(model=self._model, active_sha256=self._active, candidate_sha256=self._candidate, kept=kept)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self._path, msgspec.msgpack.encode(content), durable=False)
        except OSError as error:
            _log.warning("disagreements cannot be kept: %s", error)

    def _hash(self, inputs: Mapping[str, Array]) -> str:
        digest = hashlib.sha256(self._salt)
        for name, array in inputs.items():
            digest.update(name.encode())
            digest.update(array.tobytes() if array.dtype.kind not in "OSU" else repr(array.tolist()).encode())
        return digest.hexdigest()[:16]

    @staticmethod
    def _plain(inputs: Mapping[str, Array]) -> dict[str, Any]:
        return {name: jsonable(array) for name, array in inputs.items() if array.nbytes <= MAX_INPUT_BYTES}


def read_kept(path: Path) -> KeptFile | None:
    """Return what is kept; None when there is nothing, or nothing readable."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=KeptFile)
    except (OSError, msgspec.MsgspecError):
        return None


def _bounded(answer: Any) -> Any:
    size = len(msgspec.msgpack.encode(answer))
    return answer if size <= MAX_ANSWER_BYTES else f"{size} bytes, too large to keep"
