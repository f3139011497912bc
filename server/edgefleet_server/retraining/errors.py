"""What retraining refuses."""

from edgefleet_protocol.errors import EdgefleetError


class RetrainingError(EdgefleetError):
    """Base of all errors of retraining."""

    code = "retraining.failed"


class TriggerUnknownError(RetrainingError):
    """No trigger has this name."""

    code = "trigger.unknown"


class TriggerExistsError(RetrainingError):
    """A trigger has this name already."""

    code = "trigger.exists"


class BadTriggerError(RetrainingError):
    """A trigger cannot be as it was asked for."""

    code = "trigger.bad"


class TooManyTriggersError(RetrainingError):
    """There are as many triggers as there may be."""

    code = "trigger.too_many"


class TriggerHeldError(RetrainingError):
    """A trigger may not start a retraining now. The message says what holds it."""

    code = "trigger.held_conflict"


class TriggerBusyError(RetrainingError):
    """A trigger has a retraining that has not ended."""

    code = "trigger.busy_conflict"


class RetrainingUnknownError(RetrainingError):
    """No retraining has this id."""

    code = "retraining.unknown"


class RetrainingStateError(RetrainingError):
    """A retraining is in a state in which this cannot be done."""

    code = "retraining.state_conflict"


class OwnTriggerError(RetrainingError):
    """A retraining is to be answered by a person who made its trigger or started it, or by a service."""

    code = "retraining.second_person_forbidden"


class LeaseLostError(RetrainingError):
    """The lease of a retraining is not the caller's any more."""

    code = "retraining.lease_conflict"
    default_next_step = "stop this training, and lease again: another runner has it, or it has ended"


class WrongReleaseError(RetrainingError):
    """A release is not the result of a retraining: of another model or parent, or published before the training began."""

    code = "retraining.release_bad"
    default_next_step = "publish what was trained: `edgectl publish MODEL --parent PARENT --retraining ID`"


class LaunchError(RetrainingError):
    """A launcher could not start the training now. after_s: to wait at least before the next try."""

    code = "retraining.launch_unavailable"
    after_s: float = 0.0


class LaunchRefusedError(RetrainingError):
    """The system that a launcher called refused to start the training: another try would be refused too."""

    code = "retraining.launch_refused"
    default_next_step = "correct the trigger's launcher, and start it again"
