"""Questions about data that can hardly be right, asked before anything is made of it (ADR 0095). Pure.

The source is a trained model, and a trained model answers its own kind of data in a way that shows: with several classes, sure but
not sure beyond what a float can hold, and right more often than chance. Where it does not, and where it would with a changed scale, layout
or numbering, that is what the question says. `ask` runs the source on changed samples; it is called only where there is doubt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.accuracy.output_kinds import CLASS_SCORES, INDEPENDENT, MASK, STATE, Plan
from edgefleet_protocol.manifest import TensorSpec

Array = npt.NDArray[Any]
Ask = Callable[[Mapping[str, Array]], Mapping[str, Array]]

PROBED: Final = 96
"""Samples on which the source is asked again."""
_FEWEST: Final = 20
_SHARED: Final = 0.05
_UNIQUE: Final = 0.5
_WIDE: Final = 16
"""Values of a sample from which on equal samples are copies: rows of a few numbers may repeat."""
_GAIN: Final = 0.25
_RIGHT: Final = 0.9
"""A source that is right as often as this needs no explanation."""
_MENDED: Final = 0.6
"""A change of the input explains wrong answers when it mends this part of them."""
_SMOOTHER: Final = 0.6
_SURE: Final = 1e-6
_BYTE: Final = 255.0
_SOUND: Final = 32768.0


@dataclass(frozen=True)
class Given:
    """The judging data. arrays: by input; labels: as `SampleSet`; answers: the source's; shared: calibration samples that judge too,
    of so many calibration samples.
    """

    inputs: Sequence[TensorSpec]
    arrays: Mapping[str, Array]
    labels: Mapping[str, Array]
    answers: Mapping[str, Array]
    plan: Plan
    shared: int = 0
    calibration: int = 0

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    @property
    def states(self) -> set[str]:
        """The inputs that take a state."""
        return {row.feeds for row in self.plan if row.kind == STATE}


def questions(given: Given, ask: Ask) -> list[str]:
    """Return what must be asked, the most telling first; empty for data that looks right."""
    found = [*_copies(given), *_constants(given), *_saturated(given)]
    if found:
        return found
    found = [*_layouts(given), *_wrapped(given)]
    by_labels = list(_labels(given, ask))
    if by_labels or found:
        return by_labels + found
    return list(_bytes(given, ask)) or ([] if _class_labels(given) is not None else list(_scales(given, ask)))


def _copies(given: Given) -> Iterator[str]:
    if given.shared >= 2 and given.shared >= _SHARED * max(1, given.calibration):
        yield (
            f"{given.shared} of {given.calibration} calibration samples are evaluation samples too. Were the files made of the same "
            "data? Then the figures say little of other data"
        )
    width = sum(array[0].size for array in given.arrays.values())
    if given.n < _FEWEST or width < _WIDE:
        return
    rows = {b"\0".join(array[i].tobytes() for array in given.arrays.values()) for i in range(given.n)}
    if len(rows) < _UNIQUE * given.n:
        yield f"only {len(rows)} of {given.n} evaluation samples differ. Was one sample saved many times?"


def _constants(given: Given) -> Iterator[str]:
    if given.n < 4:
        return
    mine = {name: a for name, a in given.arrays.items() if name not in given.states}
    real = {name: a for name, a in mine.items() if a.dtype.kind == "f"} or mine
    still = [name for name, a in real.items() if bool((a == a[:1]).all())]
    if still and len(still) == len(real):
        yield f"the input {still[0]!r} is the same in all {given.n} samples. Was it filled in?"
        return
    for name, array in real.items():
        rows = array.reshape(len(array), -1)
        flat = float(np.mean(np.ptp(rows, axis=1) == 0)) if rows.shape[1] >= _WIDE else 0.0
        if flat > 0.5:
            yield f"{flat:.0%} of the samples of {name!r} hold one value only, such as a black picture. Were they read at all?"


def _saturated(given: Given) -> Iterator[str]:
    for spec in given.inputs:
        array = given.arrays[spec.name]
        if spec.quantization is None or array.dtype.kind not in "iu" or not array.size:
            continue
        limits = np.iinfo(array.dtype)
        high, low = float(np.mean(array == limits.max)), float(np.mean(array == limits.min))
        if high > 0.3 and high + low > 0.5:
            yield (
                f"{high + low:.0%} of the values of {spec.name!r} are beyond what the model's input can hold. Are they on another scale, "
                "such as 0 to 255 for an input that takes 0 to 1?"
            )


def _images(given: Given) -> Iterator[tuple[str, Array, bool]]:
    """Yield pictures as (input, array, whether channels come first)."""
    for name, array in given.arrays.items():
        if array.ndim == 4 and name not in given.states and min(array.shape[1:]) >= 1:
            first, last = array.shape[1], array.shape[3]
            if first in (1, 3, 4) and min(array.shape[2:]) >= 8:
                yield name, array, True
            elif last in (1, 3, 4) and min(array.shape[1:3]) >= 8:
                yield name, array, False


def _layouts(given: Given) -> Iterator[str]:
    for name, array, first in _images(given):
        other = _other_layout(array, first)
        if other is None:
            continue
        mine, theirs = (
            _roughness(a, axes)
            for a, axes in ((array, (2, 3) if first else (1, 2)), (other, (1, 2) if first else (2, 3)))
        )
        if theirs < _SMOOTHER * mine:
            wanted, found = ("[channels, height, width]", "[height, width, channels]")[:: 1 if first else -1]
            yield (
                f"the pictures of {name!r} look like noise in the order {wanted} and smooth in the order {found}. Were they reshaped "
                "where they had to be transposed?"
            )


def _other_layout(array: Array, first: bool) -> Array | None:
    n, (c, h, w) = len(array), array.shape[1:] if first else (array.shape[3], *array.shape[1:3])
    if c == 1:
        return None
    return array.reshape((n, h, w, c) if first else (n, c, h, w))


def _roughness(array: Array, axes: tuple[int, int]) -> float:
    """Return the mean step from a pixel to the next one, over how much pixels vary."""
    seen = array[:PROBED].astype(np.float64)
    return float(np.mean([np.abs(np.diff(seen, axis=axis)).mean() for axis in axes])) / max(float(seen.std()), 1e-12)


def _wrapped(given: Given) -> Iterator[str]:
    for name, array, first in _images(given):
        if not _whole(array) or not (float(array.min()) < -100 and 100 < float(array.max()) <= 127):
            continue
        axes = (2, 3) if first else (1, 2)
        if _roughness(np.mod(array.astype(np.float64), 256), axes) < _SMOOTHER * _roughness(array, axes):
            yield (
                f"the values of {name!r} jump from 127 to -128 between neighbours. Did bytes overflow in int8? "
                "Cast them to float before anything is subtracted"
            )


def _whole(array: Array) -> bool:
    return array.dtype.kind in "iu" or bool((array[:PROBED] == np.round(array[:PROBED])).all())


def _class_labels(given: Given) -> tuple[str, Array] | None:
    """Return the output that plain integer labels are about, and the labels."""
    row = next((row for row in given.plan if row.metric == "top1"), None)
    labels = given.labels.get("", given.labels.get(row.name)) if row is not None else None
    if row is None or labels is None or labels.ndim != 1 or len(labels) < _FEWEST or len(np.unique(labels)) < 2:
        return None
    return row.name, labels


def _best(output: Array) -> Array:
    flat = output.reshape(len(output), -1)
    if flat.shape[1] == 1:
        return np.asarray(flat[:, 0] > 0.5 if flat.dtype.kind == "f" else flat[:, 0]).astype(np.int64)
    return np.asarray(flat.argmax(axis=1))


def _labels(given: Given, ask: Ask) -> Iterator[str]:
    known = _class_labels(given)
    if known is None:
        yield from _targets(given)
        return
    name, y = known
    best = _best(given.answers[name])
    share, recall = float(np.mean(best == y)), _recall(best, y)
    chance = 1 / max(2, len(np.unique(y)))
    if recall > _RIGHT:
        return
    said = f"the source itself is right on {share:.1%} of the evaluation samples by their labels"
    for step in (1, -1) if len(np.unique(y)) > 2 else ():
        if float(np.mean(best == y + step)) > share + _GAIN:
            yield f"{said}, and on {np.mean(best == y + step):.1%} with each label {step:+d}. Are classes counted from {int(step < 0)}?"
            return
    seen = {label: int(np.bincount(best[y == label]).argmax()) for label in np.unique(y)}
    mapped = float(np.mean(best == np.array([seen[label] for label in y])))
    if mapped > share + _GAIN and len(set(seen.values())) > 0.7 * len(seen):
        yield f"{said}, and its answers go with them in another numbering in {mapped:.1%}. Are the classes in another order?"
        return
    gain = max(_changed(given, ask, lambda out: float(np.mean(_best(out[name]) == y[:PROBED]))), default=(0.0, ""))
    wrong = 1 - float(np.mean(best[:PROBED] == y[:PROBED]))
    if gain[0] >= 1 - wrong + max(0.1, _MENDED * wrong):
        yield f"{said}, and on {gain[0]:.1%} {gain[1]}. Is the input prepared as in training?"
        return
    if recall <= chance + 0.1 * (1 - chance):
        yield f"{said}; by chance it would be {chance:.1%}. Do the labels belong to these samples and this model?"


def _recall(best: Array, y: Array) -> float:
    """Return the mean over classes of the share that is right: a rare class counts as much as a frequent one."""
    return float(np.mean([np.mean(best[y == label] == label) for label in np.unique(y)]))


def _targets(given: Given) -> Iterator[str]:
    """Labels that are numbers: the source should be nearer to them than their own mean is."""
    for key, y in given.labels.items():
        name = key or next(iter(given.answers))
        output = given.answers.get(name)
        if output is None or y.dtype.kind != "f" or y.size != output.size or len(y) < _FEWEST:
            continue
        wanted, got = y.reshape(len(y), -1).astype(np.float64), output.reshape(len(y), -1).astype(np.float64)
        if float(np.abs(got - wanted).mean()) >= float(np.abs(wanted - wanted.mean(axis=0)).mean()):
            yield (
                f"the source's answers are no nearer to the labels of {name!r} than the mean of the labels is. Are they in other units, "
                "or in another order?"
            )


def _changed(given: Given, ask: Ask, figure: Callable[[Mapping[str, Array]], float]) -> Iterator[tuple[float, str]]:
    """Yield (figure, how the input was changed) for each change that the source can answer."""
    for name, array in given.arrays.items():
        if array.dtype.kind != "f" or name in given.states or array[0].size < 2:
            continue
        for words, changed in _changes(array[:PROBED], [a for key, a, _ in _images(given) if key == name]):
            others = {key: a[:PROBED] for key, a in given.arrays.items()}
            yield figure(ask(others | {name: np.ascontiguousarray(changed.astype(array.dtype))})), words


def _changes(x: Array, images: list[Array]) -> Iterator[tuple[str, Array]]:
    yield from _rescaled(x)
    low, high = float(x.min()), float(x.max())
    yield "with light and dark exchanged", high + low - x
    if images and x.shape[2] == x.shape[3]:
        yield "with height and width exchanged", np.swapaxes(x, 2, 3)
    if images and x.shape[1] == x.shape[2]:
        yield "with height and width exchanged", np.swapaxes(x, 1, 2)
    if images and x.shape[1] in (3, 4):
        yield "with the channels reversed", x[:, ::-1]
        yield "with rows read as [height, width, channels]", _turned(x)
    if images and x.shape[3] in (3, 4):
        yield "with the channels reversed", x[..., ::-1]


def _turned(x: Array) -> Array:
    n, c, h, w = x.shape
    return np.moveaxis(x.reshape(n, h, w, c), 3, 1)


def _rescaled(x: Array) -> Iterator[tuple[str, Array]]:
    """Yield the scales in use: 0 to 1, -1 to 1, standardised, bytes, sound."""
    low, high = float(x.min()), float(x.max())
    if high == low:
        return
    if high > 2:
        yield "divided by 255", x / _BYTE
        yield "divided by its largest value", x / max(abs(low), high)
    if high > 2 and low >= 0:
        yield "divided by 127.5 and less 1", x / 127.5 - 1
    if max(-low, high) > 256:
        yield "divided by 32768", x / _SOUND
    if max(-low, high) <= 2:
        yield "multiplied by 255", x * _BYTE
        yield "multiplied by 16", x * 16
    if low >= 0 and high <= 1:
        yield "stretched to -1 to 1", 2 * x - 1
    if low < 0 and high <= 1.01 and low >= -1.01:
        yield "brought to 0 to 1", (x + 1) / 2
    yield "standardised", (x - x.mean()) / max(float(x.std()), 1e-12)
    if x.ndim == 2:
        yield "standardised by column", (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)


def _bytes(given: Given, ask: Ask) -> Iterator[str]:
    """Bytes in a float input, where a 255th of them gives the same classes and scores that are not at their limits: many a net names
    the same class on every scale, and an int8 form that was calibrated on bytes answers a device's 0 to 1 with one class.
    """
    row = next((row for row in given.plan if row.kind == CLASS_SCORES), None)
    if row is None or given.n < _FEWEST:
        return
    mine = given.answers[row.name][:PROBED]
    for name, array in given.arrays.items():
        if (
            array.dtype.kind != "f"
            or array[0].size < _WIDE
            or not (64 < float(array.max()) <= _BYTE and float(array.min()) >= 0)
        ):
            continue
        if not _whole(array):
            continue
        others = {key: a[:PROBED] for key, a in given.arrays.items()}
        theirs = ask(others | {name: (array[:PROBED] / _BYTE).astype(array.dtype)})[row.name]
        same = float(np.mean(mine.argmax(axis=1) == theirs.argmax(axis=1)))
        if same >= _RIGHT and _sure(mine) > 0.8 and _sure(theirs) < 0.5 and _trust(theirs, row.kind) > 0.6:
            yield (
                f"{name!r} holds bytes from 0 to 255, and divided by 255 they give the same classes with scores that are not at their "
                "limits. Is the input on the scale of the training?"
            )


def _sure(output: Array) -> float:
    """Return the share of samples whose best score is at its limit."""
    real = output.astype(np.float64)
    scores = real if float(real.min()) >= 0 and float(real.max()) <= 1.01 else _softmax(real)
    return float(np.mean(scores.max(axis=1) > 1 - _SURE))


def _scales(given: Given, ask: Ask) -> Iterator[str]:
    """Without labels: a scale on which the source's answers look like those of a trained model, where they do not as given."""
    row = next((row for row in given.plan if row.kind in (CLASS_SCORES, MASK, INDEPENDENT)), None)
    if row is None or given.n < _FEWEST:
        return
    mine = _trust(given.answers[row.name][:PROBED], row.kind)
    bytes_ = any(
        a.dtype.kind == "f" and a[0].size >= _WIDE and float(a.max()) > 64 and float(a.min()) >= 0 and _whole(a)
        for a in given.arrays.values()
    )  # fmt: skip
    if not bytes_ and not _is_odd(given.answers[row.name], row.kind):
        return
    best = max(_changed(given, ask, lambda out: _trust(out[row.name], row.kind)), default=(0.0, ""))
    if best[0] > mine + _GAIN:
        yield (
            f"the source's answers to {row.name!r} are not those of a trained model: {_said(given.answers[row.name], row.kind)}. With the "
            f"input {best[1]} they are. Is the input on the scale of the training?"
        )


