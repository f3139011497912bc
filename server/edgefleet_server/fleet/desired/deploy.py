"""Deploying at once, without a rollout: every matching device gets a release, all in one transaction.

Devices whose profile has no bundle of the release are listed with why, and what to do.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol

from edgefleet_protocol.desired import Ref
from edgefleet_protocol.ids import DeviceId, ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired.candidate import CandidateRequest, candidate_events, candidate_requests
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.model import ActiveRequest, Assigned, CandidateOrder, Deployment, Skipped
from edgefleet_server.fleet.errors import DeviceRevokedError, NothingToDeployError
from edgefleet_server.fleet.model import NEXT_FOR_MODEL_KEY, NO_MODEL_KEY, DeviceFacts
from edgefleet_server.fleet.protection.model import Warrant
from edgefleet_server.fleet.protection.service import ProtectionBook
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.registry.errors import withdrawn_error
from edgefleet_server.registry.model import BundleView, ReleaseView


class Releases(Protocol):
    """What a deployment needs of the registry."""

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


class Deployer:
    """Makes releases the active ones. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        releases: Releases,
        devices: DeviceSelector,
        desired: DesiredBook,
        feed: EventLog,
        protection: ProtectionBook,
    ) -> None:
        """Wire the parts."""
        self._db = db
        self._registry = releases
        self._devices = devices
        self._desired = desired
        self._feed = feed
        self._protection = protection

    def deploy(
        self,
        ref: ReleaseRef,
        *,
        selector: str | None = None,
        device: str | None = None,
        dry_run: bool = False,
        by: str = "",
        order: CandidateOrder | None = None,
        warrant: Warrant = None,
    ) -> Deployment:
        """Make a release the active one on every matching device whose profile has a bundle of it, or run it as a candidate.

        All in one transaction. warrant: why protected devices may be changed. Raises BadSelectorError, DeviceUnknownError,
        DeviceRevokedError, NothingToDeployError, ProtectedDeviceError, and what the registry raises for an unknown or withdrawn release.
        """
        release = self._registry.release(ref)
        ref, bundles = release.ref, {bundle.profile: bundle for bundle in release.bundles}
        is_ending = order is not None and order.mode == "end"
        if release.withdrawn is not None and not is_ending:
            raise withdrawn_error(ref, release.withdrawn.reason)
        if not bundles:
            raise NothingToDeployError(
                f"{ref} has no signed bundle (its state is {release.state})",
                next_step=f"see why with `edgectl release show {ref}`",
            )
        matched = self._matched(selector, device)
        chosen = f"id={device}" if device is not None else selector or ""
        running = self._devices.versions(chosen, ref.model) if order is None else {}
        warning = self._registry.downgrade(ref, running, len(matched))
        having = {one.id: bundle for one in matched if (bundle := bundles.get(one.profile)) is not None}
        keyless = frozenset[DeviceId]() if is_ending else self._keyless(having)
        able = {device: bundle for device, bundle in having.items() if device not in keyless}
        why_not: dict[DeviceId, str] = {}
        if dry_run:
            gens = self._tried(ref, able, order, warrant)
        elif order is None:
            gens = self._assign(ref, able, by, warrant)
        else:
            gens, why_not = self._assign_candidate(ref, able, order, by, warrant)
        done: list[Assigned] = []
        skipped: list[Skipped] = []
        for one in matched:
            bundle = having.get(one.id)
            if bundle is None:
                skipped.append(_without_bundle(release, one))
            elif one.id in gens:
                done.append(Assigned(one.id, one.profile, gens[one.id], bundle.target))
            else:
                skipped.append(Skipped(one.id, one.profile, *_why_not(one.id, keyless, why_not)))
        with self._db.read() as session:
            names = store.display_names(session, [one.id for one in matched])
        return Deployment(
            str(ref),
            len(matched),
            [replace(one, display_name=names.get(one.device, "")) for one in done],
            [replace(one, display_name=names.get(one.device, "")) for one in skipped],
            warning,
        )

    def _tried(
        self, ref: ReleaseRef, able: Mapping[DeviceId, BundleView], order: CandidateOrder | None, warrant: Warrant
    ) -> dict[DeviceId, int]:
        """Refuse what a real deployment would refuse, and change nothing."""
        if order is None or order.mode != "end":
            self._registry.check_deployable(ref)
        self._desired.check(_requests(able, order), warrant)
        return dict.fromkeys(able, 0)

    def _keyless(self, bundles: Mapping[DeviceId, BundleView]) -> frozenset[DeviceId]:
        """Return the devices that could not open the sealed bundle that they would get."""
        sealed = [device for device, bundle in bundles.items() if bundle.is_sealed]
        return frozenset(sealed) - self._devices.with_model_key(sealed) if sealed else frozenset()

    def _matched(self, selector: str | None, device: str | None) -> list[DeviceFacts]:
        if device is not None:
            with self._db.read() as session:
                if store.known_device(session, device).revoked_at is not None:
                    raise DeviceRevokedError(f"the device {device} was revoked", next_step="choose a live device")
            return self._devices.select(f"id={device}")
        if selector is None:
            raise NothingToDeployError(
                "neither a selector nor a device was given", next_step="name devices: --to 'env=prod' or --device ID"
            )
        return self._devices.population(selector)

    def _assign(
        self, ref: ReleaseRef, bundles: Mapping[DeviceId, BundleView], by: str, warrant: Warrant
    ) -> dict[DeviceId, int]:
        """Write these devices' documents, all in one transaction; return their gens. A device revoked meanwhile has none."""
        with self._db.session():
            self._registry.keep_deployable(ref)
            written = self._desired.set_active(_active_requests(bundles), warrant)
            fresh = [device for device, (_, is_new) in written.items() if is_new]
            self._feed.add(
                [
                    NewEvent(
                        "desired",
                        device,
                        bundles[device].ref.model,
                        detail={"release": str(bundles[device].ref), "gen": written[device][0].gen, "by": by},
                    )
                    for device in fresh
                ]
            )
            self._protection.note_bypass(by, str(ref), fresh)
        return {device: signed.gen for device, (signed, _) in written.items()}

    def _assign_candidate(
        self, ref: ReleaseRef, bundles: Mapping[DeviceId, BundleView], order: CandidateOrder, by: str, warrant: Warrant
    ) -> tuple[dict[DeviceId, int], dict[DeviceId, str]]:
        """Write these devices' documents, all in one transaction; return their gens, and why some have none."""
        with self._db.session():
            if order.mode != "end":
                self._registry.keep_deployable(ref)
            written = self._desired.set_candidates(candidate_requests(bundles, order), warrant)
            self._feed.add(candidate_events(written, bundles, order, by))
            if order.mode != "end":
                fresh = [device for device, done in written.items() if not isinstance(done, str) and done[1]]
                self._protection.note_bypass(by, str(ref), fresh)
        gens = {device: done[0].gen for device, done in written.items() if not isinstance(done, str)}
        return gens, {device: done for device, done in written.items() if isinstance(done, str)}


def _active_requests(bundles: Mapping[DeviceId, BundleView]) -> dict[DeviceId, ActiveRequest]:
    return {
        device: ActiveRequest(bundle.ref.model, Ref(target=bundle.target, sha256=bundle.sha256, length=bundle.length))
        for device, bundle in bundles.items()
    }


def _requests(
    bundles: Mapping[DeviceId, BundleView], order: CandidateOrder | None
) -> dict[DeviceId, ActiveRequest] | dict[DeviceId, CandidateRequest]:
    return _active_requests(bundles) if order is None else candidate_requests(bundles, order)


def _why_not(device: DeviceId, keyless: Collection[DeviceId], why_not: Mapping[DeviceId, str]) -> tuple[str, str]:
    """Return why a device whose profile has a bundle did not get it, and what to do."""
    if device in keyless:
        return NO_MODEL_KEY, NEXT_FOR_MODEL_KEY
    if device in why_not:
        return why_not[device], f"See `edgectl device show {device}`."
    return "it was revoked just now", "Nothing: it left the fleet."


def _without_bundle(release: ReleaseView, one: DeviceFacts) -> Skipped:
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
