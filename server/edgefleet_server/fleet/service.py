"""The fleet as the rest of the server sees it.

A façade over its parts: `enrolment` (claims, certificates, approval), `desired` (signed documents, the hold, tasks),
`reported` (what devices say, what rollouts ask), `events` (the event log), `inventory` (groups, lists),
`identity` (device tokens), `rules` (selectors). Thread-safe; calls block; every write joins the caller's transaction.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import event

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import Ref, Task
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName, ReleaseRef
from edgefleet_protocol.messages import Event, Presence, State
from edgefleet_protocol.profile import HardwareProfile
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.events.stream import EventHub
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.candidate import candidate_events, candidate_requests
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook, CaptureKeyView
from edgefleet_server.fleet.desired.documents import DesiredBook, Listener
from edgefleet_server.fleet.desired.hold import HoldDocument
from edgefleet_server.fleet.desired.model import (
    ActiveRequest,
    Assigned,
    CandidateOrder,
    Deployment,
    ModelChange,
    OfferedBlob,
    SignedDesired,
    Skipped,
    WantedRef,
)
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.enrolment.approval import ApprovalBook
from edgefleet_server.fleet.enrolment.device_token import ReplayCache, check_token, claimed_device, is_signed_by
from edgefleet_server.fleet.enrolment.enrolment import Enroller, external_broker, root_documents
from edgefleet_server.fleet.enrolment.model import (
    BrokerAddress,
    ClaimOrder,
    ClaimView,
    DeviceIdentity,
    Enrolment,
    NewClaim,
)
from edgefleet_server.fleet.enrolment.pending import PendingEnrolments
from edgefleet_server.fleet.errors import BadDeviceTokenError, DeviceRevokedError, NothingToDeployError
from edgefleet_server.fleet.inventory import store as inventory_store
from edgefleet_server.fleet.inventory.groups import GroupBook, Guard
from edgefleet_server.fleet.inventory.labels import DeviceEdits
from edgefleet_server.fleet.inventory.listing import DeviceLister
from edgefleet_server.fleet.inventory.search import InventorySearch
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.reported.ingest import Answer, ReportBook
from edgefleet_server.fleet.reported.metadata_recovery import MetadataRecovery
from edgefleet_server.fleet.reported.model import ModelReport
from edgefleet_server.fleet.reported.reader import ReportedStateReader
from edgefleet_server.fleet.selectors import grammar
from edgefleet_server.registry.model import BundleView, ReleaseView
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService


class Registry(Protocol):
    """What the fleet needs of the registry."""

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release. Raises an error when there is none."""
        ...

    def profile(self, name: str) -> HardwareProfile:
        """Return a hardware profile. Raises an error when there is none."""
        ...

    def bundles_by_digest(self, digests: Sequence[str]) -> Mapping[Sha256, BundleView]:
        """Return signed bundles by the digests that are known."""
        ...


