"""What a device's document names, what the device runs and may yet come to run. Pure; answers questions and changes nothing.

withdrawn: devices whose offer is taken back by the plan in the making; their documents name what they ran before once it is carried out.
"""

from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import Assignment, Snapshot, has_written
from edgefleet_server.rollout.planner.observe import is_under_way, runs_candidate
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.state_machines import FAILED_STATES

BATCH: Final = 200
"""Documents that one pass signs for a rollout of up to 2,000 devices: a pass stays short, and the next one follows at once."""
BATCH_SHARE: Final = 0.1
"""Of a larger one a pass plans this share, since it looks at every device first; it is carried out in batches (`controller.batches`)."""
HUGE: Final = 20_000
"""One with more devices is planned whole, there and back: a pass takes seconds of the processor there (ADR 0060)."""

Devices = AbstractSet[DeviceId]

_FAILED_EARLY: Final = FAILED_STATES - {AssignmentState.REGRESSED}
"""Failed while the rollout brought the release there; what regressed had been healthy."""

_OUT: Final = frozenset(
    {AssignmentState.ELIGIBLE, AssignmentState.INCOMPATIBLE, AssignmentState.SUPERSEDED, AssignmentState.CANCELLED}
)
"""Nothing of the release is in the device's document because of this rollout."""


def batch_for(devices: int) -> int:
    """Return how many documents one pass may sign for a rollout of so many devices."""
    return devices if devices > HUGE else max(BATCH, int(devices * BATCH_SHARE))


def digest_of(snapshot: Snapshot, stratum: ProfileName) -> str:
    """Return the digest of the release's bundle for a stratum, "" when there is none."""
    bundle = snapshot.bundles.get(stratum)
    return "" if bundle is None else bundle.sha256


def mode_of(snapshot: Snapshot, stage: int) -> Mode:
    """Return how the release runs in a stage."""
    return snapshot.spec.stages[stage].mode


def time_to_answer(snapshot: Snapshot, a: Assignment) -> timedelta:
    """Return what is left of `ack_deadline` after offers that were recalled."""
    return snapshot.spec.device.ack - timedelta(seconds=a.unanswered_s)


# ---- what the document names


def asks_for_candidate(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    """Return whether the device's document names the release as a candidate, because of this rollout."""
    if a.device in withdrawn:
        return False
    report, digest = snapshot.reports.get(a.device), digest_of(snapshot, a.stratum)
    return report is not None and digest != "" and has_written(snapshot.id, a, digest, report.candidate)


def asks_for_release(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    """Return whether the device's document is still this rollout's: what somebody else wrote over it is never touched."""
    report = snapshot.reports.get(a.device)
    if report is None or has_written(snapshot.id, a, digest_of(snapshot, a.stratum), report):
        return True
    return asks_for_candidate(snapshot, a, withdrawn)


def is_overwritten(snapshot: Snapshot, a: Assignment) -> bool:
    """Return whether something newer than the rollout set the device's document, so that the device says nothing about it any more.

    Not of a failed device that what it ran before was given back to: limits do that when it fails. Nor of a candidate, which
    ends with its rollout.
    """
    if not a.gen or a.back_gen or mode_of(snapshot, a.stage) is not Mode.ACTIVE:
        return False
    if a.state in _FAILED_EARLY and asks_for_former(snapshot, a, frozenset()):
        return False
    return not asks_for_release(snapshot, a, frozenset())


def asks_for_former(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    """Return whether the device's document names what it ran before, or will when the plan is carried out."""
    report = snapshot.reports.get(a.device)
    if report is None or a.previous is None:
        return False
    return a.device in withdrawn or report.wanted_by_server == a.previous.sha256


def asks_as_its_stage_does(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    """Return whether the device's document asks for the release in the mode of its stage."""
    is_candidate = asks_for_candidate(snapshot, a, withdrawn)
    if mode_of(snapshot, a.stage) is not Mode.ACTIVE:
        return is_candidate
    return asks_for_release(snapshot, a, withdrawn) and not is_candidate


def is_untouched(snapshot: Snapshot, a: Assignment) -> bool:
    """Return whether the device's document asks for what it asked for before this rollout: nobody else wrote over it."""
    report = snapshot.reports.get(a.device)
    if report is None or report.is_revoked:
        return False
    return report.wanted_by_server == _former(a) != digest_of(snapshot, a.stratum)


# ---- what the device runs


def may_be_on_it(snapshot: Snapshot, a: Assignment) -> bool:
    """Return whether a device runs the release, or says that it is coming to it: perhaps for an offer before its newest one."""
    report = snapshot.reports.get(a.device)
    is_coming = report is not None and is_under_way(report, digest_of(snapshot, a.stratum), _former(a))
    return _switched_after_all(snapshot, a) or (a.gen > 0 and is_coming)


def is_still_on_it(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    """Return whether a device runs the release, or may come to, although its document names what it ran before."""
    return asks_for_former(snapshot, a, withdrawn) and may_be_on_it(snapshot, a)


def may_have_switched(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    """Return whether a device whose offer was withdrawn runs the release, or may come to: it took the offer up, and nothing since."""
    report = snapshot.reports.get(a.device)
    goes_on = a.exposed_at is not None and report is not None and report.reported_gen == a.gen > 0
    if may_be_on_it(snapshot, a):
        return True
    return goes_on and asks_for_former(snapshot, a, withdrawn) and _is_new_to(snapshot, a, withdrawn)


def needs_rollback(a: Assignment) -> bool:
    """Return whether the device's document may still name the release because of this rollout."""
    return a.gen > 0 and not a.back_gen and a.state not in _OUT


def _switched_after_all(snapshot: Snapshot, a: Assignment) -> bool:
    """Whether a device whose offer was withdrawn runs the release, as candidate too: it had begun when the pause reached it."""
    report = snapshot.reports.get(a.device)
    digest = digest_of(snapshot, a.stratum)
    if report is None or a.gen == 0 or digest == _former(a):
        return False
    return report.active_sha256 == digest or runs_candidate(report, digest)


def _is_new_to(snapshot: Snapshot, a: Assignment, withdrawn: Devices) -> bool:
    if mode_of(snapshot, a.stage) is not Mode.ACTIVE:
        # a candidate may answer, too: it ends when the device knows that it is to
        return not asks_for_candidate(snapshot, a, withdrawn)
    return digest_of(snapshot, a.stratum) != _former(a)


def _former(a: Assignment) -> str:
    return "" if a.previous is None else a.previous.sha256
