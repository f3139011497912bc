"""What the API and the pages say of ground truth. The dataclasses are bodies of routes: their fields are public. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final


@dataclass(frozen=True)
class AccuracyPoint:
    """One step of a line. at: its beginning; accuracy: null without labels of classes; low, high: at 95 %; error: mean size of errors."""

    at: datetime
    labelled: int
    devices: int
    accuracy: float | None
    low: float | None
    high: float | None
    error: float | None


@dataclass(frozen=True)
class AccuracyLine:
    """What is known of one release, group, segment, site or profile over the whole period; name "" is what has none.

    devices: those with labels. accuracy: mean over devices of their shares of right answers, each with the same weight; low, high: at 95 %.
    error, bias, rmse: of numbers: mean size of errors, mean of errors, root of the mean square, each as a mean over devices, too; null
    without numbers.
    """

    name: str
    labelled: int
    right: int
    devices: int
    accuracy: float | None
    low: float | None
    high: float | None
    numbers: int
    error: float | None
    bias: float | None
    rmse: float | None
    points: Sequence[AccuracyPoint]


@dataclass(frozen=True)
class ClassAccuracy:
    """One class: labelled so, answered so, both; mistaken_for: what was answered most often instead, null when all were right."""

    label: str
    labelled: int
    answered: int
    right: int
    mistaken_for: str | None
    mistakes: int


@dataclass(frozen=True)
class FigurePoint:
    """A business figure in one step: sum and how often it was reported."""

    at: datetime
    total: float
    reports: int


@dataclass(frozen=True)
class BusinessFigure:
    """A business figure by name over the period. devices: how many reported it."""

    name: str
    total: float
    reports: int
    devices: int
    points: Sequence[FigurePoint]


@dataclass(frozen=True)
class PublishedAccuracy:
    """What the bundles of the version showed at publish, on average over profiles. n: samples of the one with the fewest."""

    metric: str
    value: float
    n: int


@dataclass(frozen=True)
class ConceptDrift:
    """Whether answers became worse for the same inputs. state: none, few (too few labels), unsure (lower, but that may be chance),
    drift (worse, and the inputs are as before) or inputs (worse, and the inputs have drifted too). before: what it is compared with,
    source: publish, or first_labels, there with `after`, now, for the mix of classes of before. log10_p: how likely so much is by chance.
    devices: of now.
    """

    state: str
    said: str
    source: str
    before: float | None
    after: float | None
    low: float | None
    high: float | None
    devices: int
    labelled: int
    log10_p: float


NOT_KNOWN: Final = ConceptDrift(
    "few", "No labels say whether answers became worse.", "", None, None, None, None, 0, 0, 0.0
)


@dataclass(frozen=True)
class ModelAccuracy:
    """Ground truth of a model over a period, in steps of step_s. by: what the lines are of. version: "" = of all.

    unmatched: labels without a remembered answer; late: of those, too late ones; repeated: labels that came again. is_cut: the period holds
    more than is read at once, and its beginning is left out; choose a shorter one. classes: by the number of labels.
    """

    model: str
    version: str
    by: str
    since: datetime
    until: datetime
    step_s: int
    is_cut: bool
    lines: Sequence[AccuracyLine]
    classes: Sequence[ClassAccuracy]
    figures: Sequence[BusinessFigure]
    unmatched: int
    late: int
    repeated: int
    published: PublishedAccuracy | None
    concept: ConceptDrift