class FleetService:
    """Devices and what they should run."""

    def __init__(
        self,
        db: Database,
        signing: SigningService,
        registry: Registry,
        clock: Clock,
        settings: ServerSettings,
        shared: Clock | None = None,
    ) -> None:
        """Wire the parts. Touches nothing. shared: the clock that all processes of the database go by, where it is another one."""
        self._db = db
        self._signing = signing
        self._registry = registry
        self._clock = clock
        self._settings = settings
        self._replays = ReplayCache()
        self._broker = external_broker(settings.broker)
        self._device_port = settings.device_port
        self.feed = EventLog(db, shared or clock)
        self.desired = DesiredBook(db, signing, clock)
        waiting = PendingEnrolments(self.feed, clock, settings)
        self.enroller = Enroller(db, signing, self.feed, self.desired, waiting, clock)
        self.approvals = ApprovalBook(db, self.enroller, self.feed, clock)
        self.groups = GroupBook(db, clock)
        self.finder = InventorySearch(db)
        self.edits = DeviceEdits(db, self.feed, registry.profile)
        self.sampling = CaptureKeyBook(db, clock)
        self.stream = EventHub(self.feed)
        self.reader = FleetReader(db, self.feed)
        self.lists = DeviceLister(db, clock)
        self.offers = ReportedStateReader(db)
        self._brake = HoldDocument(db, signing, clock)
        self._reports = ReportBook(db, self.feed, shared or clock)
        self._reports.news.subscribe(self.lists.forget)
        self._restoring = MetadataRecovery(db, signing, self.feed, clock)
        self.tasks = TaskBook(db, self.desired, self.feed, clock)
        self._revocation_listeners: list[Callable[[DeviceId], None]] = []

    # ---- addresses that are known once the process listens

    def announce_broker(self, host: str, port: int, mqtt: str) -> None:
        """Tell new devices from now on where the broker is; mqtt: "5" or "3.1.1"."""
        self._broker = BrokerAddress(host, port, mqtt)

    def announce_device_port(self, port: int) -> None:
        """Tell the port of the device listener when the settings left it free (0)."""
        self._device_port = port

    @property
    def device_url(self) -> str:
        """The base URL of the device listener, as devices reach it."""
        host = self._settings.device_public_host
        return f"https://{f'[{host}]' if ':' in host else host}:{self._device_port}"

    @property
    def server_id(self) -> str:
        """The `aud` of device tokens: bound to the device CA, so that a token for one server is worth nothing at another."""
        return f"edgefleet-{self._signing.ca_sha256()[:32]}"

    # ---- enrolment

    def create_claims(  # noqa: PLR0913 - what a claim may say
        self,
        *,
        count: int = 1,
        uses: int = 1,
        ttl: timedelta = timedelta(days=1),
        labels: Mapping[str, str] | None = None,
        profile: str | None = None,
        name_prefix: str | None = None,
        approval: bool | None = None,
        created_by: str = "",
    ) -> list[NewClaim]:
        """Make claim tokens. approval: None = as the settings say. Raises BadLabelError, BadIdError, ProfileUnknownError."""
        fixed = None if profile is None else ProfileName(self._registry.profile(profile).name)
        waits = self._settings.enrol_approval if approval is None else approval
        order = ClaimOrder(count, uses, ttl, labels or {}, fixed, name_prefix, waits)
        return self.enroller.create_claims(order, url=self.device_url, created_by=created_by)

    def claims(self, after: str | None, limit: int) -> tuple[list[ClaimView], int]:
        """Return up to `limit` claims after an id, and how many there are."""
        return self.enroller.claims(after, limit)

    def enroll(self, token: str, csr_pem: bytes, facts: Mapping[str, Any], *, is_waiting: bool = False) -> Enrolment:
        """Turn a claim and a CSR into a device with an empty desired document. Raises what `Enroller.enroll` raises."""
        made = self.enroller.enroll(token, csr_pem, facts, is_waiting=is_waiting)
        return self._enrolment(made.id, made.cert, made.profile, made.pinned_root)

    def renew(self, device: DeviceIdentity, csr_pem: bytes) -> Enrolment:
        """Give a device a certificate for a new key. Raises BadCsrError."""
        cert = self.enroller.renew(device, csr_pem)
        return self._enrolment(device.id, cert, device.profile, None)

    def authenticate(self, token: str) -> DeviceIdentity:
        """Return the device that signed a bearer token. Raises BadDeviceTokenError, DeviceRevokedError."""
        device_id = claimed_device(token)
        now = self._clock.now()
        with self._db.read() as session:
            row = store.device(session, device_id)
            if row is None:
                raise BadDeviceTokenError("The device token is refused: its device is not known here.")
            if row.revoked_at is not None:
                raise DeviceRevokedError(
                    f"The device {device_id} was revoked.", next_step="Enrol with a new claim token."
                )
            profile, old_key, new_key = ProfileName(row.profile), row.public_key, row.next_public_key

        def use(jti: str, until_s: float) -> bool:
            return self._replays.use(device_id, jti, until_s, now.timestamp())

        if new_key is not None and is_signed_by(token, new_key):
            check_token(token, new_key, self.server_id, now, use)
            self.enroller.promote_key(device_id, new_key)
            return DeviceIdentity(device_id, profile, new_key)
        check_token(token, old_key, self.server_id, now, use)
        return DeviceIdentity(device_id, profile, old_key)

    def revoke(self, device_id: str) -> None:
        """Take a device out of the fleet for good. Raises DeviceUnknownError. Again: changes nothing."""
        with self._db.session() as session:
            row = store.known_device(session, device_id, lock=True)
            if row.revoked_at is not None:
                return
            row.revoked_at = self._clock.now()
            row.is_online = False
            desired_store.delete_desired(session, device_id)
            self._signing.revoke_device_certificates(device_id)
            event.listen(session, "after_commit", lambda _session: self._revoked(DeviceId(device_id)), once=True)
            self.feed.add([NewEvent("revoked", device_id)])
            self._reports.news.ring(session)

    def on_revoked(self, listener: Callable[[DeviceId], None]) -> Callable[[], None]:
        """Call `listener` with each device revoked by this process, after the commit; return how to stop."""
        self._revocation_listeners.append(listener)
        return lambda: self._revocation_listeners.remove(listener)

    def _revoked(self, device_id: DeviceId) -> None:
        for listener in list(self._revocation_listeners):
            listener(device_id)

    def live_among(self, devices: Collection[DeviceId]) -> set[DeviceId]:
        """Return which of these devices are known and not revoked."""
        with self._db.read() as session:
            return {DeviceId(row.id) for row in store.devices_by_id(session, list(devices)) if row.revoked_at is None}

    # ---- labels, profiles, selectors

    def update(self, device_id: str, labels: Mapping[str, str | None], profile: str | None) -> None:
        """Set labels (None removes one) and the profile. Raises DeviceUnknownError, BadLabelError, ProfileUnknownError."""
        self.edits.update(device_id, labels, profile)

    def profiles_in_use(self) -> list[ProfileName]:
        """Return the profiles of the devices that are not revoked."""
        with self._db.read() as session:
            return [ProfileName(name) for name in inventory_store.profiles_in_use(session)]

    def select(self, selector: str) -> list[DeviceFacts]:
        """Return the devices that a selector matches, in order of id. Raises BadSelectorError."""
        return self.reader.select(selector)

    def population(self, selector: str) -> list[DeviceFacts]:
        """Return the devices that a selector matches, without revoked ones, in order of id. Raises BadSelectorError."""
        return [one for one in self.reader.select(selector) if one.status is not DeviceStatus.REVOKED]

    def groups_in(self, selector: str) -> frozenset[str]:
        """Return the groups that a selector names, known or not. Raises BadSelectorError for bad grammar."""
        return grammar.parse_selector(selector).groups()

    def pin_groups(self, selector: str) -> None:
        """Keep the groups that a selector names until the caller's transaction ends. Raises BadSelectorError."""
        self.groups.pin(selector)

    def add_group_guard(self, guard: Guard) -> None:
        """Ask `guard` with a group's name why it must stay (None: it need not) before it is removed."""
        self.groups.add_guard(guard)

    # ---- what devices should run

    def deploy(
        self,
        ref: ReleaseRef,
        *,
        selector: str | None = None,
        device: str | None = None,
        dry_run: bool = False,
        by: str = "",
        beside: CandidateOrder | None = None,
    ) -> Deployment:
        """Make a release the active one on every matching device whose profile has a bundle of it, or run it beside that.

        All in one transaction. Raises BadSelectorError, DeviceUnknownError, DeviceRevokedError, NothingToDeployError, and
        what the registry raises for an unknown release.
        """
        release = self._registry.release(ref)
        ref, bundles = release.ref, {bundle.profile: bundle for bundle in release.bundles}
        if not bundles:
            raise NothingToDeployError(
                f"{ref} has no signed bundle (its state is {release.state}).",
                next_step=f"See why with `edgectl release show {ref}`.",
            )
        matched = self._matched(selector, device)
        able = {one.id: bundle for one in matched if (bundle := bundles.get(one.profile)) is not None}
        why_not: dict[DeviceId, str] = {}
        if dry_run:
            gens = dict.fromkeys(able, 0)
        elif beside is None:
            gens = self._assign(able, by)
        else:
            gens, why_not = self._assign_beside(able, beside, by)
        done: list[Assigned] = []
        skipped: list[Skipped] = []
        for one in matched:
            bundle = able.get(one.id)
            if bundle is None:
                skipped.append(self._without_bundle(release, one))
            elif one.id in gens:
                done.append(Assigned(one.id, one.profile, gens[one.id], bundle.target))
            elif one.id in why_not:
                skipped.append(Skipped(one.id, one.profile, why_not[one.id], "See `edgectl device show`."))
            else:
                skipped.append(Skipped(one.id, one.profile, "it was revoked just now", "Nothing: it left the fleet."))
        return Deployment(str(ref), len(matched), done, skipped)

    def _matched(self, selector: str | None, device: str | None) -> list[DeviceFacts]:
        if device is not None:
            with self._db.read() as session:
                if store.known_device(session, device).revoked_at is not None:
                    raise DeviceRevokedError(f"The device {device} was revoked.", next_step="Choose a live device.")
            return self.select(f"id={device}")
        if selector is None:
            raise NothingToDeployError(
                "Neither a selector nor a device was given.", next_step="Name devices: --to 'env=prod' or --device ID."
            )
        return self.population(selector)

    def _assign(self, bundles: Mapping[DeviceId, BundleView], by: str) -> dict[DeviceId, int]:
        """Write these devices' documents, all in one transaction; return their gens. A device revoked meanwhile has none."""
        wishes = {
            device: ActiveRequest(
                bundle.ref.model, Ref(target=bundle.target, sha256=bundle.sha256, length=bundle.length)
            )
            for device, bundle in bundles.items()
        }
        with self._db.session():
            written = self.desired.set_active(wishes)
            self.feed.add(
                [
                    NewEvent(
                        "desired",
                        device,
                        bundles[device].ref.model,
                        detail={"release": str(bundles[device].ref), "gen": signed.gen, "by": by},
                    )
                    for device, (signed, is_new) in written.items()
                    if is_new
                ]
            )
        return {device: signed.gen for device, (signed, _) in written.items()}

    def _assign_beside(
        self, bundles: Mapping[DeviceId, BundleView], beside: CandidateOrder, by: str
    ) -> tuple[dict[DeviceId, int], dict[DeviceId, str]]:
        """Write these devices' documents, all in one transaction; return their gens, and why some have none."""
        with self._db.session():
            written = self.desired.set_candidates(candidate_requests(bundles, beside))
            self.feed.add(candidate_events(written, bundles, beside, by))
        gens = {device: done[0].gen for device, done in written.items() if not isinstance(done, str)}
        return gens, {device: done for device, done in written.items() if isinstance(done, str)}

    def _without_bundle(self, release: ReleaseView, one: DeviceFacts) -> Skipped:
        job = next((job for job in release.jobs if job.profile == one.profile), None)
        if job is None:
            reason = f"{release.ref} was not built for profile {one.profile}"
            step = f"Publish it again with --profile {one.profile}."
        elif job.state in ("queued", "running"):
            reason = f"the bundle for profile {one.profile} is still being made ({job.state}, {job.pct:.0f} %)"
            step = "Deploy again when it is ready."
        else:
            reason = job.reason or f"the conversion for profile {one.profile} {job.state}"
            step = job.next_step or f"See `edgectl release show {release.ref}`."
        return Skipped(one.id, one.profile, reason, step)

    def set_models(self, changes: Sequence[ModelChange]) -> list[SignedDesired]:
        """Change documents and sign one for each device, in order of id; unknown and revoked devices are left out.

        Signs also what differs in attempt, rollout or deadlines only. Once in a transaction, after `set_hold`.
        """
        return self.desired.set_models(changes)

    def wants(self, device_ids: Sequence[DeviceId], model: ModelName) -> dict[DeviceId, WantedRef]:
        """Return what each of these devices' documents says of a model; those without a document are left out."""
        return self.offers.wants(device_ids, model)

    def resign_due(self, now: datetime) -> int:
        """Sign again the documents that passed half of their life; return how many. For the engine tick."""
        return self.desired.resign_due(now)

    def on_desired(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each batch of newly signed documents after its commit; return how to stop."""
        return self.desired.subscribe(listener)

    def desired_of(self, device_id: DeviceId) -> SignedDesired | None:
        """Return a device's signed document, or None when it has none or is revoked."""
        with self._db.read() as session:
            return desired_store.desired_of(session, device_id)

    def all_desired(self) -> list[SignedDesired]:
        """Return every live device's document: what must be retained on a broker."""
        with self._db.read() as session:
            return list(desired_store.all_desired(session))

    def desired_changed_since(self, since: datetime, known: Mapping[DeviceId, int]) -> list[SignedDesired]:
        """Return documents signed at or after `since`, by whichever process, of a higher gen than is known of the device."""
        with self._db.read() as session:
            return list(desired_store.desired_changed_since(session, since, known))

    def offered_to(self, device_id: DeviceId) -> list[OfferedBlob]:
        """Return what a device may pull: the bundles its document names, and their leaf indexes. Nothing when revoked."""
        if not self.live_among([device_id]):
            return []
        bundles = self.desired.offered_to(device_id)
        known = self._registry.bundles_by_digest([blob.sha256 for blob in bundles])
        return bundles + [OfferedBlob(bundle.leaves, 0) for bundle in known.values()]

    def add_task(self, device_id: DeviceId, task: Task) -> SignedDesired:
        """Give a device a thing to do once. Raises DeviceRevokedError."""
        return self.desired.add_task(device_id, task)

    def capture_key(self) -> CaptureKeyView | None:
        """Return the public key that captured records are sealed to; None: nothing is captured."""
        return self.sampling.key()

    def hold_envelope(self) -> bytes | None:
        """Return the signed hold document, or None when there never was one."""
        return self._brake.envelope()

    def set_hold(self, rollouts: Sequence[str], digests: Sequence[str]) -> bool:
        """Make the hold name exactly these; return whether it was signed, because that differs or half its life is over."""
        return self._brake.set(rollouts, digests)

    def resign_hold_due(self, now: datetime) -> bool:
        """Sign the hold again when half of its life is over; return whether it was. For the engine tick."""
        return self._brake.resign_due(now)

    def hold_rollouts(self) -> list[str]:
        """Return the rollouts that the hold names, sorted."""
        return self._brake.rollouts()

    def hold_digests(self) -> list[str]:
        """Return the bundles that the hold names, sorted."""
        return self._brake.digests()

    def on_hold(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each commit that signed the hold; return how to stop."""
        return self._brake.subscribe(listener)

    # ---- what happens

    def add_events(self, rows: Sequence[NewEvent]) -> list[int]:
        """Store what happened here, with one statement; return the ids in the order of `rows`."""
        return self.feed.add(rows)

    def prune_events(self, now: datetime) -> int:
        """Remove what devices reported more than 90 days ago, old results of tasks, who waited in vain; return how many."""
        return self.feed.prune(now) + self.tasks.prune(now) + self.approvals.prune(now)

    # ---- what devices say

    def reports_of(self, device_ids: Sequence[DeviceId], model: ModelName) -> dict[DeviceId, ModelReport]:
        """Return what each of these devices says of a model; unknown devices are left out."""
        return self.offers.reports_of(device_ids, model)

    def on_reports(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each commit that changed something: model, document, presence, revocation."""
        return self._reports.news.subscribe(listener)

    def take_state(self, device_id: DeviceId, state: State) -> SignedDesired | None:
        """Store a reported state; return the document to send when the device lacks the newest one. Signs what `seen` asks for."""
        if state.seen is not None:
            self._restoring.take(device_id, state.seen)
        with self._db.session() as session:
            answer = self._reports.take_state(device_id, state)
            if answer is Answer.SIGN_HIGHER:
                return self.desired.resign(device_id)
            return desired_store.desired_of(session, device_id) if answer is Answer.SEND_DESIRED else None

    def take_presence(self, device_id: DeviceId, presence: Presence) -> None:
        """Store whether a device is there; a stale "off" is ignored."""
        self._reports.take_presence(device_id, presence)

    def take_events(self, events: Sequence[Event]) -> int:
        """Store events, each once; return how many were new."""
        with self._db.session():
            self.tasks.hear(events)
            return self._reports.take_events(events)

    def forget_presence(self) -> None:
        """Mark every device unheard of: after a restart nobody knows."""
        with self._db.session() as session:
            store.forget_presence(session)

    # ---- inside

    def _enrolment(self, device_id: DeviceId, cert: str, profile: ProfileName, pinned_root: Sha256 | None) -> Enrolment:
        return Enrolment(
            device_id=device_id,
            tenant=self._settings.tenant,
            cert=cert,
            ca=self._signing.ca_pem().decode(),
            root_chain=root_documents(self._signing.root_chain(pinned_root)),
            profile=profile,
            broker=self._broker,
            url=self.device_url,
            server_id=self.server_id,
        )
