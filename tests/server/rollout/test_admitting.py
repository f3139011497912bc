"""What is left of a pace: no order in which replicas act exceeds a limit, and a line carries no more than it can."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout import admission
from edgefleet_server.rollout.admission import AdmissionControl
from edgefleet_server.rollout.effects import BandwidthBooked, LeaseTaken
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    Lease,
    PaceFacts,
    Report,
    RolloutState,
    Snapshot,
    Whereabouts,
)
from edgefleet_server.rollout.spec.model import Limits
from edgefleet_server.rollout.spec.parser import parse_spec

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROFILE = ProfileName("rpi")
DIGEST = "d" * 64
_S = AssignmentState


@dataclass
class Store:
    """What is committed, and who holds the line's lock."""

    held: dict[tuple[int, DeviceId], Lease] = field(default_factory=dict)
    line_until: datetime | None = None
    holder: int | None = None


def snapshot_of(rollout: int, devices: int, store: Store, length: int = 9, **spec: Any) -> Snapshot:
    """Return a rollout whose devices all wait: device n is at site n % 2."""
    names = [DeviceId(f"d-{rollout}-{n}") for n in range(devices)]
    own = tuple(lease for (owner, _), lease in store.held.items() if owner == rollout)
    by_site = Counter(lease.site for lease in store.held.values())
    where = {name: Whereabouts(f"s{n % 2}", "UTC") for n, name in enumerate(names)}
    return Snapshot(
        id=RolloutId(f"r-{rollout}"),
        state=RolloutState.RUNNING,
        spec=parse_spec({"release": "digits@1.1.0", "selector": "", **spec}),
        salt="salt",
        bundles={PROFILE: Bundle("t", Sha256(DIGEST), length)},
        members=(),
        cells=(),
        assignments=tuple(Assignment(name, 0, PROFILE, _S.ELIGIBLE, due_at=NOW) for name in names),
        reports={name: Report(is_online=True, last_seen=NOW) for name in names},
        pace=PaceFacts((), own, len(store.held), by_site, store.line_until, where),
    )


def taken(snapshot: Snapshot, now: datetime = NOW) -> list[LeaseTaken | BandwidthBooked]:
    """Offer to everyone who may be offered the release."""
    ledger = AdmissionControl(snapshot, now)
    held = {lease.device for lease in snapshot.pace.leases}
    found: list[LeaseTaken | BandwidthBooked] = []
    for a in snapshot.assignments:
        if a.device not in held and ledger.blocked_by(a, 0) is None:
            found += [one for one in ledger.admit(a, 0) if isinstance(one, LeaseTaken | BandwidthBooked)]
    return found


class Replica:
    """One engine that ticks one rollout: lock, read, decide, commit; one of these a step."""

    def __init__(self, number: int, store: Store, limits: dict[str, int], *, locks: bool) -> None:
        self._number, self._store, self._limits, self._locks = number, store, limits, locks
        self._plan: list[LeaseTaken | BandwidthBooked] | None = None
        self._is_in = False

    def step(self) -> None:
        """Do the next of the four."""
        store = self._store
        if not self._is_in:
            if self._locks and store.holder is not None:
                return  # waits for the other one's commit
            store.holder, self._is_in = self._number if self._locks else None, True
        elif self._plan is None:
            self._plan = taken(snapshot_of(self._number, 6, store, limits=self._limits))
        else:
            for effect in self._plan:
                if isinstance(effect, LeaseTaken):
                    store.held[self._number, effect.lease.device] = effect.lease
            self._plan, self._is_in, store.holder = None, False, None


def most_at_once(order: list[tuple[int, bool]], limits: dict[str, int], *, locks: bool) -> tuple[int, int]:
    """Return the most leases at once, over all and at one site. order: who does a step next, and whether a download ends first."""
    store = Store()
    replicas = [Replica(number, store, limits, locks=locks) for number in range(3)]
    most = most_at_site = 0
    for number, ends in order:
        if ends and store.held:
            del store.held[min(store.held)]
        replicas[number].step()
        by_site = Counter(lease.site for lease in store.held.values())
        most, most_at_site = max(most, len(store.held)), max(most_at_site, *by_site.values(), 0)
    return most, most_at_site


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60),
    st.fixed_dictionaries({"concurrent_downloads": st.integers(1, 7), "per_site": st.integers(1, 4)}),
)
def test_no_order_of_replicas_exceeds_a_limit_by_one(order: list[tuple[int, bool]], limits: dict[str, int]) -> None:
    most, most_at_site = most_at_once(order, limits, locks=True)
    assert most <= limits["concurrent_downloads"]
    assert most_at_site <= limits["per_site"]


