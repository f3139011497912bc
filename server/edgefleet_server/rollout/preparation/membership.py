"""Which devices a rollout has now, in which strata, and in which stages each may not be. Reads in the caller's transaction.

- dynamic: what matches the selector now. snapshot: what matched when the rollout was made, whatever the labels are since.
- A stage with a `match` bars what does not match it; one that runs the release as a candidate bars devices that run none of the model,
  or this very release already.
- A protected device takes no part where nobody approves the rollout for its stratum first: it counts as pinned.
- A device without a key for sealed models takes no part where its bundle is sealed: it counts as pinned.
- A suspect device is barred from all stages but the last, so that it is never among the first.
- What costs a query is asked only where the spec needs it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName, ReleaseRef
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.fleet.model import NO_MODEL_KEY, DeviceFacts
from edgefleet_server.fleet.selectors.device_selector import crowd_of
from edgefleet_server.rollout.model import Assignment, Bundle, Member, Report, StageRun
from edgefleet_server.rollout.planner.first_approval import approvers, asks_first, left_out
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.spec.fields import PROFILE, RUNTIME
from edgefleet_server.rollout.spec.model import NO_VALUE, Mode, Spec, profile_of
from edgefleet_server.rollout.spec.parser import releases_in
from edgefleet_terms.reserved_labels import PIN_LABEL

_NOWHERE: Final[frozenset[int]] = frozenset()


def members_of(
    fleet: RolloutFleet, spec: Spec, bundles: Mapping[ProfileName, Bundle], frozen: Collection[str] | None
) -> tuple[Member, ...]:
    """Return the members of a rollout. bundles: of its release, by profile; frozen: ids of a snapshot, None when dynamic."""
    everybody = fleet.devices.population(spec.selector if frozen is None else "")
    found = [one for one in everybody if frozen is None or one.id in frozen]
    barred, keyless = _barred(fleet, spec, found, bundles), _keyless(fleet, found, bundles)
    return tuple(
        Member(
            device=one.id,
            stratum=stratum_of(spec.strata, one),
            barred=barred.get(one.id, _NOWHERE),
            pinned=pinned_of(one.labels) or (NO_MODEL_KEY if one.id in keyless else ""),
            is_suspect=one.is_suspect,
        )
        for one in found
    )


def stratum_of(keys: Sequence[str], device: DeviceFacts) -> ProfileName:
    """Return a device's stratum: its profile, then each label of the spec's strata (`rpi5-ort/site=berlin`)."""
    return _stratum(device.profile, {key: device.labels.get(key) for key in labels_in(keys)})


def without_unapproved(
    members: Sequence[Member],
    rules: Mapping[str, Sequence[str]],
    spec: Spec,
    runs: Sequence[StageRun] = (),
    *,
    is_made: bool = False,
) -> tuple[Member, ...]:
    """Return the members as protection rules let them take part. rules: of protected devices; runs: the stages of the rollout.

    Where the first stage asks nobody, or was left out, they are pinned. Of one that is made, they have only the first stage until that
    is approved for their stratum.
    """
    if not rules:
        return tuple(members)
    is_asked, unasked, approved = asks_first(spec), left_out(runs), approvers(spec, runs)
    later = frozenset(range(1, len(spec.stages))) if is_made else frozenset[int]()

    def allowed(one: Member) -> Member:
        if one.device not in rules or one.pinned or one.stratum in approved:
            return one
        if is_asked and one.stratum not in unasked:
            return replace(one, barred=one.barred | later)
        return replace(
            one, pinned=f"the protection rule {rules[one.device][0]} demands that the first stage is approved"
        )

    return tuple(allowed(one) for one in members)


def labels_in(keys: Sequence[str]) -> list[str]:
    """Return the labels among the keys of a spec's strata."""
    return [key for key in keys if key not in (PROFILE, RUNTIME)]


def counted(fleet: RolloutFleet, spec: Spec) -> tuple[dict[ProfileName, int], int]:
    """Return how many devices each stratum of a spec has now, and how many are pinned."""
    keys = labels_in(spec.strata)
    everybody = fleet.offers.count_matching(spec.selector, keys)
    pinned = fleet.offers.count_matching(f"{spec.selector},{PIN_LABEL}" if spec.selector else PIN_LABEL, keys)
    counts: Counter[ProfileName] = Counter()
    for found, sign in ((everybody, 1), (pinned, -1)):
        for one in found:
            counts[_stratum(one.profile, dict(zip(keys, one.values, strict=True)))] += sign * one.devices
    return {name: count for name, count in counts.items() if count}, sum(one.devices for one in pinned)


