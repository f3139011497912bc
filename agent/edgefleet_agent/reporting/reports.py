"""What the device reports to the server: state (whole, retained), events and telemetry (through the outbox), presence.

1. Sequence numbers are per boot of agentd and kind; a report sent twice counts once.
2. A refused document is named in the state until a newer one is accepted; of one that rests, also when it is tried again.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from edgefleet_agent import __version__
from edgefleet_agent.connection.outbox import Kind, Outbox
from edgefleet_agent.identity.store import Identity
from edgefleet_agent.install.desired_diff import HELD, spread_reason
from edgefleet_agent.install.records import ModelRecord, Quarantine, TaskRequest
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.install.verifier_protocol import Notice, Refused, TaskKind
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import (
    HELD_CODE,
    SPREAD_CODE,
    TRANSIENT,
    CandidateState,
    ErrorClass,
    Event,
    EventKind,
    ModelState,
    Phase,
    Presence,
    Seen,
    State,
    SystemFigures,
    Telemetry,
    Window,
    encode,
    encode_short,
)

MAX_REASON_CHARS = 1_000
PROBATION_NEWS_S = 60.0
"""How often at most a state is sent only for the answers of a version on probation; on a metered connection once a window."""


class Reports:
    """Builds all reports and counts them."""

    def __init__(
        self,
        device: DeviceId,
        boot_id: str,
        clock: Clock,
        outbox: Outbox,
        soon: Callable[[], None],
        candidates: Callable[[], Mapping[str, CandidateState]] = dict,
    ) -> None:
        """Report nothing yet. soon: makes a report of the state, a moment later; candidates: by model, what runs as one."""
        self._device = device
        self._boot_id = boot_id
        self._clock = clock
        self._outbox = outbox
        self._soon = soon
        self._seqs = {"state": 0, "event": 0, "telemetry": 0}
        self._refused = Refused("", "", ErrorClass.INTERNAL.value)
        self._resting: set[TaskKind] = set()
        self._seen: Seen | None = None
        self._told_probation: dict[str, dict[str, int]] = {}
        self._told_s = 0.0
        self.gen = 0
        self.conn_id = ""
        self._candidates = candidates

    def unix_ms(self) -> int:
        """Return the device's time in milliseconds."""
        return int(self._clock.now().timestamp() * 1000)

    def changed(self) -> None:
        """Report the state soon."""
        self._soon()

    def accepted(self, kind: TaskKind, gen: int) -> None:
        """A newer document was accepted."""
        self._seen = None
        self._resting.discard(kind)
        if kind != "desired":
            return
        self.gen = gen
        self._refused = Refused("", "", ErrorClass.INTERNAL.value)
        self._soon()

    def refused(self, kind: TaskKind, refused: Refused) -> None:
        """A document was refused, or could not be judged: say which and why."""
        is_first_rest = refused.again_s > 0 and kind not in self._resting
        if refused.again_s > 0:
            at = self._clock.now() + timedelta(seconds=refused.again_s)
            refused = msgspec.structs.replace(refused, reason=f"{refused.reason} at {at:%Y-%m-%d %H:%M:%SZ}")
            self._resting.add(kind)
        else:
            self._resting.discard(kind)
            if refused.retry and (kind != "desired" or refused.code == self._refused.code):
                return
        self._seen = refused.seen
        if kind == "desired":  # the server compares it with the document's number; of a hold the event tells
            self._refused = refused
        if is_first_rest or not refused.retry:  # of the rests that follow the state tells
            self._event(
                EventKind.REFUSED,
                gen=refused.gen,
                error_class=ErrorClass(refused.error_class),
                code=refused.code,
                reason=refused.reason,
                detail={"document": kind},
            )
        self._soon()

    def notice(self, notice: Notice) -> None:
        """The install child saw something that the server should know."""
        self._event(EventKind.REFUSED, code=notice.code, reason=notice.reason)
        self._soon()

    def boot(self) -> None:
        """agentd has started."""
        self._event(EventKind.BOOT, detail={"agent_version": __version__, "kernel_boot_id": _kernel_boot_id()})

    def identity_renewed(self, identity: Identity) -> None:
        """The device has connected with a new key."""
        self._event(EventKind.IDENTITY_RENEWED, detail={"cert_until_s": identity.cert_until_s})
        self._soon()

    def task(self, task: TaskRequest, state: str, code: str, reason: str) -> None:
        """A task of the document is a step further."""
        detail = {"task": task.id, "task_kind": task.kind, "state": state}
        self._event(EventKind.TASK, gen=self.gen, code=code, reason=reason, detail=detail)
        self._soon()

    def event(self, kind: EventKind, record: ModelRecord, *, code: str = "", reason: str = "") -> None:
        """Something happened once to a model."""
        wanted = record.wanted
        self._event(
            kind,
            model=record.model,
            target=wanted.target if wanted else "",
            sha256=wanted.sha256 if wanted else "",
            gen=record.gen,
            attempt=wanted.attempt if wanted else 0,
            phase=record.phase,
            error_class=record.error_class,
            code=code,
            reason=reason,
        )
        self._soon()

    def quarantined(self, record: ModelRecord, entry: Quarantine) -> None:
        """A digest failed here and will not be tried again by itself."""
        wanted = next((w for w in (record.wanted, record.served) if w is not None and w.sha256 == entry.sha256), None)
        self._event(
            EventKind.QUARANTINED,
            model=record.model,
            target=wanted.target if wanted else "",
            sha256=entry.sha256,
            gen=entry.gen,
            attempt=entry.attempt,
            phase=record.phase,
            error_class=entry.error_class,
            code=entry.code,
            reason=entry.reason,
        )

    def candidate(
        self,
        kind: EventKind,
        model: str,
        sha256: str,
        state: str,
        code: str,
        reason: str,
        error_class: ErrorClass | None,
    ) -> None:
        """The candidate of a model came to another state."""
        detail = {"state": state}
        self._event(kind, model=model, sha256=sha256, error_class=error_class, code=code, reason=reason, detail=detail)

    def drift(self, kind: EventKind, model: str, sha256: str, reason: str, detail: dict[str, Any]) -> None:
        """A signal of a version drifts, does no more, or the device has learned what is usual."""
        self._event(kind, model=model, sha256=sha256, reason=reason, detail=detail)
        self._soon()

    def batch(self, kind: EventKind, model: str, code: str, reason: str, detail: dict[str, Any]) -> None:
        """Planned runs of a batch were missed or late, or one failed."""
        self._event(kind, model=model, code=code, reason=reason, detail=detail)
        self._soon()

    def telemetry(self, windows: list[Window], system: SystemFigures) -> None:
        """Put one telemetry message into the outbox."""
        seq = self._next("telemetry")
        message = Telemetry(
            device=self._device,
            boot_id=self._boot_id,
            seq=seq,
            ts=self.unix_ms(),
            windows=windows,
            system=system,
            queue_bytes=self._outbox.size_bytes,
            dropped=self._outbox.dropped,
            dropped_by=self._outbox.dropped_by if self._outbox.dropped else [],
            merged=self._outbox.merged,
        )
        self._outbox.add(Kind.TELEMETRY, self._boot_id, seq, encode_short(message), self._clock.monotonic_s())

        self._tell_losses()

    def _tell_losses(self) -> None:
        """Tell once what the outbox had to give up or add up. While an event waits nobody can hear it, and it would only take room."""
        lost = {} if self._outbox.waiting(Kind.EVENT) else self._outbox.unreported_losses()
        if not lost:
            return
        merged = lost.pop("merged", 0)
        words = [f"{n} of class {word}" for word, n in lost.items()]
        reason = f"given up for want of room: {', '.join(words)}" if words else ""
        reason = "; ".join([*([reason] if reason else []), *([f"added up to save room: {merged}"] if merged else [])])
        code = "outbox.dropped" if lost else "outbox.merged"
        self._event(EventKind.OUTBOX_DROPPED, code=code, reason=reason, detail={"dropped": lost, "merged": merged})
        self._outbox.losses_reported()

    def presence(self, *, on: bool, cert: str = "") -> Presence:
        """Return the presence of this connection. cert: serial of the certificate that it uses."""
        return Presence(on=on, conn_id=self.conn_id, boot_id=self._boot_id, ts=self.unix_ms(), cert=cert)

    def state(self, runner: Runner, serving: Supervisor, facts: Mapping[str, Any], *, count: bool = True) -> State:
        """Return the whole state. count: False for a look that is not sent."""
        probation = runner.probation()
        if count:
            self._told_probation, self._told_s = probation, self._clock.monotonic_s()
        return State(
            device=self._device,
            gen=self.gen,
            boot_id=self._boot_id,
            seq=self._next("state") if count else 0,
            ts=self.unix_ms(),
            models=self._models(runner, serving),
            agent_version=__version__,
            refused_gen=self._refused.gen,
            refused_code=self._refused.code,
            refused_reason=self._refused.reason[:MAX_REASON_CHARS],
            facts={**facts, **_more_facts(runner, probation)},
            seen=self._seen,
        )

    def has_probation_news(self, runner: Runner, every_s: float) -> bool:
        """Say whether a version on probation has given more answers than the state of at least `every_s` ago says."""
        is_due = self._clock.monotonic_s() - self._told_s >= every_s
        return is_due and runner.probation() != self._told_probation

    def _models(self, runner: Runner, serving: Supervisor) -> list[ModelState]:
        candidates = dict(self._candidates())
        models = [
            msgspec.structs.replace(_model_state(r, runner, serving), candidate=candidates.pop(name, None))
            for name, r in runner.records.items()
        ]
        # a model that is only measured here has no record of an install
        return models + [ModelState(model=m, phase=Phase.IDLE, candidate=one) for m, one in candidates.items()]

    def _event(self, kind: EventKind, *, reason: str = "", **fields: Any) -> None:
        seq, reason = self._next("event"), reason[:MAX_REASON_CHARS]
        event = Event(
            device=self._device, boot_id=self._boot_id, seq=seq, ts=self.unix_ms(), kind=kind, reason=reason, **fields
        )
        self._outbox.add(Kind.EVENT, self._boot_id, seq, encode(event), self._clock.monotonic_s())

    def _next(self, kind: str) -> int:
        self._seqs[kind] += 1
        return self._seqs[kind]


