"""Errors of the telemetry feature."""

from edgefleet_protocol.errors import EdgefleetError


class CaptureUnknownError(EdgefleetError):
    """The device has no such fetch or record."""

    code = "telemetry.capture_unknown"


class NoCaptureKeyError(EdgefleetError):
    """The tenant has no key to seal captured records to."""

    code = "telemetry.no_capture_key"


class BadSpanError(EdgefleetError):
    """A span of time that ends before it begins, or that cannot be read."""

    code = "telemetry.bad_span"
    default_next_step = "choose a `since` that is before `until`; without `until` it ends now"


class NoParquetError(EdgefleetError):
    """pyarrow is not installed where prediction logs are packed or checked."""

    code = "predictions.no_parquet"


class PredictionLogUnknownError(EdgefleetError):
    """The model has no prediction log, or the log has no such file."""

    code = "predictions.unknown"


class BadPredictionLogError(EdgefleetError):
    """A prediction log cannot be kept like this."""

    code = "predictions.bad_rule"


class ErasureUnknownError(EdgefleetError):
    """There is no such erasure."""

    code = "erasure.unknown"


class ErasureUnfinishedError(EdgefleetError):
    """Rows of the subject may still be there: others changed the files meanwhile, or some cannot be read."""

    code = "erasure.unfinished"


class PurgeBehindError(EdgefleetError):
    """More records of a data set have to go than its holder was told: rows of the person came in later."""

    code = "data_set.purge_conflict"
    default_next_step = "purge it once more: `edgectl data purge DIR --receipt ID`"


class TooManyDataSetsError(EdgefleetError):
    """So many data sets of a model were noted within a day that no more are. `retry_after_s`: when one is again."""

    code = "data_set.too_many"

    def __init__(self, message: str, *, next_step: str, retry_after_s: int) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after_s = retry_after_s


class DataSetUnknownError(EdgefleetError):
    """There is no such data set."""

    code = "data_set.unknown"
