"""How rejections are said: each in short words in its row, and where no candidate passes, the one that is shown. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from edgefleet_converters import errors
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.report import CandidateRow, MetricRow
from edgefleet_profiles.profile import HardwareProfile

_SHORT: Final[Mapping[type[errors.ConversionError], str]] = {
    errors.AccuracyError: "not accurate", errors.DiffersError: "other answers", errors.NotFiniteError: "gives NaN",
    errors.GoldenError: "not repeatable", errors.OverBudgetError: "too large", errors.CrashedError: "crashes",
    errors.TimedOutError: "never ends", errors.OutOfMemoryError: "needs memory", errors.LoadFailedError: "does not load",
    errors.UnsupportedOperatorError: "operator missing", errors.OperatorNotCompiledError: "operator missing",
    errors.RecipeKeyError: "not in TFLite", errors.PrecisionError: "other precision",
}  # fmt: skip


@dataclass(frozen=True)
class Rejected:
    """What became of the candidates that did not pass. accurate: those that passed the gate and failed after it; faults: float32
    itself differs from the source.
    """

    every: list[errors.ConversionError] = field(default_factory=list)
    accurate: list[errors.ConversionError] = field(default_factory=list)
    faults: list[errors.ConversionError] = field(default_factory=list)

    def add(self, spec: CandidateSpec, error: errors.ConversionError) -> None:
        """Note the rejection of a candidate."""
        self.every.append(error)
        if spec.precision == "fp32" and isinstance(error, errors.DiffersError):
            self.faults.append(error)

    def telling(self, profile: HardwareProfile) -> errors.ConversionError:
        """Return the error to show.

        A candidate that passed the gate and failed after it came nearer than any that lost accuracy. Where float32 itself is wrong, no
        smaller form could be right.
        """
        # Too large for the board says more than a loss on the last samples: smaller forms were tried for that.
        told = sorted(self.accurate, key=lambda error: isinstance(error, errors.AccuracyError)) or self.faults
        return _curable(_among(told[0], [*self.accurate, *self.every]) if told else _refusal(self.every), profile)


def _refusal(rejections: list[errors.ConversionError]) -> errors.ConversionError:
    """Return the error to show for a profile with no passing candidate: the one that came nearest.

    A model that loses accuracy says more than one that could not be made; among several the smallest loss, or the smallest
    excess of size, is shown.
    """
    losses = [error for error in rejections if isinstance(error, errors.AccuracyError)]
    excesses = [error for error in rejections if isinstance(error, errors.OverBudgetError)]
    if losses:
        return _among(min(losses, key=lambda error: error.drop), rejections)
    for kind in (errors.NotFiniteError, errors.DiffersError, errors.GoldenError):
        found = [error for error in rejections if isinstance(error, kind)]
        if found:
            return _among(found[0], rejections)
    if excesses:
        return _among(min(excesses, key=lambda error: error.needed_bytes), rejections)
    return _among(rejections[0], rejections)


def _curable(error: errors.ConversionError, profile: HardwareProfile) -> errors.ConversionError:
    """Return `error` with a next step that the profile allows: where int8 is required, float is no way out."""
    if profile.quant.mode != "required" or not any(word in error.next_step for word in ("fp32", "fp16", "auto")):
        return error
    return type(error)(
        error.message,
        next_step="give more calibration data, allow more loss with --max-drop, or choose a profile that takes float models",
    )


def _among(error: errors.ConversionError, rejections: list[errors.ConversionError]) -> errors.ConversionError:
    """Return `error`, saying of how many candidates it is the nearest."""
    if len(rejections) == 1:
        return error
    text = f"{error.message} (the nearest of {len(rejections)} candidates)"
    return type(error)(text, next_step=error.next_step)


def rejected(row: CandidateRow, error: errors.ConversionError, metric: MetricRow | None = None) -> CandidateRow:
    """Return the row of a candidate that `error` rejected. metric: what it lost, where that is known."""
    short = _SHORT.get(type(error), "not small" if row.bytes is not None else "cannot be made")
    if metric is not None and metric.is_measured and 0 < metric.drop < 1e4:
        is_share = abs(metric.baseline - metric.value - metric.drop) < 1e-6
        short = f"{100 * metric.drop:.1f} points lost" if is_share else f"{metric.drop:.2g} worse"
    return msgspec.structs.replace(row, verdict="rejected", reason=error.message, short=short, metric=metric)
