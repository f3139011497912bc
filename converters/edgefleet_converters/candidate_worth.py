"""What a candidate is worth: its bytes and its expected time, as shares of float32's. Pure (ADR 0088).

Time is counted in multiply-adds and in what is known of each kind of kernel, never with a clock, so that the choice is the
same on every run and machine. Before a candidate is made its form says how small and how fast it can be at best; once it is
made, its own bytes and its own counted work do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_converters.recipe import CandidateSpec

INT8_LIMIT: Final = 0.9
"""A model of more than this part of the float32 bytes is not called int8."""
_TIME_WEIGHT: Final = 0.2
"""A model that takes no time at all is worth as much as one of a fifth of the bytes less."""
_SLOW_WEIGHT: Final = 1.0
"""Time beyond float32's counts five times: a small model that is slow serves nobody."""
_SEARCH_COST: Final = 0.15
"""A search over layers takes longer than every other candidate together: cheap ones as good as it come first."""
_LESS: Final = 0.95
"""What is worth only a twentieth more than the best found is neither tried nor taken: of two alike the earlier one stays. Among
16-bit forms that is int16 with scales, which is a fiftieth larger than float16 and nearer to the weights."""
_SEARCHED_ABOVE: Final = 0.4
"""Where plain int8 passes with no more of the bytes, a search that leaves layers out is not run."""
_SHARE_OF_BYTES: Final[Mapping[str, float]] = {
    "static": 0.26, "mixed": 0.28, "dynamic": 0.26, "float16": 0.5, "none": 1.0, "weights": 0.26,
}  # fmt: skip
_BYTES_BY_BITS: Final[Mapping[int, float]] = {4: 0.14, 8: 0.26, 16: 0.5}
_DYNAMIC_KINDS: Final[Mapping[str, str]] = {
    "Conv": "conv", "ConvTranspose": "conv", "MatMul": "matmul", "Gemm": "matmul", "LSTM": "recurrent",
}  # fmt: skip
_INT8_TIME: Final[Mapping[str, float]] = {"ort": 0.4, "litert": 0.27, "tflite": 0.4}
"""Of an int8 product whose activations are int8 too, against float32. Measured at 0.2 to 0.7 on x86 with VNNI (ADR 0088)."""
_DYNAMIC_TIME: Final[Mapping[str, Mapping[str, float]]] = {
    "ort": {"conv": 6.0, "depthwise": 6.0, "matmul": 0.4, "recurrent": 0.5},
    "litert": {"conv": 0.3, "matmul": 0.3},
    "tflite": {"conv": 4.0, "matmul": 4.0},
}  # fmt: skip
"""onnxruntime's ConvInteger takes 4 to 20 times float32's time (docs/explanation/converting.md); tflite-runtime multiplies such
weights without its fast kernels (ADR 0097). What is not listed for a TFLite runtime stays in float32 there."""
_WIDE_TIME: Final[Mapping[str, float]] = {"ort": 1.6, "litert": 20.0, "tflite": 20.0}
"""16-bit activations: LiteRT has no fast kernels for them."""
_FLOAT16_TIME: Final = 1.3
"""Of arithmetic in float16 where the processor has none: values are cast there and back at each operator."""
_FOUR_BIT_TIME: Final = 1.0
"""0.3 to 0.5 with one row, 1.0 to 1.1 with 64 (ADR 0097)."""
_BLOCK_TIME: Final[Mapping[str, float]] = {"none": 0.5, "narrowing": 0.6, "all": 0.75}
"""Of products by how many of them are in 8-bit blocks (ADR 0091)."""
_RUN: Final[Mapping[str, int]] = {"ort": 200_000, "litert": 50_000, "tflite": 50_000}
"""What a run costs before its first operator, in multiply-adds of float32 …"""
_EACH: Final[Mapping[str, int]] = {"ort": 35_000, "litert": 3_000, "tflite": 3_000}
"""… what a product in 8 or 4 bits costs besides its own …"""
_INTEGERS: Final[Mapping[str, float]] = {"round": 40, "lookup": 300, "softmax": 300, "product": 10}
"""… and what else integers cost (`cost.work`), in multiply-adds of float32: LiteRT has no fast kernels for softmax, look-ups and
products of two activations in int8 (ADR 0097)."""
_COUNTED: Final = frozenset({"static", "dynamic"})
"""Methods that change the arithmetic; a processor without float16 makes float32 of it again."""
_KINDS: Final = ("conv", "depthwise", "matmul", "recurrent")


