"""Documents in, verified work out: queues what the server sent, runs one install child at a time, relays its questions.

1. The newest document of a kind replaces an older one that waits. A new document ends a running child: its fetch resumes later.
   Only a hold that is being verified comes to its end, since the two come together when a rollout goes back.
2. A document is recognised by the sha256 of its bytes: the same one, accepted or refused for good, is not verified again.
3. Without a document waiting, a `fetch` child runs as long as bundles are wanted.
4. A document that the repository is too old for (a restored server) waits for the next `repo/head`.
5. A document over which the child dies again and again rests (`retry_delay`) and is tried once more, for ever; a newer one at once.
6. agentd looks into none of what it relays; bytes to a child are capped by the credit the child gave.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.install.records import Wanted
from edgefleet_agent.install.retry_delay import CHILD_DIED_LIMIT, RetryDelay, rest_after
from edgefleet_agent.install.verifier_process import VerifierProcess
from edgefleet_agent.install.verifier_protocol import (
    Accepted,
    Blocks,
    Fetch,
    Fetched,
    FetchFailed,
    FetchProgress,
    Finish,
    FromChild,
    Meta,
    NeedBlocks,
    NeedMeta,
    Notice,
    Refused,
    Relink,
    Task,
    TaskKind,
)
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.blocks import BlockRequest, blob_prefix, encode_request
from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_protocol.messages import CHILD_DIED_CODE, MetaReply, MetaRequest

KIND_ORDER: tuple[TaskKind, ...] = ("hold", "desired")
RETRY_S = 15.0

log = logging.getLogger(__name__)


class Uplink(Protocol):
    """What the intake needs of the connection."""

    def send_meta(self, request: MetaRequest) -> None:
        """Ask the server for a small file."""
        ...

    def send_blocks(self, request: bytes) -> None:
        """Ask the server for leaves."""
        ...


class Listener(Protocol):
    """Receives what came of it. Called in the loop."""

    def on_accepted(self, kind: TaskKind, gen: int) -> None:
        """The verified fields are on the disk."""
        ...

    def on_refused(self, kind: TaskKind, refused: Refused) -> None:
        """The document was refused, or could not be judged yet (`retry`)."""
        ...

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """How a fetch goes or ended."""
        ...

    def on_notice(self, notice: Notice) -> None:
        """Something worth telling the server."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One bundle to bring into one slot."""

    wanted: Wanted
    slot: str


