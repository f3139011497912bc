"""What a server would use and why, with the list of its secrets: `edgectl server check`.

Changes nothing; an object store is asked to take a probe, which is removed again.
"""

from dataclasses import asdict
from typing import Any, Final

from edgefleet_server import migrations
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import Parts, build_parts
from edgefleet_server.composition.sealed_columns import SEALED_COLUMNS
from edgefleet_server.conversion.sandbox import active_layers
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.encryption.secret_list import secret_entries
from edgefleet_server.fleet.ca_rotation.rules import life_in_words
from edgefleet_server.fleet.enrolment.pending_devices import PendingState
from edgefleet_server.fleet.readmission.model import ReadmissionState
from edgefleet_server.process.setting_check import check_settings
from edgefleet_server.registry.object_store.store_probe import COMPARED, Expected, probe
from edgefleet_server.settings import ServerSettings

MAX_WAITING: Final = 50


def describe(settings: ServerSettings) -> dict[str, Any]:
    """Return what this server would use and why, checking database, blobs, keys, secrets and broker. Raises EdgefleetError.

    blobs: `problem` is "" unless a store refused to take, give back or remove a probe, or lacks blobs that the database names;
    `next` says what to do.
    agent_packages: what new devices install; `problem` is "" unless the store lacks one's bytes, or has others.
    waiting: what waits for a person, the oldest of each kind first, at most MAX_WAITING of each.
    secrets: one object each; `problem` is "" unless it is plain, broken, missing or readable by others. `age_s` is None if not known.
    """
    from edgefleet_server.gateway.broker.model import choose_broker

    check_settings(settings)
    parts = build_parts(settings, SystemClock())
    try:
        parts.db.ping()
        choice = choose_broker(settings.broker)
        schema_current = migrations.is_current(parts.db)
        initialised = schema_current and parts.signing.is_initialised()
        return {
            "data_dir": str(settings.data_dir),
            "roles": [role.value for role in settings.roles],
            "database": {
                "kind": "sqlite" if parts.db.is_sqlite else "postgresql",
                "schema_current": schema_current,
            },
            "keys": {"initialised": initialised},
            "device_cas": _device_cas(parts) if initialised else [],
            "lost_models": parts.signing.lost_models() if initialised else [],
            "blobs": asdict(probe(settings, _expected(parts) if schema_current else None)),
            "agent_packages": _agent_packages(parts) if schema_current else [],
            "broker": {"kind": choice.kind.value, "why": choice.reason},
            "api": {"host": settings.api_host, "port": settings.api_port, "tls": settings.api_tls_cert is not None},
            "device": {"host": settings.device_public_host, "port": settings.device_port},
            "sandbox_layers": active_layers(),
            "waiting": waiting_requests(parts) if initialised else [],
            "secrets": _secrets(parts, is_current=schema_current),
        }
    finally:
        parts.db.dispose()


def _agent_packages(parts: Parts) -> list[dict[str, Any]]:
    """Return the packages of the agent. problem: "" unless the blob store lacks one's bytes, or has others."""
    packages = parts.fleet.packages
    return [
        {
            "name": one.name,
            "bytes": one.length,
            "sha256": one.sha256,
            "added_at": one.added_at.isoformat(),
            "problem": packages.problem(one),
        }
        for one in packages.all()
    ]


def _expected(parts: Parts) -> Expected:
    return Expected(parts.registry.newest_blobs(COMPARED), parts.registry.stored_size)


def waiting_requests(parts: Parts) -> list[dict[str, Any]]:
    """Return what waits for a person, with its age and the command that goes on."""
    page = PageRequest(MAX_WAITING)
    new, _ = parts.fleet.approvals.page(page, state=PendingState.PENDING)
    back, _ = parts.fleet.readmissions.page(page, ReadmissionState.PENDING)
    holders = [one for one in parts.signing.ceremony.requests() if one.ended_at is None]
    teams = [one for one in parts.signing.teams.requests() if one.ended_at is None]
    found = [
        *(("device to be enrolled", one.id, one.asked_at, f"edgectl device approve {one.id}") for one in new),
        *(("device that comes back", one.device, one.asked_at, f"edgectl device readmit {one.device}") for one in back),
        *(("signatures of holders", one.id, one.made_at, "edgectl key ceremony") for one in holders),
        *(
            (f"signatures of the team of {one.model}", one.id, one.made_at, f"edgectl key team {one.model}")
            for one in teams
        ),
    ]
    found += [
        (f"person from {one.provider}", one.id, one.first_seen_at, f"edgectl identity link {one.id}")
        for one in parts.identities.waiting(MAX_WAITING)
    ]
    now = parts.clock.now()
    return [
        {
            "what": what,
            "id": own,
            "since": since.isoformat(),
            "age_s": max(0, int((now - since).total_seconds())),
            "next": then,
        }
        for what, own, since, then in found
    ]


def _device_cas(parts: Parts) -> list[dict[str, Any]]:
    """Return the device CAs, the one in use first; two while it is rotated. problem: "" unless it ends within a year."""
    now = parts.clock.now()
    return [
        {
            "sha256": one.sha256,
            "age_s": max(0, int((now - one.not_before).total_seconds())),
            "until": one.not_after.isoformat(),
            "problem": life_in_words(one.not_after, now),
        }
        for one in parts.signing.cas.views()
    ]


def _secrets(parts: Parts, *, is_current: bool) -> list[dict[str, Any]]:
    now = parts.clock.now()
    entries = secret_entries(parts.settings, parts.db, parts.sealer.source, SEALED_COLUMNS, is_current=is_current)
    return [
        {
            **asdict(one),
            "since": None if one.since is None else one.since.isoformat(),
            "age_s": None if one.since is None else max(0, int((now - one.since).total_seconds())),
        }
        for one in entries
    ]