@dataclass(frozen=True)
class Worth:
    """Bytes and expected time of a candidate, each as a share of float32's."""

    bytes: float
    time: float

    @property
    def cost(self) -> float:
        """One number, smaller is better."""
        return self.bytes + _TIME_WEIGHT * min(1.0, self.time) + _SLOW_WEIGHT * max(0.0, self.time - 1.0)


@dataclass(frozen=True)
class Scale:
    """What shares are taken of: the bytes of the float32 model, and its counted work (`cost.work`), empty where there is none.

    has_float16: whether the processor multiplies float16.
    """

    bytes: int
    work: Mapping[str, Any]
    runtime: str
    has_float16: bool = False

    @property
    def kernels(self) -> str:
        """Whose kernels are counted: of what compiles further for a chip of its own nothing is known, and onnxruntime's stand in."""
        return self.runtime if self.runtime in _RUN else "tflite" if self.runtime == "tflm" else "ort"

    def promise(self, spec: CandidateSpec) -> Worth:
        """Return what a candidate is worth at best, before it is made."""
        small = _BYTES_BY_BITS[spec.weight_bits] if spec.method == "weights" and spec.weight_bits else None
        if spec.weight_bits == 4:  # only products have 4 bits, the rest has 8
            small = _BYTES_BY_BITS[8] - self._share_of_products() * (_BYTES_BY_BITS[8] - _BYTES_BY_BITS[4])
        return Worth(_SHARE_OF_BYTES[spec.method] if small is None else small, self._promised_time(spec))

    def _share_of_products(self) -> float:
        counts = _macs(self.work)
        products = sum(count for key, count in counts.items() if key.startswith("matmul"))
        return products / sum(counts.values()) if any(counts.values()) else 1.0

    def made(self, spec: CandidateSpec, size: int, work: Mapping[str, Any]) -> Worth:
        """Return what a candidate of `size` bytes is worth. work: its own, empty where it cannot be counted."""
        share = size / self.bytes if self.bytes else 1.0
        if not work or not self.work or (spec.method not in _COUNTED and spec.weight_bits != 4):
            return Worth(share, self.promise(spec).time)
        # Never more than float32's: what lies between a product in integers and its scale is in one kernel.
        moved = min(work.get("activation_bytes", 0), self.work.get("activation_bytes", 0))
        moved += sum(_INTEGERS[kind] * count for kind, count in work.get("integers", {}).items())
        return Worth(share, self._share(_macs(work), _products(work), spec, moved))

    def _promised_time(self, spec: CandidateSpec) -> float:
        if spec.method == "float16" and self.kernels == "ort" and not self.has_float16:
            return _FLOAT16_TIME
        if not self.work or spec.method in ("none", "float16"):
            return 1.0
        if spec.method == "weights" and spec.weight_bits != 4:
            return 1.0
        kinds = self._in_integers(spec)
        macs, products = (
            {f"{key.partition('.')[0]}.{'int8' if key.partition('.')[0] in kinds else 'float'}": count for key, count in counts.items()}
            for counts in (_macs(self.work), _products(self.work))
        )  # fmt: skip
        moved = self.work.get("activation_bytes", 0)
        time = self._share(macs, products, spec, moved / 4 if spec.method in ("static", "mixed") else moved)
        # A search may also find a form whose weights alone are small.
        return min(1.0, time) if spec.method == "mixed" else time

    def _in_integers(self, spec: CandidateSpec) -> set[str]:
        """Return the kinds of products that a candidate multiplies in integers."""
        if spec.weight_bits == 4:
            return {"matmul"}
        kinds = {_DYNAMIC_KINDS[name] for name in spec.op_types if name in _DYNAMIC_KINDS} or set(_KINDS)
        if spec.method == "dynamic":
            return kinds & set(_DYNAMIC_TIME[self.kernels])
        return set(_KINDS) - ({"recurrent"} if self.kernels == "ort" and "LSTM" not in spec.op_types else set())

    def _share(
        self, macs: Mapping[str, float], products: Mapping[str, float], spec: CandidateSpec, moved: float
    ) -> float:
        """Return the expected time of some work. moved: bytes of activations, of which one counts as one multiply-add."""
        run = _RUN[self.kernels]
        whole: float = run + sum(_macs(self.work).values()) + self.work.get("activation_bytes", 0)
        rounding = _EACH[self.kernels] * sum(count for key, count in products.items() if key.endswith(".int8"))
        spent: float = run + rounding + moved + sum(count * self._per_mac(key, spec) for key, count in macs.items())
        return spent / whole

    def _per_mac(self, key: str, spec: CandidateSpec) -> float:
        kind, _, number = key.partition(".")
        if number != "int8":
            return 1.0
        if spec.act_dtype in ("int16", "uint16") and spec.method == "static":
            return _WIDE_TIME[self.kernels]
        if kind == "matmul" and spec.blocks != "none":
            return _BLOCK_TIME[spec.blocks]
        if spec.weight_bits == 4:
            return _FOUR_BIT_TIME
        if spec.method == "dynamic" or (kind == "recurrent" and self.kernels == "ort"):
            return _DYNAMIC_TIME[self.kernels].get(kind, 1.0)
        return _INT8_TIME[self.kernels]


