"""The parts of the fleet feature, wired on one database. A record: who needs a part is given that part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.stream import EventHub
from edgefleet_server.fleet.ca_rotation.service import CaRotationBook
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook
from edgefleet_server.fleet.desired.deploy import Deployer
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.hold import HoldDocument
from edgefleet_server.fleet.desired.prediction_logs import PredictionLogBook
from edgefleet_server.fleet.desired.reader import DesiredReader
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.enrolment.agent_installer import AgentInstaller
from edgefleet_server.fleet.enrolment.agent_packages import AgentPackages
from edgefleet_server.fleet.enrolment.approval import ApprovalBook
from edgefleet_server.fleet.enrolment.device_token import DeviceAuthenticator
from edgefleet_server.fleet.enrolment.enrolment import Enroller
from edgefleet_server.fleet.enrolment.pending_devices import PendingEnrolments
from edgefleet_server.fleet.enrolment.revocation import Revocation
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.fleet.enrolment.service import EnrolmentService
from edgefleet_server.fleet.inventory.device_health import DeviceHealthReader
from edgefleet_server.fleet.inventory.device_list import DeviceLister
from edgefleet_server.fleet.inventory.display_names import DisplayNames
from edgefleet_server.fleet.inventory.fleet_map import FleetMapper
from edgefleet_server.fleet.inventory.groups import GroupBook
from edgefleet_server.fleet.inventory.labels import DeviceEdits
from edgefleet_server.fleet.inventory.memberships import MembershipReader
from edgefleet_server.fleet.inventory.search import InventorySearch
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.fleet.moves.service import MoveBook
from edgefleet_server.fleet.presence.history import PresenceHistory
from edgefleet_server.fleet.protection.service import ProtectionBook
from edgefleet_server.fleet.readmission.model import ReadmissionTerms
from edgefleet_server.fleet.readmission.service import ReadmissionBook
from edgefleet_server.fleet.reported.ingest import ReportBook
from edgefleet_server.fleet.reported.metadata_recovery import MetadataRecovery
from edgefleet_server.fleet.reported.reader import ReportedStateReader
from edgefleet_server.fleet.reported.receiver import ReportReceiver
from edgefleet_server.fleet.reported.suspicion import Suspicion
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.registry.model import BundleView, ReleaseView
from edgefleet_server.registry.withdrawals import WithdrawalBook
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService


class Registry(Protocol):
    """What the fleet needs of the registry."""

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release. Raises an error when there is none."""
        ...

    def downgrade(self, ref: ReleaseRef, running: Mapping[str, int], devices: int) -> str:
        """Return what to say before a release goes out to devices that run newer ones; "" when none does."""
        ...

    def keep_deployable(self, ref: ReleaseRef) -> None:
        """Let nobody withdraw a release until the caller's transaction ends. Raises an error when it was."""
        ...

    def check_deployable(self, ref: ReleaseRef) -> None:
        """Raise what `keep_deployable` would raise, and keep nothing."""
        ...

    def withdrawn(self) -> Mapping[str, str]:
        """Return why releases were withdrawn, by release."""
        ...

    def profile(self, name: str) -> HardwareProfile:
        """Return a hardware profile. Raises an error when there is none."""
        ...

    def bundles_by_digest(self, digests: Sequence[str]) -> Mapping[Sha256, BundleView]:
        """Return signed bundles by the digests that are known."""
        ...

    @property
    def withdrawals(self) -> WithdrawalBook:
        """What removes releases, and leaves blobs that others name."""
        ...

    def put_blob_bytes(self, data: bytes) -> Sha256:
        """Store bytes as a blob. Joins the caller's transaction."""
        ...

    def read_blob(self, sha256: Sha256, max_bytes: int) -> bytes:
        """Return a whole blob, its digest checked. Raises an error when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every part of the fleet. All are thread-safe; calls block; every write joins the caller's transaction."""

    feed: EventLog
    stream: EventHub
    devices: DeviceSelector
    reader: FleetReader
    lists: DeviceLister
    map: FleetMapper
    health: DeviceHealthReader
    memberships: MembershipReader
    finder: InventorySearch
    names: DisplayNames
    edits: DeviceEdits
    groups: GroupBook
    protection: ProtectionBook
    sampling: CaptureKeyBook
    logging: PredictionLogBook
    desired: DesiredBook
    documents: DesiredReader
    deployer: Deployer
    hold: HoldDocument
    moves: MoveBook
    ca_rotations: CaRotationBook
    tasks: TaskBook
    offers: ReportedStateReader
    receiver: ReportReceiver
    presence: PresenceHistory
    recovery: MetadataRecovery
    addresses: ServerAddresses
    enroller: Enroller
    enrolment: EnrolmentService
    packages: AgentPackages
    installer: AgentInstaller
    authenticator: DeviceAuthenticator
    approvals: ApprovalBook
    readmissions: ReadmissionBook
    revocation: Revocation
    suspicion: Suspicion


