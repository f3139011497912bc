"""Drift in sentences: what moved, how, and where. Pure."""

from collections.abc import Sequence
from typing import Final

from edgefleet_protocol.drift.reference import SignalKind
from edgefleet_server.telemetry.drift.location import Where
from edgefleet_server.telemetry.drift.rules import DriftKind, SignalFinding, SignalState
from edgefleet_terms.feature_importance import NOT_ASKED, Importance
from edgefleet_terms.moved_inputs import rank_of, weighed_text

LEAST_SHIFT: Final = 0.1
"""Of the mean, in standard deviations, to be worth a word."""
LEAST_SHARE: Final = 0.01
MOST_NAMES: Final = 3


def figure(value: float) -> str:
    """Return a number in two digits."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def of_signal(found: SignalFinding) -> str:
    """Return what is said of a signal in one sentence."""
    devices = len(found.effects)
    match found.state:
        case SignalState.FEW:
            return "Too few answers to judge it."
        case SignalState.SAME:
            return f"As in the reference on {_count(devices)}."
        case SignalState.SMALL:
            return f"A little different on {_count(devices)}, too little to matter."
        case SignalState.DRIFT:
            said = _what(found)
            return f"{said[0].upper()}{said[1:]} {place(found)}."


def _what(found: SignalFinding) -> str:
    """Return how it moved: first what a person can look for."""
    if found.missing - found.missing_before >= LEAST_SHARE:
        return f"{found.missing:.0%} of the values are missing ({found.missing_before:.0%} before)"
    if found.spec.kind == SignalKind.CLASSES:
        return f"classes are answered in other shares (PSI {figure(found.psi)})"
    if found.shift_z is not None and abs(found.shift_z) >= LEAST_SHIFT:
        way = "higher" if found.shift_z > 0 else "lower"
        beyond = f", {found.beyond:.0%} of it beyond what the reference ever saw" if found.beyond >= LEAST_SHARE else ""
        return f"{figure(abs(found.shift_z))} σ {way}{beyond}"
    if found.spread is not None and not 0.8 <= found.spread <= 1.25:
        return f"spread out {figure(found.spread)} times as far as before"
    return f"spread otherwise than before (PSI {figure(found.psi)})"


def place(found: SignalFinding) -> str:
    """Return where it moved, and how many devices that are."""
    moved, devices = len(found.moved), len(found.effects)
    share = f"({moved} of {devices} devices)"
    also = f", which is the same as {' and '.join(found.location.also)}" if found.location.also else ""
    match found.location.where:
        case Where.ALL:
            return f"on the whole fleet {share}"
        case Where.SITE:
            return f"at site {found.location.name}{also} {share}"
        case Where.PROFILE:
            return f"on hardware profile {found.location.name}{also} {share}"
        case Where.GROUP:
            return f"in group {found.location.name}{also} {share}"
        case Where.DEVICE:
            return (
                f"on one device of {devices}, {_name(found)}" if devices > 1 else f"on its one device, {_name(found)}"
            )
        case _:
            return f"on single devices {share}, which have no site, profile or group in common"


def _name(found: SignalFinding) -> str:
    member = found.moved[0].member
    return f"{member.name} ({member.device})" if member.name else member.device


def of_model(kind: DriftKind, found: Sequence[SignalFinding], devices: int, importance: Importance = NOT_ASKED) -> str:
    """Return what is said of a release: which side moved, which signals, and where the one did that matters most, or moved most."""
    drifting = sorted(
        (one for one in found if one.state is SignalState.DRIFT),
        key=lambda one: (rank_of(one.spec.name, importance), -one.psi),
    )
    if not drifting:
        judged = [one for one in found if one.state is not SignalState.FEW]
        if not judged:
            return "Devices have reported too few answers to judge."
        return f"Inputs and answers are as in the reference on {_count(devices)}."
    side = {
        DriftKind.DATA: "The inputs have drifted, the answers have not",
        DriftKind.PREDICTION: "The answers have drifted, the inputs that are watched have not",
        DriftKind.BOTH: "Inputs and answers have drifted",
    }[kind]
    names = [one.spec.name for one in drifting]
    first = drifting[0]
    weighed = "" if first.is_output else weighed_text(first.spec.name, first.psi, importance)
    strongest = f"{first.spec.name}, {_what(first)} {place(first)}.{f' {weighed}.' if weighed else ''}"
    if len(names) == 1:
        return f"{side}: {strongest}"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    most = "First to look at:" if importance.features else "Most of all"
    return f"{side}: {', '.join(names[:MOST_NAMES])}{more}. {most} {strongest}"


def _count(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices} devices"
