"""Which layers to take out of a quantised model so that it holds again: the order and the search. Pure.

One layer at a time is quantised and the harm is seen (`onnx.sensitivity` does the runs). Layers are then taken out from the
worst on, and the smallest number that holds is searched by doubling and halving: for n layers about 2·log2(n) models are
judged, not n. The order is that of NNCF's accuracy control (rank, then revert the worst); the search differs.

A model of more than `PROBES` layers is ranked in blocks of neighbours: each block is quantised alone, and the most harmful
ones are halved until the probes are used up. A layer of a block that was never parted counts for its part of the block's harm,
and the block leaves int8 as a whole.

Nothing depends on a clock: `PROBES` bounds the models that rank, `RANKED_RUNS` their runs, `JUDGED` the models that are judged,
each whatever the number of layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import isfinite
from typing import Any, Final

import msgspec
import numpy.typing as npt

from edgefleet_converters.accuracy.output_kinds import METRIC_OF, OutputPlan, Plan
from edgefleet_converters.check.distance import allowed_loss, distance, magnified
from edgefleet_converters.check.metrics import NAMED, is_lost, judge, judged_in
from edgefleet_converters.errors import TransformError
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.report import LayerRow

MARGIN: Final = 0.7
"""The search allows this part of the loss that the gate allows: the gate's samples are others. See `distance.allowed_loss`."""
JUDGED: Final = 16
"""At most so many models are judged in one search."""
PROBES: Final = 64
"""At most so many models, in each of which some layers alone are quantised, rank the layers."""
RANKED_RUNS: Final = 256
"""At most so many runs of the model rank its layers."""
MIN_STATIC_SHARE: Final = 0.25
"""With fewer layers left, crossing between int8 and float costs more time than int8 saves."""
MIN_RANKED_SAMPLES: Final = 4
MAX_RANKED_SAMPLES: Final = 16
SEARCH_SAMPLES: Final = 64
"""A search judges its models on at most so many calibration samples."""

_Answers = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Harm:
    """What quantising only this layer does. drop: of the metric; distance: as `check.distance`, both on a few samples.

    together: so many layers were quantised at once to see it, and drop and distance are this layer's equal part of what was seen.
    """

    name: str
    drop: float
    distance: float
    together: int = 1


@dataclass(frozen=True)
class Block:
    """Neighbouring layers, and what quantising all of them and nothing else does."""

    names: tuple[str, ...]
    drop: float
    distance: float

    @property
    def size(self) -> float:
        """What the metric says of all together, and what it cannot see yet; one layer among them may do as much."""
        return max(0.0, self.drop) + self.distance

    def layers(self) -> list[Harm]:
        """Return the layers, each with its equal part of the harm."""
        n = len(self.names)
        return [Harm(name, self.drop / n, self.distance / n, n) for name in self.names]


class Judge:
    """Holds the answers of a model against those of its source, which need no labels. Answers: by output, first axis = samples."""

    def __init__(self, metric: Any, source: _Answers, *, n: int, max_drop: float) -> None:
        """metric: None, a name, or the rows of a plan; a user's own, and one that needs labels, is replaced by agreement. n: how
        many samples there are. max_drop: how much of the metric the gate will let be lost.
        """
        self._choice = _without_labels(metric)
        self._source, self._n = source, n
        self._allowed = {
            name: allowed_loss(own, {name: source[name]} if name else source, max_drop=max_drop, margin=MARGIN) + 1e-9
            for name, own in self._parts()
        }

    def harm(self, names: tuple[str, ...], got: _Answers | None, count: int) -> Block:
        """Return what these layers do to the first `count` samples. got: None of a model that does not run, as harmful as can be."""
        if got is None:
            return Block(names, 1.0, 1e9)
        wanted = self._first(count)
        apart = sum(distance(own, got, {name: wanted[name]} if name else wanted) for name, own in self._parts())
        drop = judge(self._choice, got, wanted, {}).drop if isfinite(apart) else 1.0
        return Block(names, float(drop), min(apart, 1e9))

    def holds(self, got: _Answers, count: int) -> bool | None:
        """Say whether a model holds with its error `magnified`; None while the first `count` samples do not show it."""
        wanted = self._first(count)
        larger = {}
        for name, own in self._parts():
            larger.update(magnified(own, got, {name: wanted[name]} if name else wanted))
        score = judge(self._choice, dict(got) | larger, wanted, {})
        parts = [(one.drop, self._allowed[name]) for name, one in zip(self._allowed, score.outputs, strict=False)]
        if not isinstance(self._choice, tuple):
            parts = [(score.drop, self._allowed[""])]
        if is_lost(score, wanted, n=self._n, max_drop=max(self._allowed.values())):
            return False
        return all(drop <= allowed for drop, allowed in parts) if count == self._n else None

    def _parts(self) -> list[tuple[str, str]]:
        """Return (output, metric) of what is judged by itself; ("", metric) of one metric for the whole model."""
        if not isinstance(self._choice, tuple):
            return [("", self._choice)]
        rows = zip(self._source, self._choice, strict=True)
        return [(name, row.metric) for name, row in rows if judged_in((row,))]

    def _first(self, count: int) -> _Answers:
        return {name: array[:count] for name, array in self._source.items()}


