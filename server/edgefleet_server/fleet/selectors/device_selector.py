"""Which devices a selector matches, groups included, and which are live. Views, groups and rollouts all ask it.

A group is a named selector, so membership is computed, never stored. Only groups that the selector asks for are looked at:
those it names, or all when it asks whether a device is in any. The database finds the devices (`sql`); `grammar` says the
same of one device at hand.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, func, select
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.access.grants.grant_scope import Crowd
from edgefleet_server.db.bulk import among
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet import store as group_store
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.selectors import grammar, health_condition, sql
from edgefleet_server.fleet.tables import FleetDevice, FleetModelState

MAX_NAMED = 20
SITE_LABEL = "site"
"""The label that says at which site a device is."""


def matching(session: Session, selector: grammar.Selector) -> Iterator[DeviceFacts]:
    """Yield the devices that a selector matches, in order of id. Raises BadSelectorError for an unknown group."""
    groups = asked_groups(session, selector)
    asked, condition = (selector, *groups.values()), sql.matching(selector, groups)
    with_models = any(one.asks_for_models() for one in asked)
    words = health_of(session, condition) if any(one.asks_for_health() for one in asked) else {}
    for found in group_store.facts(session, condition, with_models=with_models):
        device = replace(found, health=words.get(found.id, "")) if words else found  # it may have come since
        inside = groups_of(grammar.facts_of(device), groups) if groups else frozenset()
        yield replace(device, groups=inside) if inside else device


def health_of(session: Session, condition: ColumnElement[bool]) -> dict[str, str]:
    """Return the health of the devices that a condition holds for, by id."""
    words = select(col(FleetDevice.id), health_condition.health_word()).where(condition)
    return {str(device): str(word) for device, word in session.execute(words)}


def labels_of(session: Session, ids: Sequence[DeviceId]) -> Iterator[tuple[DeviceId, Mapping[str, str]]]:
    """Yield these devices with their labels; unknown ones are left out."""
    for start in range(0, len(ids), group_store.IN_CHUNK):
        chosen = col(FleetDevice.id).in_(ids[start : start + group_store.IN_CHUNK])
        for device, labels in session.execute(select(col(FleetDevice.id), col(FleetDevice.labels)).where(chosen)):
            yield DeviceId(device), labels


def groups_of(facts: Mapping[str, str], groups: Mapping[str, grammar.Selector]) -> frozenset[str]:
    """Return which of these groups a device with these facts is in."""
    return frozenset(name for name, selector in groups.items() if selector.matches(facts))


def all_groups(session: Session) -> dict[str, grammar.Selector]:
    """Return every group's selector, by name."""
    return {row.name: grammar.parse_selector(row.selector) for row in group_store.groups(session)}


def asked_groups(session: Session, selector: grammar.Selector) -> dict[str, grammar.Selector]:
    """Return the groups that a selector asks for. Raises BadSelectorError naming one that is unknown."""
    if not selector.asks_for_groups():
        return {}
    known = all_groups(session)
    names = selector.groups()
    check_known(names, known)
    return known if selector.asks_for_any_group() else {name: known[name] for name in names}


def check_known(names: frozenset[str], known: Mapping[str, object]) -> None:
    """Raise BadSelectorError unless every name is a known group."""
    unknown = sorted(names - known.keys())
    if not unknown:
        return
    some = ", ".join(sorted(known)[:MAX_NAMED]) or "none"
    more = f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
    raise BadSelectorError(
        f"the selector names the group {unknown[0]!r}, which does not exist; there are: {some}{more}",
        next_step="create the group with `edgectl group create NAME --selector SELECTOR`, or name one that exists",
    )


def crowd_of(selector: str) -> Crowd:
    """Return what is known of all devices that a selector matches, now and ever. Raises BadSelectorError."""
    parsed = grammar.parse_selector(selector)
    return Crowd(parsed.named(grammar.GROUP), parsed.named(SITE_LABEL))


