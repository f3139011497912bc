"""Errors of ground truth."""

from edgefleet_protocol.errors import EdgefleetError


class BadPeriodError(EdgefleetError):
    """The period is none."""

    code = "accuracy.bad_period"


class UploadUnknownError(EdgefleetError):
    """There is no such upload of labels."""

    code = "feedback.upload_unknown"
    default_next_step = "list them: `edgectl feedback list MODEL`"


class NoLabelsError(EdgefleetError):
    """Nothing of what was sent can be read as labels."""

    code = "feedback.no_labels"
    default_next_step = "name the device and the answer in each row: device,trace_id,label"


class TooManyLabelsError(EdgefleetError):
    """More labels at once than are taken."""

    code = "feedback.too_many"
