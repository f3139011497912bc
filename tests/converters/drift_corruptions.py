"""`./dev soak drift-real-data`: real tables and pictures, untouched and corrupted in 28 ways, judged by the shipped detector.

- Tables are scikit-learn's digits as 64 columns and 16 figures of patches of its two photographs; pictures are the digits of examples/
  and crops of the photographs. Breast cancer and diabetes are so small that their references have fewer than 300 samples: no share is
  asked of them, only that nothing untouched alarms.
- Of each shuffle one part makes the reference, by the converter's code, and up to 300 others are what a device sees, counted by the
  device's code. Rows of a shuffle are independent, so the design effect is learned on windows drawn from all rows.
- A corruption is seen when any signal is judged as drift in one window. It hits one column or all, as its name says; the column is one
  with at least ten values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.drift_reference import Answered, build_reference
from edgefleet_converters.sample_data import SampleSet
from edgefleet_protocol.drift.design_effect import Effect, learn, settled
from edgefleet_protocol.drift.detector import (
    WINDOWS,
    SignalWatch,
    Word,
    expected_of,
    judge_signal,
    narrowed,
    watches_of,
)
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Reference
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.signals import counted, signal_plan, signal_values

Array = npt.NDArray[Any]
Rng = np.random.Generator
Corruption = Callable[[Array, Rng], Array]

SEEN_WITHIN: Final = 300
GOAL: Final = 0.95
LARGE: Final = 1_000
"""Samples of a reference that sees more than large shifts."""
_CROPS: Final = 1_800
_SIDE: Final = 40
_PATCHES: Final = 10_300
_DIGITS: Final = Path(__file__).parents[2] / "examples" / "digits" / "data"


@dataclass(frozen=True)
class Population:
    """Real samples of one input."""

    name: str
    rows: Array
    corruptions: Mapping[str, Corruption]


def _on_column(change: Callable[[Array, Rng], Array]) -> Corruption:
    """Return a corruption of one column that varies."""

    def changed(rows: Array, rng: Rng) -> Array:
        out = rows.copy()
        varied = [i for i in range(rows.shape[1]) if len(np.unique(rows[:, i])) >= 10]
        at = int(rng.choice(varied))
        out[:, at] = change(rows[:, at], rng)
        return out

    return changed


def _swapped(rows: Array, rng: Rng) -> Array:
    """Swap two neighbours that vary."""
    varied = [i for i in range(rows.shape[1]) if len(np.unique(rows[:, i])) >= 10]
    at = int(rng.integers(len(varied) - 1))
    out = rows.copy()
    out[:, [varied[at], varied[at + 1]]] = rows[:, [varied[at + 1], varied[at]]]
    return out


def _with_missing(column: Array, rng: Rng) -> Array:
    return np.where(rng.random(len(column)) < 0.1, np.nan, column)


def _spikes(column: Array, rng: Rng) -> Array:
    return np.where(rng.random(len(column)) < 0.05, column.mean() + 10 * column.std(), column)


TABLE: Final[Mapping[str, Corruption]] = {
    "scale of one column x 1.5": _on_column(lambda c, _: c * 1.5 if abs(c.mean()) > c.std() else c * 2),
    "shift of one column by a standard deviation": _on_column(lambda c, _: c + c.std()),
    "shift of all columns by half a standard deviation": lambda x, _: x + 0.5 * x.std(0),
    "inches for centimetres": _on_column(lambda c, _: c / 2.54),
    "a thousand times (decimal comma)": _on_column(lambda c, _: c * 1000),
    "neighbouring columns swapped": _swapped,
    "all columns one place on": lambda x, _: np.roll(x, 1, 1),
    "a tenth of one column missing": _on_column(_with_missing),
    "one column zero": _on_column(lambda c, _: np.zeros_like(c)),
    "stuck sensor": _on_column(lambda c, _: np.full_like(c, c[0])),
    "noise of a standard deviation on one column": _on_column(lambda c, r: c + r.normal(size=len(c)) * c.std()),
    "saturated at the median": _on_column(lambda c, _: np.minimum(c, np.median(c))),
    "sign lost": _on_column(lambda c, _: -c),
    "spikes in one of twenty": _on_column(_spikes),
    "slow ramp to two standard deviations": _on_column(lambda c, _: c + np.linspace(0, 2, len(c)) * c.std()),
}


def _blurred(x: Array, _: Rng) -> Array:
    mixed: Array = (x + np.roll(x, 1, 2) + np.roll(x, 1, 3) + np.roll(x, (1, 1), (2, 3))) / 4
    return mixed


def _occluded(x: Array, _: Rng) -> Array:
    out = x.copy()
    out[:, :, : x.shape[2] // 2, : x.shape[3] // 2] = 0
    return out


def _salted(x: Array, rng: Rng) -> Array:
    return np.where(rng.random(x.shape) < 0.05, float(x.max()) * (rng.random(x.shape) < 0.5), x)


PICTURE: Final[Mapping[str, Corruption]] = {
    "blur": _blurred,
    "dark": lambda x, _: x * 0.6,
    "bright": lambda x, _: np.minimum(x * 1.6, x.max()),
    "noise": lambda x, r: x + r.normal(size=x.shape) * 0.1 * x.max(),
    "low contrast": lambda x, _: x * 0.5 + 0.25 * x.max(),
    "inverted": lambda x, _: x.max() - x,
    "a quarter covered": _occluded,
    "salt and pepper": _salted,
    "stuck picture": lambda x, _: np.repeat(x[:1], len(x), 0),
    "bytes for 0 to 1": lambda x, _: x * 255,
}
COLOUR: Final[Mapping[str, Corruption]] = {
    **PICTURE,
    "channels swapped": lambda x, _: x[:, ::-1],
    "no colour": lambda x, _: np.repeat(x.mean(1, keepdims=True), 3, 1),
    "colour cast": lambda x, _: x * np.array([1.0, 0.8, 0.6]).reshape(1, 3, 1, 1),
}


def _measured(patch: Array) -> Array:
    """Return 16 figures of a patch, as instruments would give them: of each channel four, slopes and what lies between."""
    grey = patch.mean(2)
    slopes = [float(np.abs(np.diff(grey, axis=axis)).mean()) for axis in (0, 1)]
    each = [
        figure for c in range(3) for one in (patch[..., c],) for figure in (one.mean(), one.std(), one.min(), one.max())
    ]
    return np.array([*each, *slopes, np.median(grey), grey[8, 8] - grey.mean()])


def populations(seed: int) -> list[Population]:
    """Return the real data."""
    from sklearn import datasets

    rng = np.random.default_rng(seed)
    digits = np.load(_DIGITS / "reference.npz")
    (pictures,) = (digits[name] for name in digits.files if digits[name].ndim == 4)
    photos = datasets.load_sample_images().images
    crops = []
    patches = []
    for _ in range(_CROPS):
        photo = photos[int(rng.integers(len(photos)))]
        top, left = (int(rng.integers(extent - _SIDE)) for extent in photo.shape[:2])
        crops.append(photo[top : top + _SIDE, left : left + _SIDE].transpose(2, 0, 1) / 255)
    for _ in range(_PATCHES):
        photo = photos[int(rng.integers(len(photos)))]
        top, left = (int(rng.integers(extent - 32)) for extent in photo.shape[:2])
        patches.append(_measured(photo[top : top + 32 : 2, left : left + 32 : 2].astype(np.float64)))
    return [
        Population("breast cancer, 30 columns", datasets.load_breast_cancer().data, TABLE),
        Population("diabetes, 10 columns", datasets.load_diabetes().data, TABLE),
        Population("digits, 64 columns", datasets.load_digits().data, TABLE),
        Population("digits of examples/", pictures.astype(np.float64), PICTURE),
        Population("crops of photographs", np.stack(crops), COLOUR),
        Population("figures of patches, 16 columns", np.stack(patches).astype(np.float64), TABLE),
    ]


@dataclass(frozen=True)
class Judge:
    """A reference of one shuffle, with what was learned."""

    watches: list[SignalWatch]
    effects: list[Effect]
    reference: Reference
    spec: TensorSpec

    def seen_in(self, rows: Array) -> str:
        """Return the first signal that drifts in one window, and by what; "" for none."""
        for watch, effect, sums in zip(self.watches, self.effects, _sums(self.reference, self.spec, rows), strict=True):
            signal, seen = watch.signal, narrowed(watch.signal, sums)
            verdict = judge_signal(
                signal, expected_of(signal, {}), seen, effect, alpha=watch.alpha, floor=watch.floor, least=WINDOWS
            )
            if verdict.verdict == Word.DRIFT:
                return f"{signal.name}: {verdict.cause}"
        return ""


def _sums(reference: Reference, spec: TensorSpec, rows: Array) -> list[SignalSums]:
    plan = signal_plan(reference, [spec], [])
    return counted(signal_values({"x": rows.astype(np.float32)}, {}, plan), plan)


def judge_of(known: Array, everything: Array, live: int, rng: Rng) -> Judge:
    """Return a judge by the reference of `known`, that learned from windows drawn from everything."""
    spec = TensorSpec(name="x", dtype="float32", shape=["N", *known.shape[1:]])
    samples = SampleSet({"x": known.astype(np.float32)})
    reference = build_reference(samples, [spec], Answered({}, [], {}), None, "reference")
    watches = watches_of(reference)
    effects = [Effect() for _ in watches]
    for _ in range(WINDOWS):
        drawn = everything[rng.integers(len(everything), size=live)]
        for at, sums in enumerate(_sums(reference, spec, drawn)):
            signal, seen = watches[at].signal, narrowed(watches[at].signal, sums)
            effects[at] = learn(effects[at], expected_of(signal, {}), seen.bins, missing=seen.missing)
    return Judge(watches, [settled(one) for one in effects], reference, spec)


def main(n: int, seed: int) -> dict[str, Any]:
    """Judge n shuffles of each data set, untouched and in each corruption."""
    rng = np.random.default_rng(seed)
    alarms: list[str] = []
    seen: dict[str, list[bool]] = defaultdict(list)
    sizes: dict[str, dict[str, int]] = {}
    for population in populations(seed):
        rows = population.rows
        live = min(SEEN_WITHIN, len(rows) // 2)
        sizes[population.name] = {"reference": len(rows) - live, "live": live}
        for _ in range(n):
            order = rng.permutation(len(rows))
            judge = judge_of(rows[order[live:]], rows, live, rng)
            fresh = rows[order[:live]]
            found = judge.seen_in(fresh)
            alarms += [f"{population.name}: {found}"] * bool(found)
            for name, corrupt in population.corruptions.items():
                seen[f"{population.name}: {name}"].append(bool(judge.seen_in(corrupt(fresh, rng))))
    shares = {name: round(sum(row) / len(row), 3) for name, row in seen.items()}
    large = [one for name, one in shares.items() if sizes[name.partition(": ")[0]]["reference"] >= LARGE]
    small = [one for name, one in shares.items() if sizes[name.partition(": ")[0]]["reference"] < LARGE]
    share = math.fsum(large) / len(large)
    return {
        "ok": share >= GOAL and not alarms,
        "kinds": len({name.partition(": ")[2] for name in shares}),
        "seen": round(share, 4),
        "seen_by_references_of_fewer_than_300": round(math.fsum(small) / len(small), 4),
        "not_always_seen": {name: one for name, one in shares.items() if one < 1},
        "false_alarms": alarms,
        "shuffles": n * len(sizes),
        "data": sizes,
    }
