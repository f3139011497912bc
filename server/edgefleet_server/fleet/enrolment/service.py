"""Enrolment as operators and devices ask for it: claim tokens, devices with what they need to connect, new certificates.

`enrolment` decides and stores; here the answers get the addresses, the CA and the chain of root keys.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.fleet.enrolment.enrolment import Enroller, root_documents
from edgefleet_server.fleet.enrolment.model import NO_KEYS, ClaimOrder, DeviceIdentity, DeviceKeys, Enrolment, NewClaim
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.fleet.errors import BadClaimError
from edgefleet_server.fleet.readmission.service import ReadmissionBook
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService
from edgefleet_server.web.attempt_limits import Attempt, AttemptLimiter


class EnrolmentService:
    """Lets devices in. Thread-safe; calls block."""

    def __init__(
        self,
        enroller: Enroller,
        addresses: ServerAddresses,
        signing: SigningService,
        readmissions: ReadmissionBook,
        profile: Callable[[str], HardwareProfile],
        settings: ServerSettings,
        clock: Clock,
    ) -> None:
        """Wire the parts. profile: returns a hardware profile or raises."""
        self._enroller = enroller
        self._addresses = addresses
        self._signing = signing
        self._readmissions = readmissions
        self._profile = profile
        self._settings = settings
        self._attempts = AttemptLimiter(clock, enroller.claims_in_force)

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
        display_name: str = "",
        created_by: str = "",
    ) -> list[NewClaim]:
        """Make claim tokens. approval: None = as the settings say. Raises BadLabelError, BadDisplayNameError, BadIdError,
        ProfileUnknownError.
        """
        fixed = None if profile is None else ProfileName(self._profile(profile).name)
        waits = self._settings.enrol_approval if approval is None else approval
        order = ClaimOrder(count, uses, ttl, labels or {}, fixed, name_prefix, waits, display_name)
        return self._enroller.create_claims(order, url=self._addresses.device_url, created_by=created_by)

    def enroll(
        self, token: str, csr_pem: bytes, facts: Mapping[str, Any], *, is_waiting: bool = False, address: str = ""
    ) -> Enrolment:
        """Turn a claim and a CSR into a device with an empty desired document.

        address: where the device asks from. Raises what `Enroller.enroll` raises, and TooManyLoginsError.
        """
        attempt = Attempt(address, self._enroller.claim_of(token), token)
        self._attempts.check(attempt)
        try:
            made = self._enroller.enroll(token, csr_pem, facts, is_waiting=is_waiting)
        except BadClaimError:
            self._attempts.note_failure(attempt)
            raise
        except ApprovalPendingError:
            self._attempts.note_success(attempt)
            raise
        self._attempts.note_success(attempt)
        return self._enrolment(made.id, made.cert, made.profile, made.pinned_root)

    def renew(self, device: DeviceIdentity, csr_pem: bytes, keys: DeviceKeys = NO_KEYS, place: int = 0) -> Enrolment:
        """Give a device a certificate for a new key. keys, place: what it says of its others, and as `Enroller.renew` takes it.

        Raises what that raises.
        """
        cert = self._enroller.renew(device, csr_pem, self._readmissions, keys, place)
        return self._enrolment(device.id, cert, device.profile, None)

    def _enrolment(self, device_id: DeviceId, cert: str, profile: ProfileName, pinned_root: Sha256 | None) -> Enrolment:
        return Enrolment(
            device_id=device_id,
            tenant=self._settings.tenant,
            cert=cert,
            ca=self._signing.ca_pem().decode(),
            root_chain=root_documents(self._signing.root_chain(pinned_root)),
            profile=profile,
            broker=self._addresses.broker,
            url=self._addresses.device_url,
            server_id=self._addresses.server_id,
            display_name=self._enroller.display_name(device_id),
        )
