"""Findings as the API and the pages show them. Pure."""

from collections.abc import Collection, Sequence
from typing import Final

from edgefleet_server.telemetry.drift import rules, words
from edgefleet_server.telemetry.drift.rules import CrowdEffect, DeviceEffect, SignalFinding, SignalState
from edgefleet_server.telemetry.drift.specs import bin_names
from edgefleet_server.telemetry.drift.views import DriftCohort, DriftingDevice, SignalDrift, SiteDrift
from edgefleet_terms.feature_importance import NOT_ASKED, Importance
from edgefleet_terms.moved_inputs import matters_of, rank_of, weighed_text

MOST_NAMED: Final = 20
ORDER: Final = (SignalState.DRIFT, SignalState.SMALL, SignalState.SAME, SignalState.FEW)


def signal_view(
    found: SignalFinding, history: Sequence[float | None], said: Collection[str], importance: Importance = NOT_ASKED
) -> SignalDrift:
    """Return a finding as it is shown. said: the devices that report the drift themselves; importance: of the release's inputs."""
    spec = found.spec
    before = spec.mean + spec.mean_z * spec.std if spec.has_sums else None
    shift = found.shift_z
    known = NOT_ASKED if found.is_output else importance
    feature = known.by_name.get(spec.name)
    return SignalDrift(
        name=spec.name,
        kind=spec.kind,
        state=found.state.value,
        where=found.location.where.value,
        place=found.location.name,
        also=list(found.location.also),
        said=words.of_signal(found),
        moved=len(found.moved),
        devices=len(found.effects),
        psi=round(found.psi, 4),
        shift=_rounded(shift),
        mean_before=_shown(before),
        mean_after=_shown(None if before is None or shift is None else before + shift * spec.std),
        spread=_rounded(found.spread),
        missing=round(found.missing, 4),
        missing_before=round(found.missing_before, 4),
        beyond=round(found.beyond, 4),
        log10_p=round(found.log10_p, 1),
        bins=bin_names(spec),
        before=[round(one, 5) for one in found.before],
        after=[round(one, 5) for one in found.after],
        history=list(history),
        named=devices_view(found.moved[:MOST_NAMED], said, moved=True),
        matters=matters_of(spec.name, known).value,
        importance=None if feature is None else feature.value,
        weighed=weighed_text(spec.name, found.psi, known) if found.state is SignalState.DRIFT else "",
    )


def devices_view(
    effects: Sequence[DeviceEffect], said: Collection[str], *, moved: bool = False
) -> list[DriftingDevice]:
    """Return devices as they are shown."""
    return [
        DriftingDevice(
            device=one.member.device,
            display_name=one.member.name,
            profile=one.member.profile,
            site=one.member.site,
            answers=one.n,
            psi=round(one.psi, 4),
            shift=_rounded(one.shift_z),
            moved=moved or one.has_moved,
            says_so=one.member.device in said,
        )
        for one in effects
    ]


def cohort_view(one: CrowdEffect) -> DriftCohort:
    """Return a crowd as it is shown."""
    return DriftCohort(
        where="all" if one.crowd is None else one.crowd.where.value,
        name="" if one.crowd is None else one.crowd.name,
        devices=one.devices,
        answers=one.n,
        psi=round(max(0.0, one.psi), 4),
        shift=_rounded(one.shift_z),
        log10_p=round(one.log10_p, 1),
        shares=[round(share, 5) for share in one.shares],
    )


def site_views(found: SignalFinding) -> list[SiteDrift]:
    """Return a finding by site."""
    return [SiteDrift(site, n, moved, round(psi, 4)) for site, n, moved, psi in rules.site_effects(found)]


def ordered(findings: Sequence[SignalFinding], importance: Importance = NOT_ASKED) -> list[int]:
    """Return the places of findings in the order in which they are shown: what drifts first, of that what matters, then the strongest."""

    def place(at: int) -> tuple[int, tuple[int, float], float, int]:
        one = findings[at]
        rank = rank_of(one.spec.name, importance) if one.state is SignalState.DRIFT else (0, 0.0)
        return ORDER.index(one.state), rank, -one.psi, at

    return sorted(range(len(findings)), key=place)


def state_of(findings: Sequence[SignalFinding]) -> str:
    """Return what is said of a release: drift if of any signal, else the same if of any, else too few."""
    states = {one.state for one in findings}
    if SignalState.DRIFT in states:
        return SignalState.DRIFT.value
    return (SignalState.SAME if states & {SignalState.SAME, SignalState.SMALL} else SignalState.FEW).value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _shown(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
