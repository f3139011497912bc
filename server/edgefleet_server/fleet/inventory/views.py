"""What operators see of the fleet: read-only, joined from the fleet's tables.

The dataclasses are the bodies of the routes: their fields are public and never renamed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from sqlmodel import Session, col

from edgefleet_protocol.desired import ModelDesired
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, ProfileName, ReleaseRef, parse_target_path
from edgefleet_protocol.messages import CHILD_DIED_CODE, Phase
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store as fleet_store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.health_state import Health, HealthReason
from edgefleet_server.fleet.inventory import store as inventory_store
from edgefleet_server.fleet.inventory.judged_health import judged
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.reported import store as reported_store
from edgefleet_server.fleet.selectors import device_selector, grammar
from edgefleet_server.fleet.tables import FleetDevice, FleetModelState
from edgefleet_server.telemetry_views import Latest

KEPT_TARGETS: Final = 4096
"""Paths of bundles whose releases are kept: many devices of one list run the same few."""


@dataclass(frozen=True)
class DesiredModel:
    """One model in a desired document."""

    model: str
    release: str
    target: str
    sha256: str
    candidate: "DesiredCandidate | None" = None


@dataclass(frozen=True)
class DesiredCandidate:
    """What a document wants to run next to the active bundle. mode: shadow, split or measure."""

    release: str
    target: str
    sha256: str
    mode: str
    share_pct: int
    salt: str


@dataclass(frozen=True)
class ReportedCandidate:
    """What a device says of the candidate of a model. state: a `CandidatePhase`."""

    release: str
    target: str
    sha256: str
    mode: str
    state: str
    share_pct: int
    code: str
    reason: str


@dataclass(frozen=True)
class ReportedProbation:
    """How far a version on probation was at the last report. It passes with `enough` answers, or after `within_s` seconds."""

    answers: int
    enough: int
    within_s: int


def probation_text(one: ReportedProbation) -> str:
    """Return how far a version on probation is, for people."""
    minutes, seconds = divmod(one.within_s, 60)
    length = f"{seconds} s" if not minutes else f"{minutes} min" + (f" {seconds} s" if seconds else "")
    return f"{one.answers} of {one.enough} answers reported so far; it passes after {one.enough}, or after {length}"


@dataclass(frozen=True)
class ReportedModel:
    """One model as the device reports it; `state` is the server's word for `phase`.

    withdrawn: why the release that it runs may not be deployed any more, "" when it may. probation: null in every other phase, and
    when the device's agent does not say it.
    """

    model: str
    release: str | None
    target: str
    sha256: str
    phase: str
    state: str
    error_class: str | None
    error_code: str
    reason: str
    wanted_sha256: str
    previous_target: str
    progress_pct: int
    slot: str
    serving: bool
    changed_at: datetime
    candidate: ReportedCandidate | None = None
    withdrawn: str = ""
    probation: ReportedProbation | None = None


@dataclass(frozen=True)
class Refusal:
    """A newer document that the device did not accept, and why. gen 0: the metadata here is older than what it has seen."""

    gen: int
    code: str
    reason: str


@dataclass(frozen=True)
class DesiredView:
    """A device's desired document; gen 0 and no times when it has none."""

    gen: int
    issued_at: datetime | None
    expires_at: datetime | None
    models: Sequence[DesiredModel]


@dataclass(frozen=True)
class DeviceView:
    """One device. `telemetry` (its newest figures) and `status_reason` are given for a single device only.

    last_seen: when it connected or sent its state last; figures do not count. status_reason: what `status` rests on, in words.
    suspect_since: since when its words are not trusted, null: they are; suspect_reason: why.
    cut_off_at: when the broker had ended the session of the revoked device and refused its certificate, null before.
    health_reasons: what keeps it from being healthy, the worst first.
    """

    id: str
    profile: str
    arch: str
    status: DeviceStatus
    labels: Mapping[str, str]
    facts: Mapping[str, Any]
    enrolled_at: datetime
    last_seen: datetime | None
    cert_not_after: datetime
    free_mb: int | None
    agent_version: str
    desired: DesiredView
    reported_gen: int
    refused: Refusal | None
    models: Sequence[ReportedModel]
    groups: Sequence[str] = ()
    telemetry: Latest | None = None
    display_name: str = ""
    status_reason: str = ""
    suspect_since: datetime | None = None
    suspect_reason: str = ""
    revoked_at: datetime | None = None
    cut_off_at: datetime | None = None
    health: Health = Health.UNKNOWN
    health_reasons: Sequence[HealthReason] = ()


