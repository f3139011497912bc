"""Which answers are worth keeping, what of them may be kept, and sealing that (ADR 0030, 0031). Nothing plain leaves this process.

1. Reasons: `random` (a share of all), `low_confidence`, `drift` (a greater share while signals drift), `disagreement` (`keep`, called by
   a shadow), `flag` (asked for by name). One answer is kept for one reason, the rarest that fits.
2. A reservoir a reason and class: of all answers of one window each has the same chance to be among the PER_STRATUM kept, and a
   record says how many it stands for (`seen`). A window begins with the first of them and lasts `window_s`.
3. At the end of a window the privacy policy of the bundle is applied, the rest is compressed and sealed to the tenant's key. The
   inputs themselves are held for one window at most, HELD_BYTES of them; the last RECENT answers a little longer, for `flag`.
4. `answered`, `keep` and `flag` may be called from any thread; `end_window` is called in the event loop.
"""

import logging
import random
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.worker.control.protocol import Captured, SetCapture
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_protocol.messages import CaptureReason
from edgefleet_runtime import privacy
from edgefleet_runtime.port import Array

PER_STRATUM = 2
MAX_STRATA = 64
HELD_BYTES = 8 * 1024 * 1024
RECENT = 16
RECENT_BYTES = 4 * 1024 * 1024
MAX_RECORD_BYTES = 100 * 1024
DRIFT_RATIO = 0.05
"""Share of answers that take part while signals drift. What is kept of them stays bounded by PER_STRATUM and the day's bytes."""
_RECORD_ID_BYTES = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """One answer in memory. size_bytes: of its inputs."""

    trace_id: str
    taken_ms: int
    label: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Any]
    size_bytes: int
    note: str = ""


class Reservoir:
    """Uniform samples of a stream, K of each stratum (Vitter's algorithm R). chance: the source of random numbers."""

    def __init__(self, chance: random.Random, per_stratum: int = PER_STRATUM) -> None:
        self._chance = chance
        self._per_stratum = per_stratum
        self._strata: dict[tuple[str, int], tuple[int, list[Held]]] = {}
        self._bytes = 0

    def offer(self, reason: str, held: Held) -> None:
        """Let one answer take part."""
        key = (reason, held.label)
        if key not in self._strata and len(self._strata) >= MAX_STRATA:
            key = (reason, -1)  # too many classes in one window share a stratum
        seen, kept = self._strata.get(key, (0, []))
        seen += 1
        place = len(kept) if len(kept) < self._per_stratum else self._chance.randrange(seen)
        size = self._bytes + held.size_bytes - sum(old.size_bytes for old in kept[place : place + 1])
        if place < self._per_stratum and size <= HELD_BYTES:
            self._bytes = size
            kept[place : place + 1] = [held]
        self._strata[key] = (seen, kept)

    def take(self) -> list[tuple[str, int, Held]]:
        """Return (reason, how many it stands for, answer) of this window and begin the next."""
        found = [
            (reason, max(1, round(seen / len(kept))), held)
            for (reason, _), (seen, kept) in self._strata.items()
            for held in kept
        ]
        self._strata, self._bytes = {}, 0
        return found