class Intake:
    """The queue and the child."""

    def __init__(
        self,
        loop: Loop,
        state_dir: Path,
        device: str,
        settings: AgentSettings,
        uplink: Uplink,
        listener: Listener,
        first_req_id: int,
    ) -> None:
        self._loop = loop
        self._state_dir = state_dir
        self._device = device
        self._settings = settings
        self._uplink = uplink
        self._listener = listener
        self._waiting: dict[TaskKind, bytes] = {}
        self._parked: dict[TaskKind, bytes] = {}
        self._settled: dict[TaskKind, str] = {}
        self._rests: dict[TaskKind, RetryDelay] = {}
        self._rest_timers: dict[TaskKind, Timer] = {}
        self._current: tuple[TaskKind, bytes] | None = None
        self._child: VerifierProcess | None = None
        self._jobs: dict[str, Job] = {}
        self._asked: dict[int, str] = {}
        self._meta_id = 0
        self._req_id = first_req_id
        self._repo_head = b""
        self._retry: Timer | None = None
        self._deaths = 0

    def settle(self, kind: TaskKind, raw_sha256: str) -> None:
        """Remember a document that was dealt with in an earlier life of the agent."""
        self._settled[kind] = raw_sha256

    # ---- from the server

    def offer(self, kind: TaskKind, raw: bytes) -> bool:
        """Take a document; a known one is ignored. Return whether it is one that was judged before."""
        if not raw or self._settled.get(kind) == sha256_hex(raw):
            return bool(raw)
        known = self._current == (kind, raw) or self._parked.get(kind) == raw
        if known or (kind in self._rests and self._rests[kind].raw == raw):
            return False  # sent again with each connection: no reason to try it sooner
        self._parked.pop(kind, None)
        self._end_rest(kind)
        self._waiting[kind] = raw
        self._look_for(kind)
        return False

    def _look_for(self, kind: TaskKind) -> None:
        """Begin with what waits, unless a kind that goes before this one is being verified."""
        if self._current is None or KIND_ORDER.index(self._current[0]) >= KIND_ORDER.index(kind):
            self._look()

    def head(self, raw: bytes) -> None:
        """Remember the newest `repo/head`; what the repository was too old for is tried with a new one."""
        if raw == self._repo_head:
            return
        self._repo_head = raw
        if self._parked:
            self._waiting = {**self._parked, **self._waiting}
            self._parked.clear()
            self._look()

    def _look(self) -> None:
        """Begin with what waits, before what is being done."""
        self._deaths = 0
        if self._child is not None:
            self._stop_child()
        self._next()

    def meta(self, reply: MetaReply) -> None:
        """Relay a chunk to the child that asked; late answers of others are dropped."""
        if self._child is None or self._asked.get(reply.req_id) != reply.name:
            return
        self._child.send(Meta(reply.name, reply.part, reply.parts, reply.data, reply.error))

    def blocks(self, payload: bytes) -> None:
        """Relay block data."""
        if self._child is not None:
            self._child.send(Blocks(payload))

    def relink(self) -> None:
        """The connection is new: let the child ask again, and try again what failed for lack of one."""
        if self._child is not None:
            self._child.send(Relink())
        elif self._waiting:
            self._next()

    # ---- from the runner

    def fetch(self, job: Job) -> None:
        """Bring a bundle; replaces an older request for the same model."""
        known = self._jobs.get(job.wanted.model)
        self._jobs[job.wanted.model] = job
        if known == job and self._child is not None:
            return
        if self._child is not None and self._child.task.kind in ("desired", "fetch") and self._current is None:
            if known is not None:
                self._stop_child()  # it may be in the middle of the older one
                self._next()
            else:
                self._child.send(Fetch(job.wanted, job.slot))
        elif self._child is None:
            self._next()

    def is_fetching(self, model: str) -> bool:
        """Whether a bundle of this model is being brought, or will be."""
        return model in self._jobs

    def cancel(self, model: str) -> None:
        """Forget a request; a child in the middle of it is ended."""
        if self._jobs.pop(model, None) is not None and self._child is not None and self._current is None:
            self._stop_child()
            self._next()

    def close(self) -> None:
        """End the child."""
        if self._retry is not None:
            self._retry.cancel()
        for kind in KIND_ORDER:
            self._end_rest(kind)
        self._waiting.clear()
        self._parked.clear()
        self._jobs.clear()
        self._stop_child()

    # ---- the child

    def _next(self) -> None:
        if self._child is not None:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for kind in KIND_ORDER:
            raw = self._waiting.pop(kind, None)
            if raw is not None:
                self._current = (kind, raw)
                self._spawn(kind, raw)
                return
        if self._jobs:
            self._spawn("fetch", None)
            self._send_jobs()

    def _spawn(self, kind: TaskKind, document: bytes | None) -> None:
        task = Task(
            kind=kind,
            state_dir=str(self._state_dir),
            device=self._device,
            repo_head=self._repo_head,
            first_req_id=self._req_id,
            credit=self._settings.block_credit,
            meta_timeout_s=self._settings.meta_timeout_s,
            block_timeout_s=self._settings.block_timeout_s,
            no_progress_s=self._settings.no_progress_s,
        )
        command: Sequence[str] = self._settings.python_command
        try:
            self._child = VerifierProcess(self._loop, task, document, self._on_packet, self._on_end, command)
        except OSError as error:  # no memory or no process left for it: as if it had died at once
            log.warning("install child not started", extra={"kind": kind, "reason": str(error)})
            self._on_end()
            return
        log.info("install child started", extra={"kind": kind, "pid": self._child.pid})

    def _stop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
        if self._current is not None:
            kind, raw = self._current
            self._current = None
            self._waiting.setdefault(kind, raw)  # it was not judged yet; a newer one of its kind has precedence

    def _send_jobs(self) -> None:
        child = self._child
        if child is not None:
            for job in list(self._jobs.values()):
                child.send(Fetch(job.wanted, job.slot))

    def _on_packet(self, packet: FromChild) -> None:
        listener = self._listener
        match packet:
            case NeedMeta():
                self._need_meta(packet)
            case NeedBlocks():
                self._need_blocks(packet)
            case Accepted():
                self._lived()
                self._judged(lambda kind: listener.on_accepted(kind, packet.gen))
            case Refused():
                self._lived()
                self._refused(packet)
            case FetchProgress():
                listener.on_fetch(packet)
            case Fetched() | FetchFailed():
                self._deaths = 0
                self._jobs.pop(packet.model, None)
                listener.on_fetch(packet)
                self._finish_if_idle()
            case Notice():
                listener.on_notice(packet)

    def _judged(self, tell: Callable[[TaskKind], None]) -> None:
        if self._current is None:
            return
        kind, raw = self._current
        self._current = None
        self._deaths = 0
        self._settled[kind] = sha256_hex(raw)
        known = set(self._jobs)
        tell(kind)
        if kind == "desired" and self._child is not None:
            # what was wanted before and still is; new requests went straight to the child from `tell`
            for model in known & set(self._jobs):
                self._child.send(Fetch(self._jobs[model].wanted, self._jobs[model].slot))
        self._finish_if_idle()

    def _refused(self, packet: Refused) -> None:
        listener = self._listener
        if packet.seen is not None:
            self._park(packet, listener)
        elif not packet.retry:
            self._judged(lambda kind: listener.on_refused(kind, packet))
        elif self._current is not None:
            kind, raw = self._current
            self._current = None
            self._waiting.setdefault(kind, raw)
            listener.on_refused(kind, packet)
            self._retry_later()

    def _park(self, packet: Refused, listener: Listener) -> None:
        if self._current is None or self._child is None:
            return
        kind, raw = self._current
        self._current = None
        self._deaths = 0
        # a head that came while the child ran is the one to try with: there may be none after it
        is_stale = self._child.task.repo_head != self._repo_head
        (self._waiting if is_stale else self._parked).setdefault(kind, raw)
        listener.on_refused(kind, packet)
        self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if self._child is not None and not self._jobs and self._current is None:
            self._child.send(Finish())

    def _on_end(self) -> None:
        self._child = None
        self._asked.clear()
        if self._current is not None:
            self._died_with(*self._current)
        elif self._jobs and self._retry is None:
            self._deaths += 1
            if self._deaths >= CHILD_DIED_LIMIT:
                self._give_up_jobs()
            else:
                self._retry_later(1.0)
        elif self._waiting and self._retry is None:
            self._next()

    def _died_with(self, kind: TaskKind, raw: bytes) -> None:
        """It died with the document in its hands: again soon, then after longer and longer rests."""
        rest = self._rests.get(kind)
        self._deaths = rest.deaths + 1 if rest is not None else self._deaths + 1
        log.warning("install child died", extra={"kind": kind, "deaths": self._deaths})
        self._current = None
        if self._deaths < CHILD_DIED_LIMIT:
            self._waiting.setdefault(kind, raw)
            self._retry_later(1.0)
            return
        if kind not in self._waiting:  # else a newer one came meanwhile
            self._rest(kind, raw)
        self._deaths = 0
        self._next()

    def _rest(self, kind: TaskKind, raw: bytes) -> None:
        """Let a document rest and say so."""
        settings = self._settings
        first_s, most_s = settings.verify_rest_s, settings.verify_rest_max_s
        rest = rest_after(raw, self._deaths, self._device, first_s=first_s, most_s=most_s)
        self._rests[kind] = rest
        self._rest_timers[kind] = self._loop.call_later(rest.lasts_s, lambda: self._rested(kind))
        reason = f"the install child died {rest.deaths} times while verifying it; it is tried again"
        self._listener.on_refused(kind, Refused(CHILD_DIED_CODE, reason, "internal", retry=True, again_s=rest.lasts_s))

    def _rested(self, kind: TaskKind) -> None:
        """Try a document once more; that it rested stays known until a child has judged it."""
        self._rest_timers.pop(kind, None)
        self._waiting.setdefault(kind, self._rests[kind].raw)
        self._look_for(kind)

    def _end_rest(self, kind: TaskKind) -> None:
        self._rests.pop(kind, None)
        if (timer := self._rest_timers.pop(kind, None)) is not None:
            timer.cancel()

    def _lived(self) -> None:
        """The child came to a verdict about the document that it has."""
        if self._current is not None:
            self._end_rest(self._current[0])

    def _give_up_jobs(self) -> None:
        jobs, self._jobs = self._jobs, {}
        reason = f"the install child died {self._deaths} times while fetching it"
        self._deaths = 0
        for model in jobs:
            self._listener.on_fetch(FetchFailed(model, CHILD_DIED_CODE, reason, "internal"))

    def _retry_later(self, delay_s: float = RETRY_S) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(delay_s, self._next)

    def _need_meta(self, packet: NeedMeta) -> None:
        self._meta_id += 1
        self._asked = {i: name for i, name in self._asked.items() if name != packet.name}
        self._asked[self._meta_id] = packet.name
        self._uplink.send_meta(MetaRequest(req_id=self._meta_id, name=packet.name, max_bytes=packet.max_bytes))

    def _need_blocks(self, packet: NeedBlocks) -> None:
        self._req_id = packet.req_id % 0xFFFFFFFF + 1
        request = BlockRequest(
            packet.req_id,
            blob_prefix(Sha256(packet.blob)),
            tuple(packet.wanted),
            packet.leaves_per_message,
            packet.credit,
            packet.repeats,
        )
        self._uplink.send_blocks(encode_request(request))