@dataclass(frozen=True)
class Best:
    """The best candidate so far: its spec and what it is worth."""

    spec: CandidateSpec
    worth: Worth

    def is_better(self, worth: Worth) -> bool:
        """Say whether another candidate is worth clearly more."""
        return worth.cost < _LESS * self.worth.cost


def in_order(specs: Sequence[CandidateSpec], scale: Scale) -> list[CandidateSpec]:
    """Return the candidates, the most promising first; equal ones by tier, then as the recipe lists them."""

    def rank(spec: CandidateSpec) -> tuple[float, int]:
        search = _SEARCH_COST if spec.method == "mixed" else 0.0
        return round(scale.promise(spec).cost + search, 3), spec.tier

    return sorted(specs, key=rank)


def is_beaten(spec: CandidateSpec, scale: Scale, best: Best | None) -> bool:
    """Say whether a candidate that is not made yet cannot beat the best so far: at best it is worth no more, or it is the same
    form with more left in float, or a search for int8 where plain int8 is small.
    """
    if best is None:
        return False
    theirs = best.spec
    if _form(spec) == _form(theirs):
        return True
    if spec.method == "mixed" and theirs.method == "static" and best.worth.bytes <= _SEARCHED_ABOVE:
        return True
    return not best.is_better(scale.promise(spec))


def _form(spec: CandidateSpec) -> tuple[Any, ...]:
    ranged = spec.op_types if spec.method == "dynamic" else "LSTM" in spec.op_types
    bits = 0 if spec.method == "static" else spec.weight_bits  # of what has no static form
    return spec.method, bits, spec.act_dtype, ranged


def not_small(precision: str, size: int, source_bytes: int) -> str:
    """Return why a model of so many bytes is not offered under its precision's name; empty when it is."""
    if precision == "fp32":
        return ""
    if "int" in precision or precision == "dynamic":
        if size > INT8_LIMIT * source_bytes:
            return (
                f"the {precision} model has {size} bytes, {size / source_bytes:.2f} of the {source_bytes} of the source: "
                f"more than {INT8_LIMIT} is not called {precision}"
            )
    elif size > source_bytes:
        return f"the {precision} model has {size} bytes, more than the {source_bytes} of the source"
    return ""


def _macs(work: Mapping[str, Any]) -> Mapping[str, float]:
    found: Mapping[str, float] = work.get("macs", {})
    return found


def _products(work: Mapping[str, Any]) -> Mapping[str, float]:
    found: Mapping[str, float] = work.get("products", {})
    return found
