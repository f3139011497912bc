"""Drift of a model: what devices counted lately, held against what is normal for it.

Rules:
1. What is judged is the newest step of a scale that has figures and the one before it: between one and two lengths of the scale.
2. At most MOST_DEVICES devices are judged, drawn by a hash of their ids, so always the same ones; suspect and revoked devices are not.
3. Bins that a device learned itself mean something on that device only: it is judged there, and its word is shown.
4. What was judged is kept for KEPT_S, once there are figures.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.drift.histogram import unpack
from edgefleet_protocol.ids import ModelName, ReleaseRef, parse_version
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.fleet.inventory.views import DeviceCrowds
from edgefleet_server.registry.model import BundleView, ModelView, ReleaseView
from edgefleet_server.telemetry.drift import period, rules, signal_views, words
from edgefleet_server.telemetry.drift.baselines import Baselines
from edgefleet_server.telemetry.drift.device_words import DeviceWords, Feed
from edgefleet_server.telemetry.drift.errors import SignalUnknownError
from edgefleet_server.telemetry.drift.model import Heard, Member, SignalSpec
from edgefleet_server.telemetry.drift.rules import DriftKind, SignalFinding, SignalState
from edgefleet_server.telemetry.drift.specs import specs_of
from edgefleet_server.telemetry.drift.views import (
    DriftReference,
    DriftVersion,
    DriftWord,
    ModelDrift,
    SignalDriftDetail,
    SiteDrift,
)
from edgefleet_server.telemetry.ground_truth.views import ConceptDrift
from edgefleet_server.telemetry.signals import store
from edgefleet_server.telemetry.signals.model import Scale
from edgefleet_server.telemetry.signals.references import BundleReferences, KnownBundle
from edgefleet_server.telemetry.signals.tables import DriftBaseline
from edgefleet_terms.feature_importance import NOT_ASKED, Importance, measured_text

MOST_BUNDLES: Final = 200
MOST_COUNTED: Final = 100_000
MOST_DEVICES: Final = 200
MOST_SHOWN: Final = 50
KEPT: Final = 64
KEPT_S: Final = 60.0
OLD_STEPS: Final = 3
FEW_DEVICES: Final = 6
"""So many devices are also judged each by its own steps before: fewer than seven say little of each other."""
SITE_LABEL: Final = "site"
Concept = Callable[[ModelName, str, bool], ConceptDrift]
"""Model, version and whether its inputs drift -> whether its answers became worse."""
Crowds = Callable[[Sequence[str]], Mapping[str, DeviceCrowds]]


class Registry(Protocol):
    """What is needed of the registry."""

    def model(self, name: str) -> ModelView:
        """Return a model. Raises ModelUnknownError."""
        ...

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release. Raises ReleaseUnknownError."""
        ...

    def bundles(self, page: PageRequest, *, model: str | None = None) -> Page[BundleView]:
        """Return signed bundles of a model, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class _Judged:
    """A release that was judged, with what the views of its signals are made of."""

    view: ModelDrift
    findings: Sequence[SignalFinding]
    heard: Sequence[Sequence[Heard]]
    sites: Sequence[Sequence[SiteDrift]] = ()


class DriftService:
    """Judges drift. Thread-safe; calls block: a first one for some tenths of a second."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part
        self,
        db: Database,
        clock: Clock,
        registry: Registry,
        references: BundleReferences,
        crowds: Crowds,
        feed: Feed,
        concept: Concept | None = None,
        kept_s: float = KEPT_S,
        importance: Callable[[ReleaseRef], Importance] = lambda _ref: NOT_ASKED,
    ) -> None:
        """Wire the parts. crowds: returns what devices have in common, of those that count. concept: judges by labels.

        kept_s: how long a judgement is kept. importance: of the inputs of a release, asked where something drifts.
        """
        self._db = db
        self._clock = clock
        self._registry = registry
        self._references = references
        self._crowds = crowds
        self._concept = concept
        self._kept_s = kept_s
        self._importance = importance
        self._words = DeviceWords(feed, clock)
        self.baselines = Baselines(db, clock, registry, references, self._members)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], tuple[float, _Judged]] = OrderedDict()

    def is_measured(self, since: datetime) -> bool:
        """Return whether any device counted signals since a moment."""
        with self._db.read() as session:
            return store.has_counts(session, Scale.MINUTES.seconds, since)

    def of_model(self, name: ModelName, version: str = "", scale: Scale | None = None) -> ModelDrift:
        """Return the drift of a version, of the one that most devices report without one. Raises ModelUnknownError."""
        return self._judged(name, version, scale).view

    def of_signal(
        self, name: ModelName, signal: str, version: str = "", scale: Scale | None = None
    ) -> SignalDriftDetail:
        """Return one signal in full. Raises ModelUnknownError, SignalUnknownError."""
        judged = self._judged(name, version, scale)
        view = judged.view
        at = next((n for n, one in enumerate(view.signals) if one.name == signal), None)
        if at is None:
            raise SignalUnknownError(
                f"{view.release or name} has no signal {signal[:80]!r} with figures",
                next_step=f"list them: `edgectl drift features {name}`",
            )
        finding, heard = judged.findings[at], judged.heard[at]
        said = {one.device for one in view.words if one.signal == signal}
        return SignalDriftDetail(
            model=view.model,
            version=view.version,
            release=view.release,
            scale=view.scale,
            since=view.since,
            until=view.until,
            reference=view.reference,
            signal=view.signals[at],
            cohorts=[signal_views.cohort_view(one) for one in rules.crowd_effects(finding.spec, heard)],
            devices=signal_views.devices_view(finding.effects[:MOST_SHOWN], said),
        )

    def of_sites(self, name: ModelName) -> tuple[ModelDrift, Sequence[Sequence[SiteDrift]]]:
        """Return the drift of the version that most devices report, and of each of its signals how it is at each site.

        Raises ModelUnknownError.
        """
        judged = self._judged(name, "", None)
        return judged.view, judged.sites

    def of_device(self, device: str) -> list[DriftWord]:
        """Return which signals drift by a device's own word, the strongest first."""
        return self._words.open(device=device)

    def forget(self, model: str) -> None:
        """Judge a model again when it is asked for next: what is normal for it has changed."""
        with self._lock:
            for key in [one for one in self._kept if one[0] == model]:
                del self._kept[key]

    def _judged(self, name: ModelName, version: str, scale: Scale | None) -> _Judged:
        key = (name, version, "" if scale is None else scale.value)
        now_s = self._clock.monotonic_s()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and 0 <= now_s - kept[0] < self._kept_s:
            return kept[1]
        found = self._with_concept(name, self._judge(name, version, scale))
        if found.view.since is None:  # nothing was counted yet: the first figures are seen at once
            return found
        with self._lock:
            self._kept[key] = (now_s, found)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def _with_concept(self, name: ModelName, judged: _Judged) -> _Judged:
        view = judged.view
        if self._concept is None or not view.version:
            return judged
        found = self._concept(name, view.version, view.kind in {DriftKind.DATA, DriftKind.BOTH})
        said = f"{view.said} {found.said}" if found.state in {"drift", "inputs"} else view.said
        return replace(judged, view=replace(view, concept=found, said=said))

    def _judge(self, name: ModelName, version: str, scale: Scale | None) -> _Judged:
        self._registry.model(name)
        if version:
            version = str(self._registry.release(ReleaseRef(name, parse_version(version))).ref.version)
        bundles = self._registry.bundles(PageRequest(MOST_BUNDLES), model=name).items
        by_digest = {str(one.sha256): self._references.known(one) for one in bundles}
        said = self._words.open(model=name)
        with self._db.read(streams=True) as session:
            for one in (scale,) if scale is not None else (Scale.HOUR, Scale.DAY):
                newest = store.newest_step(session, list(by_digest), one.seconds)
                if newest is not None:
                    return self._of_scale(session, name, version, one, newest, by_digest, said)
        return _Judged(_empty(name, version, scale or Scale.HOUR, by_digest, said), (), ())

    def _of_scale(
        self,
        session: Session,
        name: ModelName,
        version: str,
        scale: Scale,
        newest: datetime,
        bundles: Mapping[str, KnownBundle],
        said: Sequence[DriftWord],
    ) -> _Judged:
        since, until = newest - scale.length, newest + scale.length
        counted = store.counted_devices(session, list(bundles), scale.seconds, since, MOST_COUNTED)
        by_version = _by_version(counted, bundles)
        chosen = version or max(by_version, key=lambda one: (len(by_version[one]), one))
        mine = [one for one in counted if str(bundles[one[0]].view.ref.version) == chosen]
        by_own = [one for one in mine if one[1] == bundles[one[0]].basis]
        learned = {device for _, _, device in mine} - {device for _, _, device in by_own}
        said = [one for one in said if one.version in {"", chosen}]
        empty = _empty(name, chosen, scale, bundles, said)
        versions = [DriftVersion(one, len(devices)) for one, devices in sorted(by_version.items(), key=_most_devices)]
        is_old = until + scale.length * (OLD_STEPS - 1) < self._clock.now()
        view = replace(
            empty,
            since=since,
            until=min(until, self._clock.now()),
            is_old=is_old,
            versions=versions,
            devices=len({device for _, _, device in mine}),
            learned=len(learned),
        )
        if not by_own:
            return _Judged(replace(view, state="no_reference", said=_alone(view)) if mine else view, (), ())
        basis = Counter(basis for _, basis, _ in by_own).most_common(1)[0][0]
        own = [one for one in by_own if one[1] == basis]
        known = bundles[own[0][0]]
        wanted = period.Wanted(
            sorted({digest for digest, _, _ in own}),
            basis,
            scale,
            self._members(period.drawn({device for _, _, device in own}, MOST_DEVICES)),
        )
        return self._against_reference(session, view, wanted, known, newest, said)

    def _against_reference(
        self,
        session: Session,
        view: ModelDrift,
        wanted: period.Wanted,
        known: KnownBundle,
        newest: datetime,
        said: Sequence[DriftWord],
    ) -> _Judged:
        """Return what is said of devices that count by the bins of a bundle's reference."""
        reference, scale = known.reference, wanted.scale
        assert reference is not None
        since, until = newest - scale.length, newest + scale.length
        chosen = self.baselines.rows(view.model, view.version).get(wanted.basis)
        specs = specs_of(reference, () if chosen is None else unpack(chosen.signals))
        sums = period.counted(session, wanted, since, until)
        answered = period.classes(session, wanted, reference, since, until)
        heard = period.heard_of(specs, wanted.members, sums, answered)
        past = period.history(session, wanted, specs, newest)
        sayers = [{word.device for word in said if word.signal == spec.name} for spec in specs]
        alone = self._alone(session, wanted, specs, newest)
        findings = [
            rules.judge_signal(spec, one, scale, len(specs), by_word | by_steps)
            for spec, one, by_word, by_steps in zip(specs, heard, sayers, alone, strict=True)
        ]
        kind, state = rules.drift_kind(findings), signal_views.state_of(findings)
        importance = NOT_ASKED
        if state == SignalState.DRIFT:
            importance = self._importance(ReleaseRef.parse(view.release))
        order = signal_views.ordered(findings, importance)
        found = replace(
            view,
            state=state,
            kind=kind.value,
            said=words.of_model(kind, findings, len(wanted.members), importance),
            judged=len(wanted.members),
            answers=max((sum(one.n for one in signal) for signal in heard), default=0),
            reference=_reference_view(reference.source, reference.n, chosen),
            signals=[signal_views.signal_view(findings[at], past[at], sayers[at], importance) for at in order],
            importance=measured_text(importance) if state == SignalState.DRIFT else "",
        )
        ordered = [findings[at] for at in order]
        return _Judged(found, ordered, [heard[at] for at in order], [signal_views.site_views(one) for one in ordered])

    def _alone(
        self, session: Session, wanted: period.Wanted, specs: Sequence[SignalSpec], newest: datetime
    ) -> list[set[str]]:
        """Return for each signal the devices whose own steps say that it drifts: where they are too few to compare with each other."""
        found: list[set[str]] = [set() for _ in specs]
        if len(wanted.members) > FEW_DEVICES:
            return found
        is_whole = newest + wanted.scale.length <= self._clock.now()
        last = newest if is_whole else newest - wanted.scale.length
        for device, steps in period.own_steps(session, wanted, last).items():
            sound = [one for one in steps if len(one) == len(steps[-1])]
            for number, spec in enumerate(specs[: len(steps[-1])]):
                own = [one[number] for one in sound]
                if all(len(one.bins) == spec.bins for one in own) and rules.has_own_drift(
                    spec, own[:-1], own[-1], wanted.scale, len(specs)
                ):
                    found[number].add(device)
        return found

    def _members(self, devices: Sequence[str]) -> dict[str, Member]:
        return {
            device: Member(device, one.profile, one.labels.get(SITE_LABEL, ""), one.groups, one.display_name)
            for device, one in self._crowds(list(devices)).items()
        }