def build_fleet(
    db: Database,
    signing: SigningService,
    registry: Registry,
    clock: Clock,
    settings: ServerSettings,
    shared: Clock | None = None,
) -> Fleet:
    """Wire the parts. Touches nothing. shared: the clock that all processes of the database go by, where it is another one."""
    names = DisplayNames(db)
    feed = EventLog(db, shared or clock, names.name_of)
    desired, devices = DesiredBook(db, signing, clock), DeviceSelector(db, sealed_needs_tpm=settings.sealed_needs_tpm)
    lists = DeviceLister(db, clock, registry.withdrawn)
    reports, mapper = ReportBook(db, feed, shared or clock), FleetMapper(db, clock)
    reports.news.subscribe(lists.forget)
    reports.news.subscribe(mapper.forget)
    suspicion = Suspicion(db, feed, reports.news, clock)
    readmissions, packages = _readmissions(db, feed, settings, clock), _agent_packages(db, registry, clock)
    enroller = Enroller(db, signing, feed, desired, PendingEnrolments(feed, clock, settings), suspicion, clock)
    tasks, addresses = TaskBook(db, desired, feed, clock), ServerAddresses(settings, signing, db)
    recovery, hold = MetadataRecovery(db, signing, desired, feed, clock), HoldDocument(db, signing, clock)
    groups, protection = _groups(db, feed, clock)
    return Fleet(
        feed=feed,
        stream=EventHub(feed),
        devices=devices,
        reader=FleetReader(db, registry.withdrawn),
        lists=lists,
        map=mapper,
        health=DeviceHealthReader(db),
        memberships=MembershipReader(db),
        finder=InventorySearch(db),
        names=names,
        edits=DeviceEdits(db, feed, registry.profile, clock),
        groups=groups,
        protection=protection,
        sampling=CaptureKeyBook(db, clock),
        logging=PredictionLogBook(db, clock),
        desired=desired,
        documents=DesiredReader(db, registry, devices, desired),
        deployer=Deployer(db, registry, devices, desired, feed, protection),
        hold=hold,
        moves=(moves := MoveBook(db, signing, hold, addresses, settings, clock)),
        ca_rotations=CaRotationBook(db, signing, hold, moves, clock),
        tasks=tasks,
        offers=ReportedStateReader(db),
        receiver=ReportReceiver(db, reports, desired, tasks, recovery, enroller.connected),
        presence=PresenceHistory(db, shared or clock),
        recovery=recovery,
        addresses=addresses,
        enroller=enroller,
        enrolment=EnrolmentService(enroller, addresses, signing, readmissions, registry.profile, settings, clock),
        packages=packages,
        installer=AgentInstaller(packages, addresses, signing),
        authenticator=DeviceAuthenticator(db, enroller, addresses, clock),
        approvals=ApprovalBook(db, enroller, feed, clock),
        readmissions=readmissions,
        revocation=Revocation(db, signing, feed, reports.news, clock),
        suspicion=suspicion,
    )


def _readmissions(db: Database, feed: EventLog, settings: ServerSettings, clock: Clock) -> ReadmissionBook:
    terms = ReadmissionTerms(timedelta(days=settings.readmit_days), settings.readmit_per_day)
    return ReadmissionBook(db, feed, terms, clock)


def _agent_packages(db: Database, registry: Registry, clock: Clock) -> AgentPackages:
    """Return the packages of the agent, whose blobs no deleted release takes with it."""
    packages = AgentPackages(db, registry, clock)
    registry.withdrawals.leave(packages.digests)
    return packages


def _groups(db: Database, feed: EventLog, clock: Clock) -> tuple[GroupBook, ProtectionBook]:
    """Return groups, and the protection rules that keep those that they name."""
    groups = GroupBook(db, clock)
    protection = ProtectionBook(db, feed, clock, groups.pin)
    groups.add_guard(protection.uses_group)
    return groups, protection
