"""A simulated device: what it says and when, what it does about what it hears. Time and draws are arguments, so a seed repeats it.

1. It is an agent on the wire: retained presence and state, a will, windows that it keeps until the server's own acknowledgement, and
   sends again without one after RESEND_AFTER_S; at most KEPT of them, then the oldest go.
2. A newer desired document is taken as it is: its signature is not checked, its bundle not downloaded (docs/operate/load-test.md says
   what that leaves out). It walks through the phases of an install and reports each.
3. It hears hold and head where an agent does (`edgefleet_protocol.shards`), and remembers that over connections.
4. It keeps what it needs and no more: 10,000 of them are in one process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgefleet_agent.connection.outbox import RESEND_AFTER_S
from edgefleet_protocol.desired import Ref, decode_desired
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_target_path
from edgefleet_protocol.messages import CRASH_LOOP_CODE, Downlink, ErrorClass, EventKind, ModelState, Phase, decode
from edgefleet_protocol.shards import Shards
from edgefleet_sim.live_fleet import device_reports as reports
from edgefleet_sim.live_fleet.device_reports import DRIFT_PSI, DRIFT_WINDOWS, Names, Running
from edgefleet_sim.live_fleet.figures import Meter
from edgefleet_sim.live_fleet.link_profiles import Behaviour

KEPT: Final = 16
PHASES: Final = (
    Phase.DOWNLOADING, Phase.VERIFYING, Phase.PREFLIGHT, Phase.GOLDEN, Phase.WARMING, Phase.SWITCHING, Phase.PROBATION, Phase.COMMITTED,
)  # fmt: skip
FAILS_AT: Final = {
    Phase.DOWNLOADING: (Phase.FAILED, ErrorClass.NETWORK, "download.failed"),
    Phase.GOLDEN: (Phase.FAILED, ErrorClass.GOLDEN, "golden.mismatch"),
    Phase.PROBATION: (Phase.ROLLED_BACK, ErrorClass.CRASH, CRASH_LOOP_CODE),
}
"""Where an install fails that is drawn to fail, with what the device then says."""


class Said(NamedTuple):
    """A message to send. leaf: of the uplink's topic; is_sure: QoS 1."""

    leaf: str
    payload: bytes
    is_sure: bool = True
    is_retained: bool = False


@dataclass(slots=True)
class Install:
    """An install that is going on. fails_at: a key of FAILS_AT, None: it succeeds."""

    model: str
    ref: Ref
    gen: int
    fails_at: Phase | None
    step: int = 0


class Kept(NamedTuple):
    """A message without an acknowledgement. sent_s: at its first try, monotonic seconds; tries: how often it was sent."""

    leaf: str
    payload: bytes
    sent_s: float
    tries: int


