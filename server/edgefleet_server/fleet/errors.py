"""What the fleet refuses."""

from edgefleet_protocol.errors import EdgefleetError


class FleetError(EdgefleetError):
    """Root of the errors of this feature."""

    code = "fleet.failed"


class DeviceUnknownError(FleetError):
    """No device has this id."""

    code = "fleet.device_unknown"


class DeviceRevokedError(FleetError):
    """The device was revoked; its identity is no longer valid."""

    code = "fleet.device_revoked"


class BadSelectorError(FleetError):
    """A selector does not follow the grammar."""

    code = "fleet.bad_selector"


class BadLabelError(FleetError):
    """A label's key or value is not allowed."""

    code = "fleet.bad_label"


class BadDisplayNameError(FleetError):
    """A display name is too long or has characters that do not show."""

    code = "fleet.bad_name"


class BadClaimError(FleetError):
    """A claim token is malformed, unknown or its secret is wrong; the answer does not show which."""

    code = "enroll.unauthorized"


class ClaimExpiredError(FleetError):
    """The claim token's time is over."""

    code = "enroll.token_expired"


class ClaimUsedUpError(FleetError):
    """The claim token was used as often as it may be."""

    code = "enroll.token_used_up"


class ClaimUnknownError(FleetError):
    """No claim token has this id."""

    code = "enroll.claim_unknown"
    default_next_step = "`edgectl device claims` shows all"


class KeyRejectedError(FleetError):
    """An operator rejected this key; that is final."""

    code = "enroll.rejected"


class ApprovalExpiredError(FleetError):
    """Nobody approved the key in time."""

    code = "enroll.approval_expired"


class TooManyPendingError(FleetError):
    """The limit of pending devices for one claim token is reached."""

    code = "enroll.too_many_pending"


class CertificateEndedError(FleetError):
    """The device's certificate has ended; nothing but a new one is given to it."""

    code = "device.certificate_ended"
    default_next_step = "renew it on the device: edge-agent renew. The server decides whether a person has to agree"


class ReadmissionPendingError(FleetError):
    """The device's certificate ended, and a person has to let it come back."""

    code = "device.readmission_pending"
    default_next_step = "an operator runs: edgectl device readmissions, then edgectl device readmit DEVICE. The device asks again by itself"


class ReadmissionRefusedError(FleetError):
    """A person refused to let the device come back."""

    code = "device.readmission_refused"
    default_next_step = "ask an operator; edgectl device readmit DEVICE takes the refusal back"


class BadChoiceError(FleetError):
    """The request does not name the pending devices, or names them in two ways."""

    code = "enroll.bad_choice"


class NoProfileError(FleetError):
    """No hardware profile fits the facts that the device sent."""

    code = "enroll.bad_hardware"


class BadFactsError(FleetError):
    """The facts of an enrolment are missing or of the wrong type."""

    code = "enroll.bad_facts"


class BadDeviceTokenError(FleetError):
    """The device's bearer token is malformed, wrongly signed, for someone else, expired or used before."""

    code = "device.unauthorized"


class NothingToDeployError(FleetError):
    """The release has no signed bundle, or no device was named."""

    code = "fleet.deploy_conflict"


class NothingToRecoverError(FleetError):
    """What an operator says of a restored server would sign nothing, or something that no device has seen."""

    code = "fleet.nothing_to_recover"


class GroupUnknownError(FleetError):
    """No group has this name."""

    code = "group.unknown"


class GroupExistsError(FleetError):
    """A group of this name exists."""

    code = "group.exists"


class BadGroupNameError(FleetError):
    """A group's name is not allowed."""

    code = "group.bad_name"


class GroupInUseError(FleetError):
    """Something that has not ended names the group in its selector."""

    code = "group.in_use"


class BadCaptureKeyError(FleetError):
    """This is not a public key that records can be sealed to."""

    code = "fleet.bad_capture_key"


class CaptureKeyUnknownError(FleetError):
    """The tenant has no capture key."""

    code = "fleet.capture_key_unknown"
    default_next_step = "create one with `edgectl capture-key create --out capture.key`"


class TaskUnknownError(FleetError):
    """No task of this device has this id."""

    code = "task.unknown"


class TooManyTasksError(FleetError):
    """The limit of open tasks for one device is reached."""

    code = "task.conflict"


class TooManyAtOnceError(FleetError):
    """More devices match than one request may ask."""

    code = "task.too_many"


class TaskOverError(FleetError):
    """The task has ended; no more results are accepted."""

    code = "task.over_conflict"


class BadTaskError(FleetError):
    """The arguments do not belong to this kind of task."""

    code = "task.bad"


class TaskResultMissingError(FleetError):
    """The device has sent no result for this task, or it was removed when it was old."""

    code = "task.result_missing"


class TaskResultTooLargeError(FleetError):
    """A result is larger than a device may send."""

    code = "task.result_too_large"


class ProtectedDeviceError(FleetError):
    """A protection rule refuses the change of a device's document: it takes releases only by an approved rollout."""

    code = "fleet.protected"


class ProtectionUnknownError(FleetError):
    """No protection rule has this name."""

    code = "fleet.protection_unknown"


class ProtectionExistsError(FleetError):
    """A protection rule of this name exists already."""

    code = "fleet.protection_exists"


class BadProtectionError(FleetError):
    """A protection rule, or setting one aside, was asked for with something that is not allowed."""

    code = "fleet.bad_protection"


class MoveUnknownError(FleetError):
    """No move of this server was ever planned."""

    code = "move.unknown"


class BadMoveError(FleetError):
    """A move of the server was asked for with something that is not allowed, or that does not fit its state."""

    code = "move.bad"


class MoveUnderWayError(FleetError):
    """Another move of the server is under way."""

    code = "move.under_way"


class MoveUnfinishedError(FleetError):
    """A move cannot end yet: devices have not followed, or the settings name the place that is left."""

    code = "move.unfinished"


class PlaceUnreachableError(FleetError):
    """Nothing with this server's certificate answers at the place that it is to move to."""

    code = "move.unreachable"


class CaRotationUnknownError(FleetError):
    """The device CA was never rotated."""

    code = "ca_rotation.unknown"


class BadCaRotationError(FleetError):
    """A rotation of the device CA was asked for with something that is not allowed, or that does not fit its state."""

    code = "ca_rotation.bad"


class CaRotationUnderWayError(FleetError):
    """Another rotation of the device CA, or a move of the server, is under way."""

    code = "ca_rotation.under_way"


class CaRotationUnfinishedError(FleetError):
    """A rotation cannot end yet: devices that are online have not followed, or the announcement is not signed."""

    code = "ca_rotation.unfinished"
