"""The server's rows in memory: what the database holds of one rollout, its documents, its hold and its event log.

A plan is carried out whole or not at all, under the fence of who claimed the rollout: the rules of `rollout.store.claim`,
`hold_fence` and `rollout.controller.executor`. Every transition leaves one event. Nothing is sent from here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Final

import msgspec

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_server.fleet.desired.candidate import salt_of
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.selectors.grammar import Selector, parse_selector
from edgefleet_server.rollout.controller.executor import BRAKED
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    BandwidthBooked,
    CheckAsked,
    ConfirmationUpdated,
    DecisionMade,
    LeaseEnded,
    LeaseTaken,
    Offer,
    Plan,
    RampWindowUpdated,
    Revert,
    RolloutTransitioned,
    StageRunCreated,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    CheckEnd,
    Confirmation,
    Member,
    Proof,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Verdict,
    Whereabouts,
)
from edgefleet_server.rollout.preparation.membership import pinned_of, stratum_of
from edgefleet_server.rollout.spec.model import Mode, Spec
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE, ROLLOUT_WALKS
from edgefleet_server.rollout.store.rollouts import LEASE
from edgefleet_sim.candidate import Candidate
from edgefleet_sim.device import Document, Hold, Said
from edgefleet_sim.leases import ThrottleRows
from edgefleet_terms.reserved_labels import SITE_LABEL, TZ_LABEL

ROLLOUT: Final = RolloutId("r-sim")
NO_HOLD: Final = Hold()
_SILENT: Final = Report()


@dataclass(frozen=True, slots=True)
class Event:
    """One transition: kind `rollout`, `stage` or `assignment`; key: which stage or device; by: who made it."""

    at: datetime
    kind: str
    key: str
    before: str
    after: str
    by: str
    reason: str = ""

    def line(self, start: datetime) -> str:
        """Return it as a line of a transcript."""
        took_s = (self.at - start).total_seconds()
        what = " ".join(word for word in (self.kind, self.key) if word)
        return f"{took_s:9.1f}  {what}: {self.before} -> {self.after}" + (f" ({self.reason})" if self.reason else "")


@dataclass
class SimDatabase:
    """All rows of one rollout. seqs: boot and number of the newest report of each device."""

    spec: Spec
    salt: str
    bundles: Mapping[ProfileName, Bundle]
    members: dict[DeviceId, Member] = field(default_factory=dict)
    documents: dict[DeviceId, Document] = field(default_factory=dict)
    reports: dict[DeviceId, Report] = field(default_factory=dict)
    seqs: dict[DeviceId, tuple[int, int]] = field(default_factory=dict)
    state: RolloutState = RolloutState.RUNNING
    code: str = ""
    reason: str = "started"
    cells: dict[tuple[int, ProfileName], StageRun] = field(default_factory=dict)
    assignments: dict[DeviceId, Assignment] = field(default_factory=dict)
    hold: Hold = NO_HOLD
    events: list[Event] = field(default_factory=list)
    judged: list[tuple[datetime, DecisionMade]] = field(default_factory=list)
    fence: int = 0
    lease_owner: str = ""
    lease_until: datetime | None = None
    due_at: datetime | None = None
    pace: ThrottleRows = field(default_factory=ThrottleRows)
    where: dict[DeviceId, Whereabouts] = field(default_factory=dict)
    rollback_bundles: dict[ProfileName, Bundle] = field(default_factory=dict)
    revoked: set[DeviceId] = field(default_factory=set)
    joiners: int = 0
    """Devices that come after the rollout began: one that comes late may find it over."""
    merged: dict[DeviceId, tuple[Report, Document, Report]] = field(default_factory=dict)
    """The last answer for each device: a tick asks for all of them again."""
    unserved: dict[DeviceId, tuple[Member, Member]] = field(default_factory=dict)
    """Each member, and the same barred from the stages next to what serves, for the same reason."""
    confirmations: dict[tuple[ProfileName, int], Confirmation] = field(default_factory=dict)
    proofs: dict[tuple[ProfileName, int], Proof | None] = field(default_factory=dict)
    """What the server found itself, None while it is at it; a question that is written does not change it."""
    checks: dict[str, CheckEnd] = field(default_factory=dict)
    draws: random.Random = field(default_factory=lambda: random.Random(0))
    """What the server draws confirmers by."""
    refused: int = 0
    """Ticks that found their fence taken and wrote nothing."""

    # ---- the claim, as `store.claim` and `store.hold_fence`

    def claim(self, owner: str, now: datetime, *, is_woken: bool) -> int | None:
        """Return the fence of a claim, None when the rollout is not due or somebody else's."""
        is_free = self.lease_until is None or self.lease_until <= now or self.lease_owner == owner
        is_due = self.due_at is not None and (self.due_at <= now or (is_woken and self.state in ROLLOUT_ACTIVE))
        if not (is_free and is_due):
            return None
        self.lease_owner, self.lease_until, self.fence = owner, now + LEASE, self.fence + 1
        return self.fence

    def is_held(self, fence: int) -> bool:
        """Say whether a claim still stands; note it when it does not."""
        self.refused += fence != self.fence
        return fence == self.fence

    # ---- who belongs to it

    def enrol(self, device: DeviceId, profile: str, labels: Mapping[str, str]) -> ProfileName:
        """Take a device in by its labels; return its stratum."""
        facts = DeviceFacts(device, ProfileName(profile), "", DeviceStatus.ONLINE, labels, None)
        stratum, shown = stratum_of(self.spec.strata, facts), {**labels, "profile": profile}
        barred = frozenset(index for index, match in enumerate(self._matches) if not match.matches(shown))
        self.members[device] = Member(device, stratum, barred, pinned_of(labels))
        self.where[device] = Whereabouts(labels.get(SITE_LABEL, ""), labels.get(TZ_LABEL, ""))
        return stratum

    @cached_property
    def _matches(self) -> list[Selector]:
        return [parse_selector(stage.match) for stage in self.spec.stages]

    # ---- reports

    def hear(self, device: DeviceId, said: Said) -> bool:
        """Take a report; an older one of the same boot counts for nothing. Return whether anything is new."""
        if (
            device in self.revoked
            or said.boot < self.seqs.get(device, (0, 0))[0]
            or (said.boot, said.seq) <= self.seqs.get(device, (0, 0))
        ):
            return False
        self.seqs[device] = (said.boot, said.seq)
        before = self.reports.get(device)
        self.reports[device] = said.report
        return before is None or replace(before, last_seen=None) != replace(said.report, last_seen=None)

    def revoke(self, device: DeviceId) -> None:
        """Take a device out of the fleet: it gets no document and is not heard any more."""
        self.revoked.add(device)
        known = self.reports.get(device, Report())
        self.reports[device] = replace(known, is_revoked=True, is_online=False)

    def snapshot(self) -> Snapshot:
        """Return what the server would load."""
        is_running = self.state in ROLLOUT_WALKS
        return Snapshot(
            id=ROLLOUT,
            state=self.state,
            spec=self.spec,
            salt=self.salt,
            bundles=self.bundles,
            members=self.members_now() if is_running else (),
            cells=tuple(self.cells[key] for key in sorted(self.cells)),
            assignments=tuple(self.assignments[key] for key in sorted(self.assignments)),
            reports={device: self._report(device) for device in self.assignments},
            code=self.code,
            reason=self.reason,
            pace=self.pace.facts(self.spec, self.assignments, self.where),
            rollback_bundles=self.rollback_bundles,
            confirmations=self.asked(),
            checks=self.checks,
            suspects=self.suspects(),
            seed=f"{self.draws.getrandbits(128):032x}",
        )

    def asked(self) -> tuple[Confirmation, ...]:
        """Return the questions with what the server itself found."""
        return tuple(
            msgspec.structs.replace(self.confirmations[key], proof=self.proofs.get(key))
            for key in sorted(self.confirmations)
        )

    def is_asking(self) -> bool:
        """Return whether the offers of a stratum rest for a question."""
        return any(one.verdict is Verdict.OPEN for one in self.confirmations.values())

    def suspects(self) -> frozenset[DeviceId]:
        """Return the devices whose failures were refuted."""
        refuted = (one for one in self.confirmations.values() if one.verdict is Verdict.REFUTED)
        return frozenset(DeviceId(device) for one in refuted for device in one.words)

    def members_now(self) -> tuple[Member, ...]:
        """Return who belongs to it; what has nothing else to serve is barred from the stages next to what serves."""
        stages = self.spec.stages
        barred = frozenset(index for index, stage in enumerate(stages) if stage.mode is not Mode.ACTIVE)
        if not barred:
            return tuple(self.members.values())
        actives = ((one, self.documents[one.device].active) for one in self.members.values())
        return tuple(
            self._unserved(one, barred) if active in (None, self.bundles.get(one.stratum)) else one
            for one, active in actives
        )

    def _unserved(self, member: Member, barred: frozenset[int]) -> Member:
        known = self.unserved.get(member.device)
        if known is None or known[0] is not member:
            known = self.unserved[member.device] = (member, replace(member, barred=member.barred | barred))
        return known[1]

    def _report(self, device: DeviceId) -> Report:
        # Of a device that never said anything the server knows its document all the same.
        said, document = self.reports.get(device, _SILENT), self.documents[device]
        known = self.merged.get(device)
        if known is None or known[0] is not said or known[1] is not document:
            wanted = "" if document.active is None else document.active.sha256
            digest = "" if document.candidate is None else document.candidate.bundle.sha256
            beside = "" if document.candidate is None else document.candidate.rollout
            candidate = replace(said.candidate, wanted_by_server=digest, set_by=beside)
            merged = replace(said, wanted_by_server=wanted, set_by=document.rollout, candidate=candidate)
            known = self.merged[device] = (said, document, merged)
        return known[2]

    # ---- carrying out

    def carry(self, plan: Plan, by: str, now: datetime) -> list[DeviceId]:
        """Write what a plan asks for; return the devices whose documents are new."""
        changes: dict[DeviceId, Offer | Revert] = {}
        for effect in plan.effects:
            match effect:
                case RolloutTransitioned():
                    self._note(now, "rollout", "", effect.before, effect.after, by, effect.reason)
                    self.state, self.code, self.reason = effect.after, effect.code, effect.reason
                case StageRunCreated() | StageRunUpdated():
                    self.cells[effect.cell.stage, effect.cell.stratum] = effect.cell
                case StageRunTransitioned():
                    name = f"{self.spec.stages[effect.cell.stage].name}/{effect.cell.stratum}"
                    self._note(now, "stage", name, effect.before, effect.cell.state, by, effect.cell.reason)
                    self.cells[effect.cell.stage, effect.cell.stratum] = effect.cell
                case AssignmentCreated():
                    self._take_in(effect.assignment)
                case AssignmentUpdated():
                    self._keep(effect.assignment)
                case AssignmentTransitioned():
                    one = effect.assignment
                    self._note(now, "assignment", one.device, effect.before, one.state, by, one.reason)
                    self._keep(one)
                case Offer() | Revert():
                    changes[effect.device] = effect
                case ConfirmationUpdated():
                    self._write(now, effect.confirmation, by)
                case CheckAsked():
                    self.checks.setdefault(effect.task, CheckEnd(state="queued"))
                case DecisionMade():
                    self.judged.append((now, effect))
                case RampWindowUpdated() | LeaseTaken() | LeaseEnded() | BandwidthBooked():
                    self.pace.carry(effect)
        self._set_hold()
        for device, change in changes.items():
            self._sign(device, change, now)
        self.due_at, self.lease_until = plan.next_at, None
        return list(changes)

    def _note(self, now: datetime, kind: str, key: str, before: str, after: str, by: str, reason: str) -> None:
        self.events.append(Event(now, kind, key, str(before), str(after), by, reason))

    def _write(self, now: datetime, one: Confirmation, by: str) -> None:
        key = one.stratum, one.number
        before = self.confirmations[key].verdict.value if key in self.confirmations else ""
        self.confirmations[key] = one
        if before != one.verdict.value:
            words = f"{one.error_class} of {', '.join(one.words)}; drawn: {', '.join(d.device for d in one.draws)}"
            self._note(now, "confirmation", f"{one.stratum}/{one.number}", before, one.verdict.value, by, words)

    def _take_in(self, one: Assignment) -> None:
        report = self.reports.get(one.device)
        digest = self.bundles[one.stratum].sha256 if one.stratum in self.bundles else ""
        document = self.documents[one.device].active
        is_on_it = report is not None and report.active_sha256 == digest
        self.assignments[one.device] = one.but(previous=None if is_on_it else document)

    def _keep(self, one: Assignment) -> None:
        self.assignments[one.device] = one.but(previous=self.assignments[one.device].previous)

    def _set_hold(self) -> None:
        rollouts = frozenset({str(ROLLOUT)}) if self.state in BRAKED else frozenset[str]()
        failed = {cell.digest for cell in self.cells.values() if cell.state is StageState.FAILED and cell.digest}
        digests = frozenset[str](failed) if self.state in ROLLOUT_ACTIVE else frozenset[str]()
        if (rollouts, digests) != (self.hold.rollouts, self.hold.digests):
            self.hold = Hold(self.hold.seq + 1, rollouts, digests)

    def _sign(self, device: DeviceId, change: Offer | Revert, now: datetime) -> None:
        one, before = self.assignments[device], self.documents[device]
        reported = self.reports[device].reported_gen if device in self.reports else 0
        gen, mine = max(before.gen, reported) + 1, self.bundles[one.stratum]
        if isinstance(change, Offer) and device not in self.revoked:
            self.documents[device] = self._offering(before, gen, one, change.start_within_s)
            is_first = one.attempt <= 1 and before.active != mine
            self.assignments[device] = one.but(gen=gen, previous=before.active if is_first else one.previous)
        if isinstance(change, Offer):
            return
        named = before.active if not change.is_candidate else before.candidate and before.candidate.bundle
        if device in self.revoked or named != mine:
            if (
                change.is_rollback
            ):  # nothing to wait for: it was taken out of the fleet, or given another release meanwhile
                done_at = one.back_done_at or now
                self.assignments[device] = one.but(back_gen=one.gen + 1, back_done_at=done_at)
            return
        if change.is_candidate:
            self.documents[device] = replace(before, gen=gen, candidate=None)
        else:
            self.documents[device] = Document(gen, change.to or one.previous)
        if change.is_rollback:
            self.assignments[device] = one.but(back_gen=gen)

    def _offering(self, before: Document, gen: int, one: Assignment, within_s: int) -> Document:
        """Return the document of an offer: it makes the release active, or names it next to what is."""
        limits, stage, bundle = self.spec.device, self.spec.stages[one.stage], self.bundles[one.stratum]
        download_s, apply_s = int(limits.download.total_seconds()), int(limits.apply.total_seconds())
        if stage.mode is Mode.ACTIVE:
            verify_s = int(limits.verify.total_seconds())
            return Document(
                gen, bundle, str(ROLLOUT), one.attempt, download_s, apply_s, verify_s, start_within_s=within_s
            )
        known = before.candidate
        attempt = known.attempt if known is not None and known.bundle == bundle else one.attempt
        salt = salt_of(self.spec.release) if stage.mode is Mode.SPLIT else ""
        candidate = Candidate(
            bundle, stage.mode.value, stage.share_pct, salt, str(ROLLOUT), attempt, download_s, apply_s
        )
        return replace(before, gen=gen, candidate=candidate)

    def chains(self) -> Iterator[tuple[tuple[str, str], list[Event]]]:
        """Yield the events of each rollout, stage and assignment, in order."""
        found: dict[tuple[str, str], list[Event]] = {}
        for event in self.events:
            found.setdefault((event.kind, event.key), []).append(event)
        yield from found.items()
