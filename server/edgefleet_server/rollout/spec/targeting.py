"""Reads the fields of a spec that give a rollout its form, and writes them back. Pure; part of `spec`.

Source: docs/reference/rollout-spec.md.
"""

from collections.abc import Sequence
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.selectors.grammar import is_label_key, parse_selector
from edgefleet_server.rollout.spec.model import (
    NO_WAY_BACK,
    PREVIOUS,
    PROFILE,
    RUNTIME,
    Approval,
    Membership,
    Mode,
    SpecShape,
    StageShape,
    Supersede,
)
from edgefleet_server.rollout.spec.reader import Place, duration_text

STAGE_FIELDS: Final = ("match", "mode", "share_pct", "approval")
SPEC_FIELDS: Final = ("membership", "supersede", "rollback_to", "strata")
MAX_STRATUM_KEYS: Final = 3
NO_APPROVAL: Final = "none"
_ORDER: Final = {mode: place for place, mode in enumerate(Mode)}


def parse_stage_shape(place: Place, *, is_last: bool) -> StageShape:
    """Return the form of one stage."""
    mode = place.choice("mode", Mode, Mode.ACTIVE)
    match = _match(place.get("match"))
    before = len(place.errors)
    share = place.whole("share_pct", 1, 99)
    if (share is not None) != (mode is Mode.SPLIT) and len(place.errors) == before:
        told = "is missing: how many of 100 requests the release answers in mode split, for example 10"
        place.at("share_pct").fail(told if share is None else "only a stage of mode split has a share; remove it")
    if is_last and mode is not Mode.ACTIVE:
        place.at("mode").fail(
            "the last stage must be active, or the rollout would end with a release that serves nowhere"
        )
    if is_last and match:
        place.at("match").fail(
            "the last stage takes every device; add a stage {name: rest, size: {percent: 100}}, or narrow the selector"
        )
    return StageShape(match, mode, share or 0, _approval(place.get("approval")))


def check_modes(items: Sequence[Place], shapes: Sequence[StageShape | None]) -> None:
    """Note where a stage goes back to a mode that takes less of a device: what serves is not made a trial again."""
    before = Mode.SHADOW
    for item, shape in zip(items, shapes, strict=True):
        if shape is None:
            continue
        if _ORDER[shape.mode] < _ORDER[before]:
            item.at("mode").fail(
                f"{shape.mode.value} after {before.value}: shadow comes first, then split, then active"
            )
        before = max(before, shape.mode, key=_ORDER.__getitem__)


def dump_stage_shape(shape: StageShape) -> dict[str, Any]:
    """Return the normal form of a stage's form."""
    asked = shape.approval
    share = {"share_pct": shape.share_pct} if shape.mode is Mode.SPLIT else {}
    return {
        "match": shape.match,
        "mode": shape.mode.value,
        **share,
        "approval": NO_APPROVAL
        if asked is None
        else {"role": asked.role.value, "timeout": duration_text(asked.timeout)},
    }


def parse_spec_shape(place: Place, release: str) -> SpecShape:
    """Return the form of a whole rollout. release: as the spec names it, "" when that could not be read."""
    return SpecShape(
        membership=place.choice("membership", Membership, Membership.DYNAMIC),
        supersede=place.choice("supersede", Supersede, Supersede.REJECT),
        rollback_to=_rollback_to(place.get("rollback_to"), release),
        strata=_strata(place.get("strata")),
    )


def dump_spec_shape(shape: SpecShape) -> dict[str, Any]:
    """Return the normal form of a rollout's form."""
    return {
        "membership": shape.membership.value,
        "supersede": shape.supersede.value,
        "rollback_to": shape.rollback_to,
        "strata": list(shape.strata),
    }


def shape_text(shape: StageShape) -> str:
    """Return a stage's form in words, "" for an ordinary one: `of tz=EU, as a shadow, once approved (approver)`."""
    parts = []
    if shape.match:
        parts.append(f"of {shape.match}")
    if shape.mode is Mode.SHADOW:
        parts.append("as a shadow")
    elif shape.mode is Mode.SPLIT:
        parts.append(f"for {shape.share_pct} % of the requests")
    if shape.approval is not None:
        parts.append(f"once approved ({shape.approval.role.value})")
    return ", ".join(parts)


def _match(place: Place | None) -> str:
    if place is None or (text := place.text()) is None:
        return ""
    try:
        parse_selector(text)
    except EdgefleetError as error:
        place.fail(f"{error.message} {error.next_step}".strip())
    return text


def _approval(place: Place | None) -> Approval | None:
    if place is None or place.value == NO_APPROVAL:
        return None
    if not isinstance(place.value, dict):
        place.fail(f"expected none or {{role: approver, timeout: 48h}}, got {place.shown()}")
        return None
    place.only(("role", "timeout"))
    usual = Approval()
    role = place.choice("role", Role, usual.role)
    if role is Role.VIEWER:
        place.at("role").fail("a viewer decides nothing; write operator, publisher, approver or admin")
    return Approval(role, place.duration("timeout", usual.timeout, positive=True))


def _rollback_to(place: Place | None, release: str) -> str:
    if place is None or (text := place.text()) is None:
        return PREVIOUS
    if text in (PREVIOUS, NO_WAY_BACK):
        return text
    try:
        back = ReleaseRef.parse(text)
    except EdgefleetError:
        place.fail(f"expected previous, none or a release as model@version, got {place.shown()}")
        return PREVIOUS
    if release and back.model != ReleaseRef.parse(release).model:
        place.fail(f"{text} is a release of another model than {release}; a device goes back within its model")
    elif text == release:
        place.fail(f"{text} is the release that goes out; name an earlier one, or write previous")
    return str(back)


def _strata(place: Place | None) -> tuple[str, ...]:
    usual = SpecShape().strata
    if place is None or (items := place.items()) is None:
        return usual
    keys = [item.text() for item in items]
    if None in keys:
        return usual
    found = tuple(str(key) for key in keys)
    for item, key in zip(items, found, strict=True):
        if found.count(key) > 1:
            item.fail(f"{key!r} is named twice")
        elif key not in (PROFILE, RUNTIME) and not is_label_key(key):
            item.fail(f"{item.shown()} is no key of a label; expected profile, runtime or keys of labels")
    if not found or found[0] != PROFILE:
        place.fail("the first stratum is profile: each profile has a bundle of its own, so it is judged by itself")
        return usual
    labels = [key for key in found if key not in (PROFILE, RUNTIME)]
    if len(labels) >= MAX_STRATUM_KEYS:
        place.fail(
            f"expected at most {MAX_STRATUM_KEYS - 1} keys of labels, got {len(labels)}: strata would be too small"
        )
        return usual
    return found