def _is_odd(output: Array, kind: str) -> bool:
    """Return whether nearly all answers are one class, or all of them are sure beyond what training leaves."""
    if kind != CLASS_SCORES:
        return _trust(output, kind) < 0.2
    scores = output if float(output.min()) >= 0 and float(output.max()) <= 1.01 else _softmax(output.astype(np.float64))
    most = float(np.bincount(output.argmax(axis=1)).max()) / len(output)
    return most >= (0.9 if output.shape[1] > 2 else 1.0) or float(np.mean(scores.max(axis=1) > 1 - _SURE)) >= 0.9


def _trust(output: Array, kind: str) -> float:
    """Return how much answers look like those of a trained model on its data, from 0 to 1: varied, and not sure beyond measure."""
    real = output.astype(np.float64)
    if kind != CLASS_SCORES:
        marked = (real.reshape(len(real), -1) > 0.5).mean(axis=1)
        varied = float(min(1.0, 8 * marked.std())) if marked.size else 0.0
        return varied * (1 - float(np.mean((real < _SURE) | (real > 1 - _SURE))) ** 2)
    scores = real if float(real.min()) >= 0 and float(real.max()) <= 1.01 else _softmax(real)
    counts = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1]) / len(scores)
    entropy = -float(np.sum(counts[counts > 0] * np.log(counts[counts > 0])))
    varied = min(1.0, entropy / np.log(min(scores.shape[1], len(scores))) * 1.25)
    best = scores.max(axis=1)
    sure = float(np.mean(best > 1 - _SURE))
    dull = float(np.mean(best < 1.2 / scores.shape[1]))
    return float(varied * (1 - max(0.0, sure - 0.5)) * (1 - dull) * min(1.0, 0.4 + float(best.mean())))


def _softmax(rows: Array) -> Array:
    e = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _said(output: Array, kind: str) -> str:
    if kind != CLASS_SCORES:
        return "they hardly vary, or are at their limits"
    counts = np.bincount(output.argmax(axis=1))
    sure = float(output.max(axis=1).mean())
    return f"{counts.max() / len(output):.0%} are class {int(counts.argmax())}, with a mean best score of {sure:.4g}"