def _by_version(counted: Sequence[tuple[str, str, str]], bundles: Mapping[str, KnownBundle]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for digest, _, device in counted:
        found.setdefault(str(bundles[digest].view.ref.version), set()).add(device)
    return found


def _most_devices(one: tuple[str, set[str]]) -> tuple[int, str]:
    return -len(one[1]), one[0]


def _empty(
    name: str, version: str, scale: Scale, bundles: Mapping[str, KnownBundle], said: Sequence[DriftWord]
) -> ModelDrift:
    """Return the view of a release of which nothing was counted. said: what devices say of the model."""
    mine = [one for one in bundles.values() if not version or str(one.view.ref.version) == version]
    has_reference = any(one.reference is not None for one in mine)
    if not mine:
        text = "No bundle of it is signed yet."
    elif has_reference:
        text = "No device has reported signals yet. Devices on the normal profile send them once an hour."
    else:
        text = "Its bundles carry no reference: publish with `--reference`, or let devices learn what is normal."
    return ModelDrift(
        model=name,
        version=version,
        release=f"{name}@{version}" if version else "",
        scale=scale.value,
        state="no_data" if has_reference or not mine else "no_reference",
        kind="none",
        said=text,
        since=None,
        until=None,
        is_old=False,
        devices=0,
        judged=0,
        learned=0,
        answers=0,
        reference=DriftReference("none", 0),
        versions=[],
        signals=[],
        words=list(said),
    )


def _alone(view: ModelDrift) -> str:
    """Return what is said of a release whose devices all count by bins that they learned themselves."""
    drifting = len({one.device for one in view.words})
    devices = "1 device has" if view.learned == 1 else f"{view.learned} devices have"
    said = "none reports drift" if not drifting else f"{drifting} of them report drift"
    return f"Its bundles carry no reference. {devices} learned what is normal, so it is judged on each device alone: {said}."


def _reference_view(source: str, n: int, chosen: DriftBaseline | None) -> DriftReference:
    if chosen is None:
        return DriftReference(source, n)
    answers = max((one.n + one.missing for one in unpack(chosen.signals)), default=0)
    return DriftReference("baseline", answers, chosen.since, chosen.until, chosen.devices, chosen.set_at, chosen.set_by)