class SimulatedDevice:
    """One device. `seq`s are of one start of it."""

    __slots__ = (
        "_boot_id", "_drift", "_event_seq", "_install", "_kept", "_model", "_running", "_skew_ms", "_state_seq", "_tele_seq", "behaviour",
        "conn_id", "failures", "gen", "id", "is_drifting", "number", "server_shards", "shards", "stretch",
    )  # fmt: skip

    def __init__(self, number: int, name: str, behaviour: Behaviour, draw: random.Random) -> None:
        self.number, self.id, self.behaviour = number, name, behaviour
        self.conn_id, self.failures, self.gen, self.stretch = "", 0, 0, 1
        self.shards, self.server_shards = _SHARED, 0
        self.is_drifting = False
        self._boot_id = f"{draw.getrandbits(64):016x}"
        self._skew_ms = int(1000 * draw.uniform(-behaviour.skew_s, behaviour.skew_s))
        self._state_seq = self._event_seq = self._tele_seq = self._drift = 0
        self._kept: dict[tuple[str, int], Kept] | None = None
        self._install: Install | None = None
        self._running = _DEFAULT
        self._model: ModelState = _IDLE

    # ---- what goes out

    def will(self, conn_id: str, unix_s: float) -> bytes:
        """Return what the broker says once this connection is lost."""
        self.conn_id = conn_id
        return reports.presence(self._names(unix_s), conn_id, on=False)

    def came_up(self, unix_s: float) -> list[Said]:
        """Return what a device says first on a connection. What has no acknowledgement goes again (`overdue`)."""
        names = self._names(unix_s)
        first = [Said("pres", reports.presence(names, self.conn_id, on=True), True, True), self._state(names)]
        return first if self._event_seq else [*first, self._event(names, 0.0, EventKind.BOOT)]

    def goes(self, unix_s: float) -> Said:
        """Return what a device says before it leaves for good."""
        return Said("pres", reports.presence(self._names(unix_s), self.conn_id, on=False), True, True)

    def window(self, unix_s: float, now_s: float, length_s: int, meter: Meter) -> list[Said]:
        """Return the telemetry of a window that ends now, and what follows from it."""
        names, drift = self._names(unix_s), min(1.0, self._drift / DRIFT_WINDOWS)
        made = reports.window(self._running, names.now_ms // 1000, length_s, self.number, drift)
        self._tele_seq += 1
        queued = sum(len(one.payload) for one in self._kept.values()) if self._kept else 0
        payload = reports.telemetry(names, self._tele_seq, made, queued)
        is_alone = not self._kept
        self._keep("tele", self._tele_seq, payload, now_s, meter)
        said = [Said("tele", payload, not is_alone)]
        if self.behaviour.drifts:
            self._drift += 1
            effect = reports.psi(made.classes)
            if effect > DRIFT_PSI and not self.is_drifting:
                self.is_drifting = True
                detail = {
                    "signal": "class",
                    "kind": "class",
                    "scale": "5m",
                    "cause": "psi",
                    "psi": round(effect, 4),
                    "n": made.n,
                }
                reason = f"class differs from its reference: PSI {effect:.2f} over 5m"
                fields = {"model": made.model, "sha256": made.sha256, "reason": reason, "detail": detail}
                said += [self._event(names, now_s, EventKind.DRIFT, meter, **fields), self._state(names)]
        return said

    def overdue(self, now_s: float, *, is_new_link: bool, meter: Meter) -> list[Said]:
        """Return what has had no acknowledgement for too long, all of it on a new connection."""
        late = [
            (key, one) for key, one in (self._kept or {}).items()
            if is_new_link or now_s - one.sent_s > RESEND_AFTER_S * one.tries
        ]  # fmt: skip
        for key, one in late:
            assert self._kept is not None
            self._kept[key] = one._replace(tries=one.tries + 1)
        meter.figures.resent += len(late)
        return [Said(one.leaf, one.payload) for _, one in late]

    def next_step(self, unix_s: float, now_s: float, meter: Meter) -> tuple[list[Said], bool]:
        """Return what the next step of an install says, and whether there are more."""
        install, names = self._install, self._names(unix_s)
        if install is None:
            return [], False
        phase = PHASES[install.step]
        install.step += 1
        failed = FAILS_AT[phase] if phase is install.fails_at else None
        shown, error_class, code = failed or (phase, None, "")
        if shown is Phase.COMMITTED:
            self._running = _running(install)
        is_over = failed is not None or shown is Phase.COMMITTED
        fields = {"gen": install.gen, "attempt": install.ref.attempt, "error_class": error_class}
        self._model = reports.model_state(
            self._running, shown, wanted_sha256=install.ref.sha256, rollout=install.ref.rollout or "", error_code=code, **fields
        )  # fmt: skip
        of_event = {
            "model": install.model,
            "target": install.ref.target,
            "sha256": install.ref.sha256,
            "phase": shown,
            "code": code,
        }
        said = [self._event(names, now_s, EventKind.PHASE, meter, **fields, **of_event), self._state(names)]
        if is_over:
            self._install = None
            meter.figures.installs += 1
            meter.figures.installs_failed += failed is not None
        return said, not is_over

    # ---- what comes in

    def acked(self, payload: bytes, now_s: float, meter: Meter) -> bool:
        """Take a message of `dn/meta`; return whether it was an acknowledgement."""
        ack = decode(Downlink, payload).ack
        if ack is None or ack.boot_id != self._boot_id:
            return False
        self.stretch, self.server_shards = max(1, ack.stretch), ack.shards
        meter.figures.stretch = max(meter.figures.stretch, ack.stretch)
        for leaf, seqs in (("tele", ack.telemetry), ("ev", ack.events)):
            for seq in seqs:
                one = self._kept.pop((leaf, seq), None) if self._kept else None
                if one is not None:
                    meter.figures.acked += 1
                    meter.figures.unacked -= 1
                    if one.tries == 1:
                        meter.acks.add(now_s - one.sent_s)
        if not self._kept:
            self._kept = None
        return True

    def desired(self, payload: bytes, draw: random.Random, meter: Meter) -> bool:
        """Take a desired document; return whether it is a newer one, which is reported. Nothing else changes anything."""
        try:
            document = decode_desired(parse_envelope(payload).payload)
        except EdgefleetError:
            return False
        if document.device != self.id or document.gen <= self.gen:
            return False
        self.gen = document.gen
        meter.figures.documents += 1
        for name, model in document.models.items():
            ref = model.active
            if ref is not None and ref.sha256 != self._running.sha256:
                fails = self.behaviour.fails and draw.random() < self.behaviour.fails
                self._install = Install(name, ref, document.gen, draw.choice(list(FAILS_AT)) if fails else None)
        return True

    @property
    def is_installing(self) -> bool:
        """Whether it has steps of an install to go."""
        return self._install is not None

    def last_state(self) -> list[str | int]:
        """Return what its last state said: boot id, seq, gen, and digest of what runs, "" while that is nothing."""
        return [self._boot_id, self._state_seq, self.gen, self._model.active_sha256]

    def state(self, unix_s: float) -> Said:
        """Return the whole state."""
        return self._state(self._names(unix_s))

    # ---- within

    def _names(self, unix_s: float) -> Names:
        return Names(self.id, self._boot_id, int(unix_s * 1000) + self._skew_ms)

    def _state(self, names: Names) -> Said:
        self._state_seq += 1
        drifting = ("class",) if self.is_drifting else ()
        return Said("state", reports.state(names, self._state_seq, self.gen, self._model, drifting), True, True)

    def _event(self, names: Names, now_s: float, kind: EventKind, meter: Meter | None = None, **fields: object) -> Said:
        self._event_seq += 1
        payload = reports.event(names, self._event_seq, kind=kind, **fields)
        if meter is not None:
            self._keep("ev", self._event_seq, payload, now_s, meter)
        return Said("ev", payload)

    def _keep(self, leaf: str, seq: int, payload: bytes, now_s: float, meter: Meter) -> None:
        kept = self._kept = self._kept if self._kept is not None else {}
        kept[leaf, seq] = Kept(leaf, payload, now_s, 1)
        meter.figures.sent += 1
        meter.figures.unacked += 1
        if len(kept) > KEPT:
            del kept[next(iter(kept))]
            meter.figures.given_up += 1
            meter.figures.unacked -= 1


def _running(install: Install) -> Running:
    version = str(parse_target_path(install.ref.target)[1])
    return Running(install.model, version, install.ref.target, install.ref.sha256)


_SHARED: Final = Shards()
_DEFAULT: Final = Running()
_IDLE: Final = reports.model_state(_DEFAULT, Phase.IDLE)
