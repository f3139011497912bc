"""The parts of a conversion worker, and the first ones of a whole server: database, keys, conversions, registry.

A worker is a process next to each server. It imports only these, and so starts in two thirds of the processor time of all parts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ProfileName
from edgefleet_server.conversion.model import SandboxLimits
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.db.database import Database
from edgefleet_server.db.shared_clock import shared_clock
from edgefleet_server.registry.blobs import open_blob_store
from edgefleet_server.registry.model import AllowedCode
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.keys.key_files import secret_of
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.signer.remote_keys import RemoteAuthority, RemoteKeys
from edgefleet_server.signing.signer.signer_connection import SignerConnection
from edgefleet_server.telemetry.costs import CostService


@dataclass(frozen=True, slots=True)
class ConverterParts:
    """What the conversion worker may call."""

    settings: ServerSettings
    clock: Clock
    shared: Clock
    """The time that all processes of the database go by."""
    db: Database
    signing: SigningService
    conversion: ConversionService
    registry: RegistryService


def build_first_parts(
    settings: ServerSettings,
    clock: Clock,
    fleet_profiles: Callable[[], Sequence[ProfileName]],
    *,
    is_turned: bool = False,
) -> ConverterParts:
    """Wire the services that know nothing of devices on one database. Opens no connection and starts nothing.

    fleet_profiles: returns the profiles that devices have. is_turned: the clock is a test's, which knows nothing of the database's.
    """
    db = Database(settings.database)
    shared = clock if is_turned else shared_clock(db, clock)
    conversion = ConversionService(db, shared, max_attempts=settings.job_attempts)
    registry = RegistryService(
        db,
        open_blob_store(settings),
        clock,
        jobs=conversion,
        fleet_profiles=fleet_profiles,
        max_blob_bytes=settings.max_blob_bytes,
        allowed_code=AllowedCode(settings.custom_metrics, settings.allow_pickle),
    )
    signing = build_signing(settings, db, clock)
    signing.teams.bundles = registry.unsigned
    return ConverterParts(settings, clock, shared, db, signing, conversion, registry)


def build_signing(settings: ServerSettings, db: Database, clock: Clock) -> SigningService:
    """Wire signing: with the signing process of the settings, where they name one, else with the keys of the data folder."""
    if settings.signer_socket is None:
        secret = secret_of(settings.keys_secret, settings.keys_passphrase_file)
        return SigningService(db, settings.keys_dir, clock, secret)
    connection = SignerConnection(settings.signer_socket)
    keepers = RemoteKeys(connection), RemoteAuthority(connection, settings.keys_dir)
    return SigningService(db, settings.keys_dir, clock, keepers=keepers)


def build_converter_parts(settings: ServerSettings, clock: Clock) -> ConverterParts:
    """Wire what a conversion worker needs. Opens no connection and starts nothing."""
    parts = build_first_parts(settings, clock, _asked_at_publication)

    def profiles_of(devices: Sequence[str]) -> Mapping[str, str]:
        # asked only where devices have reported on a bundle of the profile
        from edgefleet_server.fleet.inventory.views import FleetReader

        return FleetReader(parts.db).profiles_of(devices)

    parts.registry.forecast_with(CostService(parts.db, clock, parts.registry, profiles_of).forecast)
    return parts


def child_limits(settings: ServerSettings, wall_s: float) -> SandboxLimits:
    """Return the limits of one conversion child that may take so long."""
    return SandboxLimits(
        memory_bytes=settings.job_memory_bytes,
        file_bytes=settings.max_blob_bytes,
        output_bytes=settings.job_output_bytes,
        wall_s=wall_s,
        cpu_s=int(wall_s * 4) + 1,
    )


def _asked_at_publication() -> Sequence[ProfileName]:
    raise AssertionError("a conversion worker publishes nothing")