def _stratum(profile: str, labels: Mapping[str, str | None]) -> ProfileName:
    return ProfileName(profile + "".join(f"/{key}={value or NO_VALUE}" for key, value in labels.items()))


def pinned_of(labels: Mapping[str, str]) -> str:
    """Return why a device takes no part in rollouts, "" when it does."""
    return "" if PIN_LABEL not in labels else labels[PIN_LABEL] or f"it has the label {PIN_LABEL}"


def by_stratum(
    bundles: Mapping[ProfileName, Bundle], members: Sequence[Member], assignments: Sequence[Assignment]
) -> dict[ProfileName, Bundle]:
    """Return the bundles by stratum: by profile, and for strata that are parts of one."""
    strata = {one.stratum for one in members} | {one.stratum for one in assignments}
    parts = {name: bundles[ProfileName(profile_of(name))] for name in strata if profile_of(name) in bundles}
    return {**bundles, **parts}


def selectors_in(spec: Spec) -> Iterator[str]:
    """Yield every selector that a spec has: its own, and those of its stages."""
    yield spec.selector
    yield from (stage.match for stage in spec.stages if stage.match)


Allows = Callable[[Touched], object]
"""Raises where a person may not touch something."""


def anything(_touched: Touched) -> None:
    """Let the server itself touch anything."""


def touched_by(spec: Spec) -> Touched:
    """Return what a rollout touches: the models that it names, on all devices that its selector finds at any time."""
    return Touched(frozenset(ref.model for ref in releases_in(spec)), crowd_of(spec.selector))


def _keyless(
    fleet: RolloutFleet, found: Sequence[DeviceFacts], bundles: Mapping[ProfileName, Bundle]
) -> frozenset[DeviceId]:
    """Return the devices whose bundle is sealed, and that could not open it."""
    sealed = {profile for profile, bundle in bundles.items() if bundle.is_sealed}
    asked = [one.id for one in found if one.profile in sealed]
    return frozenset(asked) - fleet.devices.with_model_key(asked) if asked else frozenset()


def _barred(
    fleet: RolloutFleet, spec: Spec, found: Sequence[DeviceFacts], bundles: Mapping[ProfileName, Bundle]
) -> dict[DeviceId, frozenset[int]]:
    ids = [one.id for one in found]
    stages = {one.id: set(range(len(spec.stages) - 1)) for one in found if one.is_suspect}
    matching = {
        match: {one.id for one in fleet.devices.population(match)}
        for match in {stage.match for stage in spec.stages if stage.match}
    }
    candidate_stages = [index for index, stage in enumerate(spec.stages) if stage.mode is not Mode.ACTIVE]
    if candidate_stages:
        for device in _without_another(fleet, spec, found, bundles):
            stages.setdefault(device, set()).update(candidate_stages)
    for index, stage in enumerate(spec.stages):
        if stage.match:
            for device in ids:
                if device not in matching[stage.match]:
                    stages.setdefault(device, set()).add(index)
    return {device: frozenset(some) for device, some in stages.items()}


def _without_another(
    fleet: RolloutFleet, spec: Spec, found: Sequence[DeviceFacts], bundles: Mapping[ProfileName, Bundle]
) -> Iterator[DeviceId]:
    """Yield the devices that cannot run the release as a candidate: they have no active version, or it is the release itself."""
    wants = fleet.offers.wants([one.id for one in found], ModelName(ReleaseRef.parse(spec.release).model))
    for one in found:
        want = wants.get(one.id)
        active = want.active if want is not None else None
        mine = bundles.get(one.profile)
        if active is None or (mine is not None and active.sha256 == mine.sha256):
            yield one.id


def suspects_in(members: Iterable[Member], reports: Mapping[DeviceId, Report]) -> frozenset[DeviceId]:
    """Return the suspect devices of a rollout. What is known with a report is newer than what is known of a member."""
    heard = {device for device, one in reports.items() if one.is_suspect}
    return frozenset(heard.union(one.device for one in members if one.is_suspect and one.device not in reports))


def as_taking_part(one: Assignment, now: Mapping[DeviceId, Member]) -> Member:
    """Return a device that takes part: in the stratum in which it does, whatever it is labelled now."""
    found = now.get(one.device)
    return Member(one.device, one.stratum) if found is None else replace(found, stratum=one.stratum, pinned="")
