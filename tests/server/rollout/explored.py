"""What is explored: a small fleet and its spec, and one state of the whole. See `explorer`.

A state is what the server stores, what each device said last, what its document names, and how long ago what happened, in hours:
every deadline of the spec is one hour, so a jump of an hour makes any of them due and no order of two is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import Phase
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    CheckEnd,
    Confirmation,
    Member,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    Verdict,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.spec.model import Mode, profile_of
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS
from edgefleet_sim.world import bundle_of

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
ROLLOUT: Final = RolloutId("r-1")


@dataclass(frozen=True, slots=True)
class Document:
    """What a device's document names. gen: of the document; attempt: of the offer, 1 without a rollout.

    candidate: beside the bundle, None = nothing; share: of the requests that it answers, in percent, 0 = it is a shadow.
    """

    gen: int
    bundle: Bundle | None
    attempt: int = 1
    candidate: Bundle | None = None
    share: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """One state of the whole. joined: how many of the fleet's devices are there; code: why the rollout is in its state."""

    now: datetime
    state: RolloutState
    reason: str
    cells: tuple[StageRun, ...]
    assignments: tuple[Assignment, ...]
    reports: tuple[Report, ...]
    documents: tuple[Document, ...]
    joined: int
    code: str = ""
    confirmations: tuple[Confirmation, ...] = ()
    checks: tuple[tuple[str, CheckEnd], ...] = ()
    """Checks that drawn devices were asked for, by task."""


@dataclass(frozen=True)
class Fleet:
    """What is explored: devices by rank, a spec, and whether the last device joins late.

    device: fields of the spec's `device` besides the deadlines. without: steps that never happen.
    is_small: it can be explored whole. liar: place of the device that says what it likes; then the release is good on all others.
    """

    name: str
    strata: tuple[str, ...]
    stages: tuple[Mapping[str, Any], ...]
    on_fail: str = "rollback"
    late: int = 0
    device: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    is_small: bool = False
    liar: int | None = None


class Ground:
    """What stays the same while one fleet is explored. old, new, other: each device's bundles, by its place in the order of ranks."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.spec = parse_spec(
            {
                "release": "digits@1.2.0",
                "selector": "",
                "stages": [dict(stage) for stage in fleet.stages],
                "device": {f"{name}_deadline": "1h" for name in ("ack", "download", "apply", "verify")}
                | dict(fleet.device),
                "on_fail": fleet.on_fail,
                "on_inconclusive": {"after": "3h", "do": fleet.on_fail},
            }
        )
        self.shapes = self.spec.stages
        self.modes = [shape.mode for shape in self.shapes]
        self.beside = frozenset(index for index, mode in enumerate(self.modes) if mode is not Mode.ACTIVE)
        self.salt = "explored"
        names = [DeviceId(f"d{number}") for number in range(len(fleet.strata))]
        self.devices = sorted(names, key=lambda one: rank(self.salt, one))
        self.place = {device: place for place, device in enumerate(self.devices)}
        self.members = tuple(
            Member(device, ProfileName(stratum)) for device, stratum in zip(self.devices, fleet.strata, strict=True)
        )
        self.bundles = {ProfileName(name): bundle_of("new", profile_of(name)) for name in fleet.strata}
        self.old = [bundle_of("old", profile_of(name)) for name in fleet.strata]
        self.new = [self.bundles[ProfileName(name)] for name in fleet.strata]
        self.other = [bundle_of("other", profile_of(name)) for name in fleet.strata]

    def first(self) -> Node:
        """Return the state in which the rollout was just made."""
        reports = tuple(Report(phase=Phase.COMMITTED, active_sha256=old.sha256, is_online=True) for old in self.old)
        documents = tuple(Document(0, old) for old in self.old)
        joined = len(self.devices) - self.fleet.late
        return Node(START, RolloutState.RUNNING, "started", (), (), reports, documents, joined)

    def snapshot(self, node: Node, seed: str = "") -> Snapshot:
        """Return what the server would load. seed: by which it draws devices now."""
        present = self.devices[: node.joined]
        reports = {device: self._report(node, place) for place, device in enumerate(present)}
        return Snapshot(
            id=ROLLOUT,
            state=node.state,
            spec=self.spec,
            salt=self.salt,
            bundles=self.bundles,
            members=self._members(node) if node.state in ROLLOUT_WALKS else (),
            cells=node.cells,
            assignments=node.assignments,
            reports=reports,
            code=node.code,
            reason=node.reason,
            confirmations=node.confirmations,
            checks=dict(node.checks),
            suspects=frozenset(
                DeviceId(device) for one in node.confirmations if one.verdict is Verdict.REFUTED for device in one.words
            ),
            seed=seed,
        )

    def _report(self, node: Node, place: int) -> Report:
        said, document = node.reports[place], node.documents[place]
        wanted = "" if document.bundle is None else document.bundle.sha256
        set_by = ROLLOUT if document.bundle == self.new[place] else ""
        if not self.beside:
            return replace(said, wanted_by_server=wanted, set_by=set_by)
        beside = "" if document.candidate is None else document.candidate.sha256
        candidate = replace(said.candidate, wanted_by_server=beside, set_by=ROLLOUT if beside else "")
        return replace(said, wanted_by_server=wanted, set_by=set_by, candidate=candidate)

    def _members(self, node: Node) -> tuple[Member, ...]:
        """Return who belongs to it: the release cannot run beside itself, so whoever is told to run it is barred from these stages."""
        members = self.members[: node.joined]
        if not self.beside:
            return members
        told = zip(members, node.documents, self.new, strict=False)
        return tuple(replace(one, barred=self.beside) if doc.bundle == new else one for one, doc, new in told)
