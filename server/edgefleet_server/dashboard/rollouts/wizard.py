"""What the four steps to a new rollout show: releases, the devices that a selector matches now, the plan of what is written so far."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.dashboard.fleet.device_query import Search
from edgefleet_server.dashboard.fleet.views import Facet, picker
from edgefleet_server.dashboard.rollout_page.stop_curve import Simulation, simulated_plan
from edgefleet_server.dashboard.rollouts.draft import EVERY, Draft, command_of, document_of, yaml_of
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.inventory.device_list import DeviceLister
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.registry.model import ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.lint.preview import ExcludedDevice, PlanView
from edgefleet_server.rollout.preparation.overlap import OpenRollout
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.spec.model import Supersede
from edgefleet_server.rollout.status.strategy_views import StrategyView, strategies

MAX_RELEASES: Final = 30
REJECT: Final = Supersede.REJECT.value
SHOWN_DEVICES: Final = 10


@dataclass(frozen=True, slots=True)
class ReleaseLine:
    """A release that may go out. profiles: those that it has a bundle for. withdrawn: why it may not go out any more."""

    ref: str
    state: str
    created_at: datetime
    profiles: Sequence[str]
    withdrawn: str = ""


@dataclass(frozen=True, slots=True)
class ProfileLine:
    """Devices of one profile that match, and whether the release has a bundle for them (None: no release is chosen yet)."""

    profile: str
    devices: int
    has_bundle: bool | None


@dataclass(frozen=True, slots=True)
class Matching:
    """The devices that a selector matches now. wrong: why it cannot be read; then nothing is counted."""

    devices: int = 0
    online: int = 0
    without_bundle: int = 0
    profiles: Sequence[ProfileLine] = ()
    some: Sequence[str] = ()
    wrong: EdgefleetError | None = None


@dataclass(frozen=True, slots=True)
class ExcludedGroup:
    """Devices that match and cannot take part, for one reason. devices: the first few."""

    reason: str
    next: str
    count: int
    devices: Sequence[str]


@dataclass(frozen=True, slots=True)
class Planned:
    """What is written so far, judged. plan: None when it cannot be read (`errors`, each with its path) or not be made (`refused`)."""

    document: Mapping[str, Any]
    yaml: str
    command: str
    plan_command: str
    plan: PlanView | None = None
    errors: Sequence[Mapping[str, str]] = ()
    refused: EdgefleetError | None = None
    excluded: Sequence[ExcludedGroup] = ()
    in_the_way: Sequence[OpenRollout] = ()

    @property
    def body(self) -> str:
        """The document as the API takes it."""
        return json.dumps(self.document, ensure_ascii=False)

    @property
    def simulation(self) -> Simulation | None:
        """How soon the stages stop a bad release in the largest stratum."""
        return None if self.plan is None else simulated_plan(self.plan)

    @property
    def can_start(self) -> bool:
        """Whether the server would start it now."""
        return self.plan is not None and self.plan.ok and not self.in_the_way


class NewRolloutPages:
    """Builds the steps. Thread-safe; calls block."""

    def __init__(
        self, devices: DeviceSelector, lists: DeviceLister, registry: RegistryService, rollouts: RolloutService
    ) -> None:
        """Wire the services."""
        self._devices = devices
        self._lists = lists
        self._registry = registry
        self._rollouts = rollouts

    def releases(self, first: str) -> list[ReleaseLine]:
        """Return the newest releases. first: the model whose releases come first, "" for none."""
        found = [_release_line(one) for one in self._registry.releases(PageRequest(MAX_RELEASES)).items]
        return sorted(found, key=lambda one: one.ref.partition("@")[0] != first)

    def picker(self, selector: str, to: Callable[[str], str]) -> Sequence[Facet]:
        """Return what the devices can be chosen by, as links. to: returns the address of the step with another selector."""
        facets = self._lists.facets()
        return picker(Search(selector), facets, lambda one: to(one.selector), groups=facets.groups)

    def matching(self, draft: Draft) -> Matching | None:
        """Return the devices that are meant now, None while the draft names none."""
        if draft["who"] != EVERY and not draft["selector"]:
            return None
        profiles = self._profiles_of(draft["release"])
        try:
            found = self._devices.population("" if draft["who"] == EVERY else draft["selector"])
        except EdgefleetError as error:
            return Matching(wrong=error)
        counts = Counter(str(one.profile) for one in found)
        lines = [
            ProfileLine(name, count, None if profiles is None else name in profiles)
            for name, count in sorted(counts.items())
        ]
        return Matching(
            devices=len(found),
            online=sum(one.status.value == "online" for one in found),
            without_bundle=sum(one.devices for one in lines if one.has_bundle is False),
            profiles=lines,
            some=[str(one.id) for one in found[:SHOWN_DEVICES]],
        )

    def planned(self, draft: Draft) -> Planned:
        """Return what a draft would do now."""
        try:
            document = document_of(draft)
        except EdgefleetError as error:
            return Planned({}, "", "", "", errors=_errors(error), refused=None if _errors(error) else error)
        texts = (yaml_of(document), command_of(document), command_of(document, "plan"))
        try:
            plan = self._rollouts.plan(document)
        except EdgefleetError as error:
            errors = _errors(error)
            return Planned(document, *texts, errors=errors, refused=None if errors else error)
        return Planned(
            document, *texts, plan=plan, excluded=excluded_groups(plan.excluded), in_the_way=self._in_the_way(document)
        )

    def strategies(self) -> list[StrategyView]:
        """Return the named strategies."""
        return strategies()

    def _profiles_of(self, release: str) -> set[str] | None:
        """Return the profiles that a release has a bundle for, None when it is not known (yet)."""
        try:
            return {str(one.profile) for one in self._registry.release(ReleaseRef.parse(release)).bundles}
        except EdgefleetError:
            return None

    def in_the_way(self, draft: Draft) -> list[OpenRollout]:
        """Return the open rollouts that want a device which a draft means, whatever it says should become of them."""
        return self._meeting(draft["release"], "" if draft["who"] == EVERY else draft["selector"])

    def _in_the_way(self, document: Mapping[str, Any]) -> list[OpenRollout]:
        """Return the same for a document that says nothing of what should become of them."""
        spec = document["spec"]
        if spec.get("supersede", REJECT) != REJECT:
            return []
        return self._meeting(spec["release"], spec.get("selector", ""))

    def _meeting(self, release: str, selector: str) -> list[OpenRollout]:
        try:
            return self._rollouts.open_on(release.partition("@")[0].partition(":")[0], selector)
        except EdgefleetError:
            return []


def excluded_groups(devices: Sequence[ExcludedDevice]) -> list[ExcludedGroup]:
    """Return devices by why they cannot take part, the most frequent reason first."""
    groups: dict[str, list[ExcludedDevice]] = {}
    for one in devices:
        groups.setdefault(one.reason, []).append(one)
    made = [
        ExcludedGroup(reason, some[0].next, len(some), [one.device for one in some[:SHOWN_DEVICES]])
        for reason, some in groups.items()
    ]
    return sorted(made, key=lambda one: (-one.count, one.reason))


def _release_line(one: ReleaseView) -> ReleaseLine:
    profiles = sorted(str(bundle.profile) for bundle in one.bundles)
    withdrawn = "" if one.withdrawn is None else one.withdrawn.reason
    return ReleaseLine(str(one.ref), one.state.value, one.created_at, profiles, withdrawn)


def _errors(error: EdgefleetError) -> list[Mapping[str, str]]:
    """Return the mistakes that a refusal names by place, nothing when it names none."""
    return [one for one in getattr(error, "errors", ()) if "path" in one]
