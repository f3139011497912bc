"""Every way a conversion ends without a bundle.

Two families:

* `SourceError`: the upload itself is unusable (not a model, damaged files, bad sample data). No profile can be served;
  the whole job ends.
* `RefusedError`: one profile cannot be served. Other profiles of the same job go on; the release becomes `partial`.

A third kind says nothing about the model: `StepKilledError` ends the job, which may be tried again.

Codes are stable: the server stores them, the CLI prints them, tests compare them.
"""

from edgefleet_protocol.errors import EdgefleetError


class ConversionError(EdgefleetError):
    """Root of all errors of this package."""

    code = "convert.failed"


class StepKilledError(EdgefleetError):
    """The system ended a step by SIGKILL, most likely because memory ran out. No ConversionError: no candidate is to blame."""

    code = "convert.killed"


class SourceError(ConversionError):
    """The upload cannot be used for any profile."""

    code = "convert.bad_source"


class BadRequestError(SourceError):
    """The job's own request is malformed (a bug of the caller or a wrong option)."""

    code = "convert.bad_request"


class NotAModelError(SourceError):
    """The file is neither ONNX nor TFLite."""

    code = "convert.not_a_model"


class TruncatedModelError(SourceError):
    """The file starts like a model and ends too early."""

    code = "convert.truncated"


class InvalidModelError(SourceError):
    """The file is a model by its form, but breaks the rules of its format."""

    code = "convert.invalid_model"


class ExternalDataMissingError(SourceError):
    """A weight file that the model names is not in the upload."""

    code = "convert.external_data_missing"


class ExternalDataUnsafeError(SourceError):
    """A weight file lies outside the upload, or is not a plain file of its own."""

    code = "convert.external_data_unsafe"


class ModelTooLargeError(SourceError):
    """The model passes a limit of the converter (bytes, nodes, depth, tensor elements)."""

    code = "convert.too_large"


class ForeignOperatorError(SourceError):
    """The model uses an operator that neither the ONNX standard nor the runtime has."""

    code = "convert.custom_operator"


class ArchiveUnsafeError(SourceError):
    """A zip in the upload could write outside, unpacks to too much, or hides what it holds."""

    code = "convert.archive_unsafe"


class PickleRefusedError(SourceError):
    """The model is a pickle, which runs code when it is read, and that was not allowed."""

    code = "convert.pickle_refused"


class UntrustedTypeError(SourceError):
    """A skops file asks for types that are not on the allow-list."""

    code = "convert.untrusted_type"


class ToolMissingError(SourceError):
    """The source needs a tool environment or a package that is not installed; `next_step` is the command to type."""

    code = "convert.tool_missing"


class ToolFailedError(SourceError):
    """A tool could not be installed, or could not convert the source."""

    code = "convert.tool_failed"


class ImportDiffersError(SourceError):
    """The ONNX model that was made from the source does not answer as the source does."""

    code = "convert.import_differs"


class ShapeOptionError(SourceError):
    """A shape or value given for an input does not fit the model."""

    code = "convert.shape_bad"


class DataError(SourceError):
    """Calibration, evaluation or golden data does not fit the model."""

    code = "convert.data_bad"


class DataUnreadableError(DataError):
    """The file is not an `.npz` archive of plain arrays."""

    code = "convert.data_unreadable"


class DataNamesError(DataError):
    """An array is missing or has a name that is no input of the model."""

    code = "convert.data_names"


class DataShapeError(DataError):
    """An array's shape does not fit its input, or sample counts differ."""

    code = "convert.data_shape"


class DataDtypeError(DataError):
    """An array's type cannot be used for its input without changing values."""

    code = "convert.data_dtype"


class DataNotFiniteError(DataError):
    """An array holds NaN or infinity."""

    code = "convert.data_nan"


class DataEmptyError(DataError):
    """The file has no samples."""

    code = "convert.data_empty"


class LabelsError(DataError):
    """Labels (`y` or labels.txt) do not fit the samples or the model's classes."""

    code = "convert.labels_bad"


class DataDoubtError(DataError):
    """The data can be read and can hardly be right for this model."""

    code = "convert.data_doubt"


class RecipeError(SourceError):
    """The recipe is no valid recipe."""

    code = "convert.recipe_bad"


class MetricError(SourceError):
    """The metric cannot be computed on this model and data."""

    code = "convert.metric_bad"


class SideFileError(SourceError):
    """preprocess.json, postprocess.json, labels.txt or reference.msgpack is not usable."""

    code = "convert.side_file_bad"


class RefusedError(ConversionError):
    """One profile cannot be served."""

    code = "convert.refused"