def test_without_the_lock_the_same_replicas_would_exceed_it() -> None:
    order = [(number, False) for _ in range(3) for number in range(3)]
    assert most_at_once(order, {"concurrent_downloads": 2, "per_site": 2}, locks=False) > (2, 2)


@settings(deadline=None)
@given(
    st.integers(8_000, 10**8),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 10**7)), min_size=1, max_size=40),
)
def test_a_line_never_carries_more_than_its_bandwidth(bits: int, looks: list[tuple[int, int]]) -> None:
    """looks: milliseconds since the last one, and the length of the bundle that is waited for."""
    limits, now, until = Limits(bandwidth_bps=bits), NOW, None
    began: list[tuple[datetime, int]] = []
    for waited_ms, length in looks:
        now += timedelta(milliseconds=waited_ms)
        while admission.line_is_free(limits, until, now) and len(began) < 200:
            until = admission.booked(limits, until, length, now)
            began.append((now, length))
    largest = max(length for _, length in looks)
    for place, (start, _) in enumerate(began):
        for end, _ in began[place:]:
            span_s = (end - start + admission.AHEAD).total_seconds()
            sent = sum(length for at, length in began[place:] if at <= end)
            assert sent <= bits * span_s / 8 + largest + 1


def test_each_wait_says_why_and_what_would_move_it() -> None:
    full = Store({(9, DeviceId(f"x{n}")): Lease(DeviceId(f"x{n}"), RolloutId("r"), "s0", 9, NOW) for n in range(2)})
    found = {}
    for name, store, spec in (
        ("downloads", full, {"limits": {"concurrent_downloads": 2}}),
        ("site", full, {"limits": {"per_site": 2}}),
        ("bandwidth", Store(line_until=NOW + timedelta(minutes=1)), {"limits": {"bandwidth": "8kbps"}}),
        ("window", Store(), {"windows": [{"cron": "0 1 * * *", "duration": "1h"}]}),
        ("rate", Store(), {"stages": [{"size": {"percent": 100}, "rate": {"start": "1/min"}}]}),
    ):
        snapshot = snapshot_of(0, 1 if name != "rate" else 2, store, **spec)
        ledger = AdmissionControl(snapshot, NOW)
        if name == "rate":
            ledger.admit(snapshot.assignments[1], 0)
        wait = ledger.blocked_by(snapshot.assignments[0], 0)
        assert wait is not None, name
        found[wait.code] = wait
        assert wait.reason
        assert wait.moves
    assert set(found) == {"downloads", "site", "bandwidth", "window", "rate"}
    assert found["window"].until == datetime(2026, 11, 26, 1, tzinfo=UTC)
    assert found["rate"].until == NOW + timedelta(minutes=1)
    assert found["bandwidth"].until == NOW + timedelta(seconds=58)


# ---- until when a lease is held


def assigned(state: AssignmentState, **fields: Any) -> Assignment:
    usual: dict[str, Any] = {"gen": 7, "attempt": 1, "entered_at": NOW}
    return Assignment(DeviceId("d"), 0, PROFILE, state, **usual | fields)


@pytest.mark.parametrize(
    ("a", "report", "holds"),
    [
        (None, None, False),
        (assigned(_S.OFFERED), None, True),
        (assigned(_S.DOWNLOADING), Report(is_online=False), True),
        (assigned(_S.STAGED), Report(is_online=True), False),
        (assigned(_S.ELIGIBLE), Report(is_online=True, reported_gen=7), True),
        (assigned(_S.ELIGIBLE), Report(is_online=True, reported_gen=6), True),
        (assigned(_S.ELIGIBLE), Report(is_online=True, reported_gen=8), False),
        (assigned(_S.ELIGIBLE), Report(is_online=False, reported_gen=7), False),
        (assigned(_S.ELIGIBLE, entered_at=NOW - admission.SETTLE), Report(is_online=True, reported_gen=7), False),
        (
            assigned(_S.FAILED),
            Report(True, Phase.FAILED, "", "", DIGEST, 1, 7, ErrorClass.GOLDEN, is_online=True),
            False,
        ),
        (
            assigned(_S.FAILED),
            Report(True, Phase.FAILED, "", "", DIGEST, 1, 7, ErrorClass.NETWORK, is_online=True),
            True,
        ),
        (assigned(_S.DOWNLOADING, back_gen=8, back_at=NOW), Report(is_online=True, reported_gen=8), False),
    ],
    ids=[
        "gone", "offered", "downloading though away", "past it", "recalled and not heard", "recalled, never heard",
        "took the newer one", "recalled and away", "had its time", "failed for good", "failed and may try on", "taken back",
    ],
)  # fmt: skip
def test_until_when_a_lease_is_held(a: Assignment | None, report: Report | None, holds: bool) -> None:
    assert admission.holds(a, report, DIGEST, NOW) is holds