def _without_labels(metric: Any) -> str | Plan:
    """Return how a search judges: there are no labels, and no code of a user is run."""
    if isinstance(metric, (list, tuple)):
        plan = msgspec.convert(metric, Plan)
        return tuple(msgspec.structs.replace(row, metric=_unlabelled(row)) for row in plan)
    return metric if metric in NAMED and metric != "top1" else "agreement"


def _unlabelled(row: OutputPlan) -> str:
    return METRIC_OF.get(row.kind, "agreement") if row.metric == "top1" else row.metric


def blocks_of(names: Sequence[str], probes: int = PROBES) -> list[tuple[str, ...]]:
    """Return what is measured first: every layer alone, or half as many runs of neighbours as there are probes.

    names: in the order in which the model computes them. Lengths differ by at most one.
    """
    n = len(names)
    count = n if n <= probes else max(1, probes // 2)
    return [tuple(names[i * n // count : (i + 1) * n // count]) for i in range(count)]


def ranked(
    names: Sequence[str], measure: Callable[[Sequence[tuple[str, ...]]], Sequence[Block]], probes: int = PROBES
) -> list[Block]:
    """Return all layers in blocks, the worst layer's block first; blocks of equal layers in the model's order.

    measure: returns a `Block` for each group of names; it is asked for at most `probes` groups in all, two at a time after the
    first ones.
    """
    blocks = list(measure(blocks_of(names, probes))) if names else []
    left = probes - len(blocks)
    while left >= 2:
        place = max((i for i, b in enumerate(blocks) if len(b.names) > 1), key=lambda i: blocks[i].size, default=None)
        if place is None or blocks[place].size <= 0:
            break
        whole = blocks[place].names
        blocks[place : place + 1] = measure([whole[: len(whole) // 2], whole[len(whole) // 2 :]])
        left -= 2
    return sorted(blocks, key=lambda block: -block.size / len(block.names))


def cuts_of(blocks: Sequence[Block], most: int | None = None) -> list[int]:
    """Return how many layers may be taken out: none, the first block, the first two … all, or as many as `most`."""
    ends = [0, *accumulate(len(block.names) for block in blocks)]
    return ends if most is None else [*(end for end in ends if end < most), most]


def samples_to_rank(layers: int, available: int) -> int:
    """Return how many samples each probe is run on: fewer for a model of many layers."""
    wanted = max(MIN_RANKED_SAMPLES, min(MAX_RANKED_SAMPLES, RANKED_RUNS // max(1, min(layers, PROBES))))
    return min(wanted, available)


def fewest_out(blocks: Sequence[Block], holds: Callable[[int], bool], most: int | None = None) -> int | None:
    """Return the smallest number of layers, whole blocks from the worst on, without which a model holds; as `fewest` else.

    most: not more than these, which are known to hold.
    """
    cuts = cuts_of(blocks, most)
    last = len(cuts) - 1
    found = fewest(last, lambda i: (most is not None and i == last) or (i > 0 and holds(cuts[i])))
    return None if found is None else cuts[found]


def fewest_within(blocks: Sequence[Block], holds: Callable[[int], bool], most: int) -> int | None:
    """Return as `fewest_out`, at most `most` layers; None when more would have to leave.

    The most careful choice is judged first: where even that does not hold, as on many recognisers, nothing else need be tried.
    """
    return fewest_out(blocks, holds, most) if most >= 0 and holds(most) else None


def fewest_worth(blocks: Sequence[Block], holds: Callable[[int], bool], most: int, max_bytes: int) -> int | None:
    """Return as `fewest_out`; None when no choice holds.

    most: how many layers, whole blocks or not, may leave before the model has more than `max_bytes`. Raises TransformError when
    more would have to.
    """
    if most == sum(len(block.names) for block in blocks):
        return fewest_out(blocks, holds)
    found = fewest_within(blocks, holds, most)
    if found is None:
        raise TransformError(
            f"so many layers must stay in 16 bits or float that the model would have more than {max_bytes} bytes",
            next_step="use --precision fp16, which is as small",
        )
    return found


def fewest(n: int, holds: Callable[[int], bool], *, judged: int = JUDGED) -> int | None:
    """Return the smallest k in 0 … n for which `holds(k)`, as far as `judged` calls can tell; None when none held.

    `holds` should stay true once it is true; where it does not, the result still holds but may not be the smallest.
    """
    low, high, step, left = 0, None, 0, judged
    while left > 0:
        left -= 1
        if holds(step):
            high = step
            break
        if step == n:
            return None
        low, step = step + 1, min(n, max(1, step * 2))
        if left == 1:
            step = n
    if high is None:
        return None
    while low < high and left > 0:
        middle = (low + high) // 2
        left -= 1
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


@dataclass(frozen=True)
class Found:
    """What a search found. weights: tensors from the worst on, of which the first `half` stay in 16 bits.

    nodes: from the worst on, of which the first `out` are not quantised statically. op_types: what else is static, with the
    head in float; empty = weighted nodes alone. regions: for each of `nodes` the names that leave int8 with it.
    """

    weights: tuple[Harm, ...]
    half: int
    nodes: tuple[Harm, ...]
    out: int
    op_types: tuple[str, ...] = ()
    regions: tuple[tuple[str, ...], ...] = ()

    def left_out(self) -> list[str]:
        """Return the names of all nodes that are not quantised statically."""
        regions = self.regions or tuple((harm.name,) for harm in self.nodes)
        return sorted({name for region in regions[: self.out] for name in region})

    def further(self) -> "Found | None":
        """Return the next more careful choice, twice as many layers taken out; None when there is none."""
        half = min(len(self.weights), 2 * self.half)
        if self.out < len(self.nodes):
            return replace(self, out=min(len(self.nodes), max(1, 2 * self.out)), half=half)
        return replace(self, half=half) if half > self.half else None


def resolved(spec: CandidateSpec, found: Found) -> CandidateSpec:
    """Return the spec that a bundle carries: static with some nodes left out, or weights alone when too few are left."""
    half = sorted(harm.name for harm in found.weights[: found.half])
    if found.out > most_out(len(found.nodes)):
        return msgspec.structs.replace(
            spec, precision="int8-weights", method="weights", op_types=[], exclude=[], weights_half=half
        )
    wide = {"op_types": list(found.op_types), "head_float": True} if found.op_types else {}
    return msgspec.structs.replace(spec, method="static", exclude=found.left_out(), weights_half=half, **wide)


def most_out(layers: int) -> int:
    """Return how many of so many layers may be left out before int8 is not worth it; -1 when there are none."""
    return int((1 - MIN_STATIC_SHARE) * layers) if layers else -1


def most_half(elements: Sequence[int], spare_bytes: int) -> int:
    """Return how many weights, the worst first, may have 16 bits instead of 8 before `spare_bytes` are used up; -1 = none fits.

    elements: of each weight, from the worst on; each takes one byte more.
    """
    return sum(total <= spare_bytes for total in accumulate(elements, initial=0)) - 1


def nothing_holds() -> TransformError:
    """Return the error of a search whose most careful weights lose too much."""
    return TransformError(
        "the model loses more than is allowed even with 16-bit weights alone",
        next_step="use --precision auto or fp32, or allow more loss with --max-drop",
    )


def rows_of(found: Found) -> list[LayerRow]:
    """Return the rows of a report: what each layer did, and which the candidate of this size leaves out."""
    kinds = (("weights", found.weights, found.half), ("node", found.nodes, found.out))
    return [
        LayerRow(kind=kind, name=harm.name, drop=harm.drop, distance=harm.distance, kept=index < kept, together=harm.together)
        for kind, harms, kept in kinds for index, harm in enumerate(harms)
    ]  # fmt: skip