STATUS_REASONS: Final[Mapping[DeviceStatus, str]] = {
    DeviceStatus.ONLINE: (
        "its MQTT session is open; it sends its state only when that changes, and figures every 15 min "
        "(every minute while a rollout watches it, every hour on a metered link)"
    ),
    DeviceStatus.OFFLINE: "its MQTT session has ended; it gets its document and sends what it kept when it connects",
    DeviceStatus.UNKNOWN: "it has never connected",
    DeviceStatus.REVOKED: "it was revoked",
}
"""What a status rests on: a device that is online and was seen a while ago is as it should be."""


@dataclass(frozen=True)
class ReleaseDevice:
    """One device that runs a release or should."""

    device: str
    profile: str
    status: DeviceStatus
    wanted: bool
    active: bool
    phase: str | None
    state: str
    error_class: str | None
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class DeviceCrowds:
    """What a device has in common with others, and what people call it."""

    profile: str
    labels: Mapping[str, str]
    groups: Sequence[str]
    display_name: str


@dataclass(frozen=True)
class ModelCount:
    """How many devices report one state of one version."""

    model: str
    version: str
    state: str
    devices: int


@dataclass(frozen=True)
class Summary:
    """The fleet in numbers; revoked devices are counted only as such."""

    devices: int
    status: Mapping[str, int]
    profiles: Mapping[str, int]
    models: Sequence[ModelCount]


Withdrawn = Callable[[], Mapping[str, str]]


