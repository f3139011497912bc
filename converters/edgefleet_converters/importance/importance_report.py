"""What the report says of the importance of inputs. Pure.

All figures are of the source model in a float runtime, on labelled evaluation data. They say what the answers hang on, not what
causes what: of two columns that say the same, either may look as if it did not matter.
"""

from typing import Any

import msgspec


class FeatureRow(msgspec.Struct, frozen=True, kw_only=True):
    """One input or part of one. name: that of the drift signal for a column, `input.column`; the input's own for a whole input.

    value: how much worse the metric is without it, in the metric's own unit; low, high: its interval at 95 %. repeats: how often it
    was shuffled.
    """

    name: str
    input: str
    kind: str
    value: float
    low: float
    high: float
    repeats: int


class HeatMap(msgspec.Struct, frozen=True, kw_only=True):
    """How much the score of the right class sinks when a part of the picture is hidden, [rows][columns]; negative = it rises.

    group: "" for all pictures, else the class number. n: pictures. mean: the mean of those pictures in grey, base64 of height × width
    bytes, "" where fewer than `LEAST_MEAN` stand behind it, or where a privacy policy hides the picture.
    """

    group: str
    n: int
    drop: list[list[float]]
    mean: str = ""
    height: int = 0
    width: int = 0


class OcclusionRow(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a picture that matter. size: of a picture, [height, width]; maps: first that of all pictures, then each class."""

    input: str
    size: list[int]
    maps: list[HeatMap]


class ImportanceRow(msgspec.Struct, frozen=True, kw_only=True):
    """The importance of inputs. why: why nothing was measured, "" where something was.

    metric, base: what was measured, and how well the source does it undisturbed. n of given: labelled samples that were used, of those
    that there are. features: the most important first. not_measured: what the time did not suffice for. cut: said in words when it
    ended the measurement. shap: {why, n, others, exact, versions, features: [{name, value, low, high}]}, mean |SHAP| of each column over n
    samples against others; empty where nobody asked.
    """

    why: str = ""
    metric: str = ""
    output: str = ""
    base: float = 0.0
    n: int = 0
    given: int = 0
    runtime: str = ""
    seed: int = 0
    features: list[FeatureRow] = []
    occlusion: list[OcclusionRow] = []
    not_measured: list[str] = []
    cut: str = ""
    seconds: float = 0.0
    shap: dict[str, Any] = {}


def document_of(row: msgspec.Struct) -> dict[str, Any]:
    """Return the row as the report holds it; figures with six digits, which is more than they are worth."""
    document: dict[str, Any] = msgspec.to_builtins(row)
    return {key: shortened(value) for key, value in document.items()}


def shortened(value: Any) -> Any:
    """Return a JSON document whose numbers have six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [shortened(one) for one in value]
    return {key: shortened(one) for key, one in value.items()} if isinstance(value, dict) else value