def _is(device: DeviceId) -> grammar.Requirement:
    return grammar.Requirement("id", grammar.Operator.EQUALS, (device,))


def _in_any_group() -> grammar.Requirement:
    return grammar.Requirement(grammar.GROUP, grammar.Operator.EXISTS)


class DeviceSelector:
    """Finds devices. Thread-safe; calls block."""

    def __init__(self, db: Database, *, sealed_needs_tpm: bool = False) -> None:
        """Read from `db`. sealed_needs_tpm: a key counts only where the device said that a TPM wraps it."""
        self._db = db
        self._sealed_needs_tpm = sealed_needs_tpm

    def select(self, selector: str) -> list[DeviceFacts]:
        """Return the devices that a selector matches, in order of id. Raises BadSelectorError."""
        parsed = grammar.parse_selector(selector)
        with self._db.read() as session:
            return list(matching(session, parsed))

    def population(self, selector: str) -> list[DeviceFacts]:
        """Return the devices that a selector matches, without revoked ones, in order of id. Raises BadSelectorError."""
        return [one for one in self.select(selector) if one.status is not DeviceStatus.REVOKED]

    def crowd_of_device(self, device_id: str) -> Crowd:
        """Return the groups and the site of a device now. Raises DeviceUnknownError."""
        with self._db.read() as session:
            device = DeviceId(store.known_device(session, device_id).id)
            found = next(matching(session, grammar.Selector((_is(device), _in_any_group()))), None)
            site = dict(labels_of(session, [device])).get(device, {}).get(SITE_LABEL)
        inside = found.groups if found is not None else ()
        return Crowd(
            tuple(frozenset({group}) for group in sorted(inside)), () if site is None else (frozenset({site}),)
        )

    def versions(self, selector: str, model: str) -> dict[str, int]:
        """Return how many of the live devices that a selector matches run each version of a model. Raises BadSelectorError."""
        parsed = grammar.parse_selector(selector)
        with self._db.read() as session:
            state = col(FleetModelState.version)
            query = (
                select(state, func.count())
                .select_from(FleetModelState)
                .join(FleetDevice, col(FleetDevice.id) == col(FleetModelState.device_id))
                .where(sql.is_live(), sql.matching(parsed, asked_groups(session, parsed)))
                .where(col(FleetModelState.model) == model, state != "")
                .group_by(state)
            )
            return {str(version): int(devices) for version, devices in session.execute(query)}

    def live_among(self, devices: Collection[DeviceId]) -> set[DeviceId]:
        """Return which of these devices are known and not revoked."""
        with self._db.read() as session:
            own = col(FleetDevice.id)
            query = select(own).where(among(session, own, devices), sql.is_live())
            return {DeviceId(one) for one in session.execute(query).scalars()}

    def with_model_key(self, devices: Collection[DeviceId]) -> frozenset[DeviceId]:
        """Return which of these devices told a key that keys of sealed bundles can be sealed to."""
        named = col(FleetDevice.facts)["model_key"].as_string()
        with self._db.read() as session:
            own = col(FleetDevice.id)
            query = select(own).where(among(session, own, devices), func.coalesce(named, "") != "")
            if self._sealed_needs_tpm:
                query = query.where(col(FleetDevice.facts)["key_storage"].as_string() == "tpm")
            return frozenset(DeviceId(one) for one in session.execute(query).scalars())

    def model_key_of(self, device: DeviceId) -> str:
        """Return the key (X25519, hex) that keys of sealed bundles come to a live device with, "" where it has told none."""
        with self._db.read() as session:
            row = session.get(FleetDevice, device)
            if row is None or row.revoked_at is not None:
                return ""
            if self._sealed_needs_tpm and row.facts.get("key_storage") != "tpm":
                return ""
            return str(row.facts.get("model_key") or "")

    def labels_of(self, device_ids: Sequence[DeviceId]) -> dict[DeviceId, Mapping[str, str]]:
        """Return the labels of each of these devices; unknown devices are left out."""
        with self._db.read() as session:
            return dict(labels_of(session, device_ids))
