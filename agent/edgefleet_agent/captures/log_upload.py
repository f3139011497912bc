"""The kept prediction logs of all models: who keeps one, what workers tell for it, what is sent of it (ADR 0105).

1. A log is kept while the verified document asks for it and the owner lets answers leave (`prediction_upload_bytes` above 0). It is
   sealed where the tenant has a key or the device pins one; a key other than the pinned one keeps no log.
2. A worker numbers its answers before they are given and counts them in a file of its own: what it had not told when it died is a gap.
3. Parts are closed when they are full or `prediction_part_s` old, and sent one by one, oldest first, until the server has them.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from edgefleet_agent.captures.log_parts import LogParts, kept_folders
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.records import DesiredOk, LogRules
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.protocol import Logged, LogRequest, SetLog
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import Sample
from edgefleet_protocol.prediction_parts import REASON, Release

LOOK_S = 1.0

log = logging.getLogger(__name__)


@dataclass
class _Told:
    """A worker that may number answers. n: so many it has told of."""

    worker: Worker
    n: int = 0


@dataclass
class _Kept:
    """The log of one model. since_s: when the first row of the open part came."""

    parts: LogParts
    since_s: float | None = None
    on_the_way: set[int] = field(default_factory=set)


class PredictionUpload:
    """All logs of a device. Only in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        settings: AgentSettings,
        paths: StatePaths,
        device: str,
        forget: Callable[[Collection[str]], None],
        closed: Callable[[], None],
    ) -> None:
        """Go on with the logs that are here. forget: removes captured records of these traces. closed: a part was, and waits."""
        folder, counts = paths.prediction_parts, paths.run / "counts"
        self._loop = loop
        self._clock = clock
        self._settings = settings
        self._folder = folder
        self._counts = counts
        self._device = device
        self._rules: Mapping[str, LogRules] = {}
        self._order = SetLog()
        self._told: dict[int, _Told] = {}
        self._erased: dict[str, dict[bytes, int]] = {}
        self._forget = forget
        self._part_closed = closed
        self._logs = {model: _Kept(LogParts(folder / model, device, model)) for model in kept_folders(folder)}
        self._is_looking = False
        for path in counts.glob("*.count"):  # of a run that was killed: what it had not written is a gap by then
            path.unlink(missing_ok=True)

    # ---- from the document

    def follow(self, desired: DesiredOk, salt: Callable[[], bytes]) -> SetLog | None:
        """Follow a verified document; return what workers must hear, if that has changed. salt: of hashed fields.

        Raises OSError, ValueError for a pinned key that is none.
        """
        settings = self._settings
        pinned = settings.capture_key.lower()
        key = desired.capture_key or pinned
        self._erase(desired.prediction_logs)
        rules = {model: one for model, one in desired.prediction_logs.items() if one.ratio > 0.0}
        if settings.prediction_upload_bytes <= 0:
            rules = {}
        if rules and pinned and key != pinned:
            log.warning("no prediction log: the document names another key than the device pins")
            rules = {}
        for model, kept in self._logs.items():
            if kept.parts.is_open and kept.parts.ratio != (rules[model].ratio if model in rules else -1.0):
                self._close(kept)
        may_inputs = settings.capture_consent and bool(key)
        order = SetLog()
        if rules:
            self._counts.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted = {
                model: LogRequest(one.subject_key, inputs=one.inputs and may_inputs) for model, one in rules.items()
            }
            hashes = salt() if any(one.inputs for one in wanted.values()) else b""
            order = SetLog(wanted, bytes.fromhex(key), hashes, self._device, str(self._counts))
        self._rules = rules
        if order == self._order:
            return None
        self._order = order
        for told in self._told.values():
            self._begin(told.worker)
        self._look_later()
        log.info("prediction logs", extra={"models": sorted(rules)})
        return order

    # ---- from workers

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer: tell it what to keep."""
        self._told[worker.pid] = _Told(worker)
        if self._order.models:
            self._begin(worker)
            worker.send(self._order)
        self._look_later()

    def _begin(self, worker: Worker) -> None:
        """Before a worker numbers its first answer, its log reserves numbers."""
        if worker.model in self._order.models:
            self._log_of(worker.model).parts.begin()

    def _log_of(self, model: str) -> _Kept:
        kept = self._logs.get(model)
        if kept is None:
            kept = self._logs[model] = _Kept(LogParts(self._folder / model, self._device, model))
        return kept

    def hear(self, worker: Worker, message: Logged) -> None:
        """Take answers of a worker."""
        told = self._told.setdefault(worker.pid, _Told(worker))
        lost = message.first - told.n - 1
        told.n = message.first + len(message.entries) - 1
        self._add(worker, message, lost)

    def _add(self, worker: Worker, message: Logged, lost: int) -> None:
        kept = self._log_of(worker.model)
        if not kept.parts.is_open and worker.model in self._rules:
            kept.parts.ratio = self._rules[worker.model].ratio
        lane = worker.candidate.lane if worker.candidate is not None else "active"
        release = Release(worker.ref.version, worker.ref.sha256, lane)
        free = self._settings.prediction_upload_bytes - sum(one.parts.size_bytes for one in self._logs.values())
        kept.parts.add(message.entries, release, message.key, message.key_id, lost=lost, free_bytes=free)
        if kept.since_s is None:
            kept.since_s = self._clock.monotonic_s()
        if kept.parts.is_full:
            self._close(kept)
        self._look_later()

    def _close(self, kept: _Kept) -> None:
        if kept.parts.close():
            self._was_closed(kept)

    def _was_closed(self, kept: _Kept) -> None:
        kept.since_s = None
        self._part_closed()

    def _look_later(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Close what is old, and see what workers that died had not told."""
        self._is_looking = False
        for pid, told in list(self._told.items()):
            if told.worker.is_gone:
                del self._told[pid]
                self._bury(pid, told)
        now_s = self._clock.monotonic_s()
        for kept in self._logs.values():
            if kept.since_s is not None and now_s - kept.since_s >= self._settings.prediction_part_s:
                self._close(kept)
        if self._order.models or any(kept.since_s is not None for kept in self._logs.values()):
            self._look_later()

    def _bury(self, pid: int, told: _Told) -> None:
        path = self._counts / f"{pid}.count"
        try:
            numbered = int.from_bytes(path.read_bytes()[:8], "little")
            path.unlink()
        except OSError:  # it never numbered anything
            return
        if numbered > told.n:
            self._add(told.worker, Logged(numbered + 1, []), numbered - told.n)

    # ---- to the server

    def next_sample(self) -> Sample | None:
        """Return the next part that is to be sent, without what names the message; None when there is none."""
        for model, kept in self._logs.items():
            for number in kept.parts.waiting():
                if number in kept.on_the_way:
                    continue
                try:
                    data = kept.parts.read(number)
                except OSError as error:
                    log.warning("part not readable", extra={"model": model, "reason": str(error)})
                    continue
                kept.on_the_way.add(number)
                name = f"{model}/{number}"
                return Sample(
                    device=self._device, boot_id="", seq=0, ts=0, task="", record=name, model=model, reason=REASON,
                    sealed=data,
                )  # fmt: skip
        return None

    def stored(self, name: str, *, is_there: bool = True) -> None:
        """The server has a part; is_there False: it was not sent after all."""
        model, _, number = name.rpartition("/")
        kept = self._logs.get(model)
        if kept is not None:
            kept.on_the_way.discard(int(number))
            if is_there:
                kept.parts.remove(int(number))

    def _erase(self, rules: Mapping[str, LogRules]) -> None:
        """Let rows of subjects go that the document says are erased; what cannot go now goes with the next document."""
        now_ms = int(self._clock.now().timestamp() * 1_000)
        for model, kept in self._logs.items():
            erased = rules[model].erased if model in rules else {}
            if erased and erased != self._erased.get(model):
                was_open = kept.parts.is_open
                try:
                    traces = kept.parts.erase(erased, now_ms)
                except OSError as error:
                    log.warning("not erased yet", extra={"model": model, "reason": str(error)})
                    continue
                self._erased[model] = dict(erased)
                self._forget(traces)
                if was_open:
                    self._was_closed(kept)

    def close(self) -> None:
        """The agent ends, and so did its workers."""
        for pid, told in self._told.items():
            self._bury(pid, told)
        for kept in self._logs.values():
            kept.parts.close(is_orderly=True)

    def heads(self) -> dict[str, list[object]]:
        """Return id, parts and head of each log that has a part."""
        said = {model: kept.parts.status() for model, kept in self._logs.items()}
        return {model: [one["log"], one["parts"], one["head"]] for model, one in said.items() if one["parts"]}

    def status(self) -> dict[str, object]:
        """Return how far each log is, for `edge-agent status`."""
        return {
            model: {**kept.parts.status(), "on": model in self._rules} for model, kept in sorted(self._logs.items())
        }


def as_message(sample: Sample, boot_id: str, seq: int, ts: int) -> Sample:
    """Return what `next_sample` gave with its name."""
    return msgspec.structs.replace(sample, boot_id=boot_id, seq=seq, ts=ts)