class Capture:
    """The capture of one worker, in force while it has a key."""

    def __init__(self, served: ServedModel, rules: SetCapture, *, chance: random.Random | None = None) -> None:
        """Name the model and the rules. Raises SealedError for a key that is none."""
        # imported here: a worker that captures nothing does not carry it
        from edgefleet_protocol import hpke

        self._served = served
        self._rules = rules
        self._about: Callable[[str, str, str], bytes] = hpke.about_record
        self._seal: Callable[[bytes, bytes, bytes], bytes] = hpke.seal
        self._key_id = hpke.key_id(rules.key)
        self._seal(rules.key, b"", b"")  # a bad key is reported now and not at the first record
        self._chance = chance or random.SystemRandom()
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._reservoir = Reservoir(self._chance)
        self._recent: OrderedDict[str, Held] = OrderedDict()
        self._recent_bytes = 0
        self._window_began_s: float | None = None
        self.is_drifting = False
        self.too_big = 0

    # ---- from any thread

    def answered(
        self,
        trace_id: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        classes: Sequence[int],
        *,
        at_s: float,
    ) -> bool:
        """Look at one answer; True when it takes part in this window's sampling. at_s: when it was given, `time.perf_counter`."""
        label = classes[0] if classes else -1
        taken_ms = self._now_ms() - int((time.perf_counter() - at_s) * 1e3)
        held = Held(trace_id, taken_ms, label, inputs, outputs, _size(inputs))
        reason = self._reason(outputs)
        with self._lock:
            self._remember(held)
            if reason:
                self._offer(reason, held)
        return bool(reason)

    def keep(
        self, reason: str, inputs: Mapping[str, Array], outputs: Mapping[str, Any], *, difference: float = 0.0
    ) -> None:
        """Offer an answer by hand: a disagreement of a shadow. outputs: arrays, or answers by version."""
        note = f"difference {difference:g}" if difference else ""
        held = Held(secrets.token_hex(_RECORD_ID_BYTES), self._now_ms(), -1, inputs, outputs, _size(inputs), note)
        with self._lock:
            self._offer(reason, held)

    def flag(self, trace_id: str) -> bool:
        """Keep an answer that was given a moment ago; False when it is not remembered any more."""
        with self._lock:
            held = self._recent.get(trace_id)
            if held is not None:
                self._offer(CaptureReason.FLAG, held)
        return held is not None

    def _offer(self, reason: str, held: Held) -> None:
        if self._window_began_s is None:
            self._window_began_s = time.monotonic()
        self._reservoir.offer(reason, held)

    def _reason(self, outputs: Mapping[str, Array]) -> str:
        limit = self._served.privacy.low_confidence
        if limit > 0.0:
            confidence = self._served.postprocess.confidence(outputs)
            if confidence is not None and confidence < limit:
                return CaptureReason.LOW_CONFIDENCE
        drawn = self._chance.random()
        if drawn < self._rules.random_ratio:
            return CaptureReason.RANDOM
        return CaptureReason.DRIFT if self.is_drifting and drawn < self._rules.random_ratio + DRIFT_RATIO else ""

    def _remember(self, held: Held) -> None:
        if held.size_bytes > RECENT_BYTES // 4:
            return
        before = self._recent.pop(held.trace_id, None)  # a caller chooses its trace ids, and may repeat one
        self._recent_bytes += held.size_bytes - (before.size_bytes if before is not None else 0)
        self._recent[held.trace_id] = held
        while len(self._recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.size_bytes

    # ---- in the event loop

    @property
    def left_s(self) -> float | None:
        """Seconds until the window ends; None while it is empty."""
        began = self._window_began_s
        return None if began is None else max(0.0, began + self._rules.window_s - time.monotonic())

    def end_window(self) -> list[Captured]:
        """Return the sealed records of the window so far, and begin another."""
        with self._lock:
            taken = self._reservoir.take()
            self._window_began_s = None
        records = (self._record(reason, seen, held) for reason, seen, held in taken)
        return [record for record in records if record is not None]

    def _record(self, reason: str, seen: int, held: Held) -> Captured | None:
        served = self._served
        start, policy = served.start, served.privacy
        fields, dropped = privacy.apply(policy, served.preprocess, served.runtime.inputs, held.inputs, self._rules.salt)
        plain = {
            "v": 1,
            "device": self._rules.device,
            "model": start.model,
            "version": start.version,
            "sha256": start.digest,
            "lane": start.lane,
            "trace_id": held.trace_id,
            "taken_ms": held.taken_ms,
            "reason": reason,
            "note": held.note,
            "label": held.label,
            "seen": seen,
            "fields": fields,
            "dropped": dropped,
            "outputs": {name: _plain(value) for name, value in held.outputs.items()} if policy.outputs else {},
        }
        packed = zlib.compress(msgspec.msgpack.encode(plain))
        if len(packed) > MAX_RECORD_BYTES:
            self.too_big += 1
            log.warning("record not kept: %d bytes; downscale or crop it in privacy.json", len(packed))
            return None
        record = secrets.token_hex(_RECORD_ID_BYTES)
        return Captured(
            record=record,
            reason=reason,
            label=held.label,
            trace_id=held.trace_id,
            taken_ms=held.taken_ms,
            seen=seen,
            key=self._key_id,
            sealed=self._seal(self._rules.key, packed, self._about(self._rules.device, record, start.digest)),
        )

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)


def _size(inputs: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in inputs.values())


def _plain(value: Any) -> Any:
    """Return an output as it goes into a record: arrays of numbers as tensors, answers as they are."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return value
    return privacy.tensor(value) if dtype.kind in "biuf" else value.tolist()