def _more_facts(runner: Runner, probation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of models only where there is something to say."""
    withdrawn = {model: why[:MAX_REASON_CHARS] for model in runner.records if (why := runner.withdrawn(model))}
    return {**({"probation": probation} if probation else {}), **({"withdrawn": withdrawn} if withdrawn else {})}


def _model_state(record: ModelRecord, runner: Runner, serving: Supervisor) -> ModelState:
    active, previous, wanted = record.active, record.previous, record.wanted
    error_class, code, reason = record.error_class, record.error_code, record.reason
    if (not code or error_class in TRANSIENT) and runner.is_held(record.model):
        error_class, code, reason = ErrorClass.DEADLINE, HELD_CODE, HELD.reason
    elif until_s := runner.waits_until_s(record.model):
        error_class, code, reason = None, SPREAD_CODE, spread_reason(until_s)
    return ModelState(
        model=record.model,
        phase=record.phase,
        active_target=active.target if active else "",
        active_sha256=active.sha256 if active else "",
        previous_target=previous.target if previous else "",
        previous_sha256=previous.sha256 if previous else "",
        wanted_sha256=wanted.sha256 if wanted else "",
        attempt=wanted.attempt if wanted else 0,
        gen=record.gen,
        error_class=error_class,
        error_code=code,
        reason=reason[:MAX_REASON_CHARS],
        progress_pct=runner.progress_pct(record.model),
        slot=active.slot if active else "",
        serving=serving.is_serving(record.model),
        rollout=wanted.rollout if wanted else "",
    )


def _kernel_boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123  # one line of procfs
            return file.read().strip()
    except OSError:
        return ""