class FleetReader:
    """Reads views. Thread-safe; calls block."""

    def __init__(self, db: Database, withdrawn: Withdrawn = dict) -> None:
        """Read from `db`. withdrawn: returns why releases were withdrawn, by release."""
        self._db = db
        self._withdrawn = withdrawn

    def device(self, device_id: str) -> DeviceView:
        """Return one device. Raises DeviceUnknownError."""
        with self._db.read() as session:
            known = fleet_store.known_device(session, device_id)
            return device_views(session, inventory_store.shown_devices(session, [known.id]), self._withdrawn)[0]

    def facts_of(self, device_id: str) -> Mapping[str, Any]:
        """Return the facts of a device's newest report, none where it is unknown or has not reported."""
        with self._db.read() as session:
            row = fleet_store.device(session, device_id)
            return {} if row is None else (row.reported or {}).get("facts") or {}

    def check(self, device_id: str) -> None:
        """Raise DeviceUnknownError unless there is such a device."""
        with self._db.read() as session:
            fleet_store.known_device(session, device_id)

    def profiles_of(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the profile of each of these devices; those that are unknown or revoked are left out."""
        with self._db.read() as session:
            return inventory_store.profiles_of(session, ids)

    def crowds_of(self, ids: Sequence[str]) -> dict[str, "DeviceCrowds"]:
        """Return what these devices have in common with others; those that are unknown, revoked or suspect are left out."""
        found: dict[str, DeviceCrowds] = {}
        with self._db.read() as session:
            groups = device_selector.all_groups(session)
            is_judged = any(one.asks_for_health() for one in groups.values())
            for start in range(0, len(ids), fleet_store.IN_CHUNK):
                chosen = ids[start : start + fleet_store.IN_CHUNK]
                states = inventory_store.shown_states(session, chosen) if groups else {}
                for row in inventory_store.shown_devices(session, chosen):
                    status = fleet_store.status_of(row.is_online, row.revoked_at)
                    if status is DeviceStatus.REVOKED or row.suspect_since is not None:
                        continue
                    mine = states.get(row.id, ())
                    own = _facts(row, status, mine, judged(row, mine).health if is_judged else "") if groups else {}
                    inside = sorted(device_selector.groups_of(own, groups)) if groups else []
                    found[row.id] = DeviceCrowds(row.profile, row.labels, inside, row.display_name)
        return found

    def profiles_in_use(self) -> list[ProfileName]:
        """Return the profiles of the devices that are not revoked."""
        with self._db.read() as session:
            return [ProfileName(name) for name in inventory_store.profiles_in_use(session)]

    def release_devices(self, ref: ReleaseRef) -> list[ReleaseDevice]:
        """Return the devices that run a release or should, in order of id."""
        with self._db.read() as session:
            states = {row.device_id: row for row in reported_store.states_of_model(session, ref.model)}
            active = {device for device, state in states.items() if state.version == ref.version}
            targets = desired_store.wanted_targets(session, ref.model)
            wanted = {device for device, target in targets.items() if release_of(target) == str(ref)}
            return [
                _release_device(row, states.get(row.id), wanted=row.id in wanted, active=row.id in active)
                for row in fleet_store.devices_by_id(session, sorted(wanted | active))
            ]

    def running(self) -> dict[str, dict[str, int]]:
        """Return, by model, how many live devices run each version, most first."""
        found: dict[str, dict[str, int]] = {}
        with self._db.read() as session:
            for model, version, n in inventory_store.count_versions(session):
                found.setdefault(model, {})[version] = n
        return found

    def summary(self) -> Summary:
        """Return the fleet in numbers."""
        with self._db.read() as session:
            presence = inventory_store.count_by(session, col(FleetDevice.is_online))
            live = sum(presence.values())
            total = fleet_store.count_all(session)
            status = {
                DeviceStatus.ONLINE.value: presence.get(True, 0),
                DeviceStatus.OFFLINE.value: presence.get(False, 0),
                DeviceStatus.UNKNOWN.value: presence.get(None, 0),
                DeviceStatus.REVOKED.value: total - live,
            }
            profiles = inventory_store.count_by(session, col(FleetDevice.profile))
            models = [ModelCount(*counted) for counted in inventory_store.count_model_states(session)]
            return Summary(live, status, profiles, models)


def device_views(session: Session, rows: Sequence[Any], withdrawn: Withdrawn) -> list[DeviceView]:
    """Return devices with their documents, reports and groups: as many queries as for one device. rows: as `store.shown_devices`.

    withdrawn: returns why releases were withdrawn, by release; asked where a device reports one.
    """
    states = inventory_store.shown_states(session, [row.id for row in rows])
    groups = device_selector.all_groups(session)
    reasons = withdrawn() if states else {}
    return [_device_view(row, states.get(row.id, ()), groups, reasons) for row in rows]


def _facts(row: Any, status: DeviceStatus, states: Sequence[Any], health: str) -> dict[str, str]:
    versions = {state.model: state.version for state in states if state.version}
    named = (DeviceId(row.id), ProfileName(row.profile), row.arch, status, row.labels, row.free_mb, versions)
    return grammar.facts_of(DeviceFacts(*named, is_suspect=row.suspect_since is not None, health=health))


def _device_view(
    row: Any, states: Sequence[Any], groups: Mapping[str, grammar.Selector], withdrawn: Mapping[str, str]
) -> DeviceView:
    reported, status = row.reported or {}, fleet_store.status_of(row.is_online, row.revoked_at)
    refused_gen, refused_code = int(reported.get("refused_gen") or 0), str(reported.get("refused_code", ""))
    refused = (
        Refusal(refused_gen, refused_code, str(reported.get("refused_reason", "")))
        if refused_gen or reported.get("seen") or refused_code == CHILD_DIED_CODE
        else None
    )
    reported_model = {model["model"]: model for model in reported.get("models", [])}
    judgement, facts = judged(row, states), reported.get("facts")
    return DeviceView(
        id=row.id,
        profile=row.profile,
        arch=row.arch,
        status=status,
        labels=row.labels,
        facts={**row.facts, **(facts or {})},
        enrolled_at=row.enrolled_at,
        last_seen=row.last_seen,
        cert_not_after=row.cert_not_after,
        free_mb=row.free_mb,
        agent_version=str(reported.get("agent_version") or row.facts.get("agent_version", "")),
        desired=_desired_view(row),
        reported_gen=row.reported_gen,
        refused=refused,
        models=[
            _reported_model(state, reported_model.get(state.model, {}), withdrawn, _probation(facts, state))
            for state in states
        ],
        groups=sorted(device_selector.groups_of(_facts(row, status, states, judgement.health), groups))
        if groups
        else (),
        display_name=row.display_name,
        suspect_since=row.suspect_since,
        suspect_reason=row.suspect_reason,
        revoked_at=row.revoked_at,
        cut_off_at=row.cut_off_at,
        health=judgement.health,
        health_reasons=judgement.reasons,
    )


def _desired_view(row: Any) -> DesiredView:
    if row.desired_gen is None:
        return DesiredView(0, None, None, [])
    models = [
        DesiredModel(name, release_of(active.target) or "", active.target, active.sha256, _desired_candidate(model))
        for name, model in sorted(msgspec.convert(row.desired_models, dict[str, ModelDesired]).items())
        if (active := model.active) is not None
    ]
    return DesiredView(row.desired_gen, row.issued_at, row.expires_at, models)


def _desired_candidate(model: ModelDesired) -> DesiredCandidate | None:
    ref = model.candidate
    if ref is None or model.mode is None:
        return None
    release = release_of(ref.target) or ""
    return DesiredCandidate(release, ref.target, ref.sha256, model.mode, model.share_pct, model.salt)


def _reported_candidate(reported_model: Any) -> ReportedCandidate | None:
    """Return what a stored report (any JSON value) says of a candidate."""
    if not isinstance(reported_model, dict):
        return None
    try:
        return _candidate_from(reported_model)
    except (TypeError, ValueError):
        return None


def _candidate_from(reported_model: Mapping[str, Any]) -> ReportedCandidate:
    texts = {
        name: str(reported_model.get(name) or "")[:1000]
        for name in ("target", "sha256", "mode", "state", "code", "reason")
    }
    return ReportedCandidate(
        release=release_of(texts["target"]) or "", share_pct=int(reported_model.get("share_pct") or 0), **texts
    )


def _reported_model(
    state: Any, reported_model: Mapping[str, Any], withdrawn: Mapping[str, str], probation: ReportedProbation | None
) -> ReportedModel:
    return ReportedModel(
        model=state.model,
        release=f"{state.model}@{state.version}" if state.version else None,
        target=state.active_target,
        sha256=state.active_sha256,
        phase=state.phase,
        state=state.assignment,
        error_class=state.error_class,
        error_code=str(reported_model.get("error_code", "")),
        reason=str(reported_model.get("reason", "")),
        wanted_sha256=str(reported_model.get("wanted_sha256", "")),
        previous_target=str(reported_model.get("previous_target", "")),
        progress_pct=int(reported_model.get("progress_pct") or 0),
        slot=str(reported_model.get("slot", "")),
        serving=bool(reported_model.get("serving")),
        changed_at=state.changed_at,
        candidate=_reported_candidate(reported_model.get("candidate")),
        withdrawn=withdrawn.get(f"{state.model}@{state.version}", ""),
        probation=probation,
    )


def _probation(facts: Any, state: Any) -> ReportedProbation | None:
    """Return what the facts of a report (any JSON value) say of a model on probation."""
    if state.phase != Phase.PROBATION:
        return None
    try:
        said = msgspec.convert(facts, _Facts).probation.get(state.model)
    except msgspec.ValidationError:
        return None
    return None if said is None else ReportedProbation(said.answers, said.enough, said.within_s)


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Probation(msgspec.Struct, frozen=True):
    answers: _Count
    enough: _Count
    within_s: _Count


class _Facts(msgspec.Struct, frozen=True):
    probation: dict[str, _Probation] = {}


def _release_device(row: FleetDevice, state: FleetModelState | None, *, wanted: bool, active: bool) -> ReleaseDevice:
    return ReleaseDevice(
        device=row.id,
        profile=row.profile,
        status=fleet_store.status_of(row.is_online, row.revoked_at),
        wanted=wanted,
        active=active,
        phase=None if state is None else state.phase,
        state="offered" if state is None else state.assignment,
        error_class=None if state is None else state.error_class,
        display_name=row.display_name,
    )


@lru_cache(maxsize=KEPT_TARGETS)
def release_of(target: str) -> str | None:
    """Return `model@version` of a bundle's target path, or None when it is none."""
    try:
        model, version, _profile = parse_target_path(target)
    except EdgefleetError:
        return None
    return f"{model}@{version}"