class FormatNotAllowedError(RefusedError):
    """The source's format cannot be run by the profile's runtimes."""

    code = "convert.format_not_allowed"


class UnsupportedOperatorError(RefusedError):
    """A node uses an operator, version or type that the profile does not list."""

    code = "convert.unsupported_operator"


class OperatorNotCompiledError(RefusedError):
    """Our ONNX to TFLite compiler does not do an operator in this form, although the runtime might."""

    code = "convert.operator_not_compiled"


class OpsetTooNewError(RefusedError):
    """The model's operator set or IR version is newer than the profile's runtime reads."""

    code = "convert.opset_too_new"


class DynamicShapeError(RefusedError):
    """An input has an open dimension, and nothing shows how long it is; or the profile needs it fixed."""

    code = "convert.dynamic_shape"


class BatchNotFixedError(RefusedError):
    """An input's first dimension is not 1, and the profile runs one sample at a time."""

    code = "convert.batch_not_fixed"


class DtypeNotAllowedError(RefusedError):
    """A tensor inside the model has a type that the profile does not take."""

    code = "convert.dtype_not_allowed"


class RankTooHighError(RefusedError):
    """A tensor inside the model has more dimensions than the profile takes."""

    code = "convert.rank_too_high"


class QuantizationError(RefusedError):
    """A model is quantized in another way than the profile needs."""

    code = "convert.quantization_not_allowed"


class BackendMissingError(RefusedError):
    """The profile's accelerator needs a compiler that edgefleet does not have."""

    code = "convert.backend_missing"


class OverBudgetError(RefusedError):
    """No candidate fits the profile's size or memory budget. needed_bytes: what it would take."""

    code = "convert.over_budget"

    def __init__(self, message: str, *, next_step: str = "", needed_bytes: int = 0) -> None:
        super().__init__(message, next_step=next_step)
        self.needed_bytes = needed_bytes


class RuntimeUnavailableError(RefusedError):
    """A runtime (or its version) that the profile names is not here, so nothing could be validated."""

    code = "convert.runtime_unavailable"


class PrecisionError(RefusedError):
    """The asked precision cannot be made from what was given."""

    code = "convert.precision_unavailable"


class RecipeKeyError(RefusedError):
    """A candidate of the recipe asks for a step that models of this kind do not have; ignoring it would give a different model."""

    code = "convert.recipe_key"


class LoadFailedError(RefusedError):
    """The runtime refuses to load the model."""

    code = "convert.load_failed"


class CrashedError(RefusedError):
    """The model kills the runtime's process."""

    code = "convert.crashed"


class TimedOutError(RefusedError):
    """Loading or running the model does not end within the time limit."""

    code = "convert.timed_out"


class OutOfMemoryError(RefusedError):
    """Loading or running the model needs more memory than the limit."""

    code = "convert.out_of_memory"


class NotFiniteError(RefusedError):
    """The model answers with NaN or infinity."""

    code = "convert.not_finite"


class AccuracyError(RefusedError):
    """The model answers, but worse than the source by more than allowed.

    drop: in the metric's unit. metric: the figures as a report row (`report.MetricRow`).
    """

    code = "convert.accuracy"

    def __init__(self, message: str, *, next_step: str = "", drop: float = 1.0, metric: object = None) -> None:
        super().__init__(message, next_step=next_step)
        self.drop = drop
        self.metric = metric


class DiffersError(RefusedError):
    """A candidate is no longer the source's model: another contract, or answers that no metric may excuse."""

    code = "convert.differs"


class GoldenError(RefusedError):
    """Golden vectors cannot be made or do not hold."""

    code = "convert.golden"


class TransformError(RefusedError):
    """A conversion step failed on this model."""

    code = "convert.transform_failed"


BY_CODE: dict[str, type[ConversionError]] = {
    cls.code: cls
    for cls in (
        NotAModelError,
        TruncatedModelError,
        InvalidModelError,
        ExternalDataMissingError,
        ExternalDataUnsafeError,
        ModelTooLargeError,
        ForeignOperatorError,
        ArchiveUnsafeError,
        PickleRefusedError,
        UntrustedTypeError,
        ToolMissingError,
        ToolFailedError,
        ImportDiffersError,
        ShapeOptionError,
        MetricError,
        LoadFailedError,
        TransformError,
        RuntimeUnavailableError,
        UnsupportedOperatorError,
        OperatorNotCompiledError,
        DtypeNotAllowedError,
        DynamicShapeError,
    )
}
"""Errors that a sandboxed child may raise; the parent raises the same class again."""
