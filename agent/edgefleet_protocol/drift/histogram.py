"""What signals looked like in a window: counts and integer sums that add up exactly, and their wire form.

1. Merging is addition, so any two windows of the same `basis` (`reference.basis_of`) merged say the same as one window over both.
2. Sums are integers in parts of the reference's standard deviation: `total` in 64ths of z, `squares` in 64ths of z², `low` and
   `high` in 8ths of z. Each value is rounded and limited once, where it is seen; after that nothing is rounded any more.
3. The wire form is a string of variable-length integers. Counts travel as differences from equal shares and the last one not at all:
   bins are deciles of the reference, so that is one byte a bin for up to some thousands of answers. How many there are travels as the
   difference from the signal before.
4. The same signals have one wire form only, and every number that it holds fits 64 bits: what says anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edgefleet_protocol.drift.reference import MAX_BINS, MAX_SIGNALS

Z_PARTS = 64
EXTREME_PARTS = 8
MAX_Z = 1_000.0
"""Farther away counts as this far: a sum must not be one broken value."""
MAX_COUNT = 2**36
"""Values of one signal in a window: so many squares of MAX_Z still fit 64 bits."""
_FORM = 1
_MAX_SQUARE = int(MAX_Z * MAX_Z) * Z_PARTS
_MAX_TOTAL = int(MAX_Z) * Z_PARTS
_MAX_EXTREME = int(MAX_Z) * EXTREME_PARTS


@dataclass(frozen=True, slots=True)
class SignalSums:
    """One signal over some time. bins: answers by bin; missing: answers without a usable value; beyond: of those in bins, outside of
    what the reference ever saw. total, squares, low, high: of the values in bins, in parts of z (rule 2); 0 without any.
    """

    bins: tuple[int, ...]
    missing: int = 0
    beyond: int = 0
    total: int = 0
    squares: int = 0
    low: int = 0
    high: int = 0

    @property
    def n(self) -> int:
        """Return how many values were counted."""
        return sum(self.bins)

    @property
    def mean_z(self) -> float:
        """Return the mean in standard deviations of the reference; 0 without values."""
        return self.total / Z_PARTS / self.n if self.n else 0.0

    @property
    def std_z(self) -> float:
        """Return the standard deviation in those of the reference; 0 without values."""
        if not self.n:
            return 0.0
        return math.sqrt(max(0.0, self.squares / Z_PARTS / self.n - self.mean_z**2))


def merged(parts: Iterable[SignalSums]) -> SignalSums:
    """Return the sum of windows of one signal; at least one. Raises ValueError when they do not have the same bins."""
    found = list(parts)
    first = found[0]
    if any(len(one.bins) != len(first.bins) for one in found):
        raise ValueError("histograms of different bins cannot be added")
    seen = [one for one in found if one.n]
    return SignalSums(
        bins=tuple(map(sum, zip(*(one.bins for one in found), strict=True))),
        missing=sum(one.missing for one in found),
        beyond=sum(one.beyond for one in found),
        total=sum(one.total for one in found),
        squares=sum(one.squares for one in found),
        low=min((one.low for one in seen), default=0),
        high=max((one.high for one in seen), default=0),
    )


def merged_windows(windows: Sequence[Sequence[SignalSums]]) -> list[SignalSums]:
    """Return the sums of all signals over windows of the same basis. Raises ValueError when they are not."""
    if any(len(one) != len(windows[0]) for one in windows):
        raise ValueError("windows of different signals cannot be added")
    return [merged(parts) for parts in zip(*windows, strict=True)]


def pack(signals: Sequence[SignalSums]) -> bytes:
    """Return the wire form of a window's signals; b"" for none."""
    if not signals:
        return b""
    out, before = bytearray((_FORM,)), 0
    for one in signals:
        n, width = one.n, len(one.bins)
        flags = (one.missing > 0) | (one.beyond > 0) << 1 | (n > 0) << 2
        _put(out, width << 3 | flags)
        if one.missing:
            _put(out, one.missing)
        if n == 0:
            continue
        if one.beyond:
            _put(out, one.beyond)
        _put_signed(out, n - before)
        before = n
        for count in one.bins[:-1]:
            _put_signed(out, count - n // width)
        _put_signed(out, one.total)
        _put_signed(out, one.squares - n * Z_PARTS)
        _put_signed(out, one.low)
        _put_signed(out, one.high)
    return bytes(out)


def unpack(data: bytes) -> list[SignalSums]:
    """Return the signals of a wire form. Raises ValueError when it is none, or counts what nobody can have counted."""
    if not data:
        return []
    if data[0] != _FORM:
        raise ValueError(f"signals in form {data[0]}, known is {_FORM}")
    numbers, before = _numbers(data[1:]), 0
    found: list[SignalSums] = []
    for head in numbers:
        if len(found) == MAX_SIGNALS:
            raise ValueError(f"more than {MAX_SIGNALS} signals")
        try:
            found.append(_one(head, numbers, before))
        except StopIteration:
            raise ValueError("signals end in the middle of one") from None
        before = found[-1].n or before
    if not found:
        raise ValueError("a wire form without signals")
    return found


def _one(head: int, numbers: Iterator[int], before: int) -> SignalSums:
    width, flags = head >> 3, head & 7
    if not 1 <= width <= MAX_BINS:
        raise ValueError(f"a signal of {width} bins")
    missing = next(numbers) if flags & 1 else 0
    if not flags & 4:
        _check(missing, flags & 1, MAX_COUNT)
        _check(flags & 2, 0, 0)
        return SignalSums((0,) * width, missing)
    beyond = next(numbers) if flags & 2 else 0
    n = before + _signed(next(numbers))
    bins = [_signed(next(numbers)) + n // width for _ in range(width - 1)]
    bins.append(n - sum(bins))
    total, squares, low, high = [_signed(next(numbers)) for _ in range(4)]  # a generator would swallow the end
    squares += n * Z_PARTS
    _check(n, 1, MAX_COUNT)
    _check(missing, flags & 1, MAX_COUNT)
    _check(beyond, flags >> 1 & 1, n)
    _check(min(bins), 0, n)
    _check(total, -n * _MAX_TOTAL, n * _MAX_TOTAL)
    _check(squares, 0, n * _MAX_SQUARE)
    _check(low, -_MAX_EXTREME, high)
    _check(high, low, _MAX_EXTREME)
    return SignalSums(tuple(bins), missing, beyond, total, squares, low, high)


def _check(value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError("signals count what cannot be")


def _numbers(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        if byte & 128:
            shift += 7
            if shift > 63:
                raise ValueError("a number of signals is too long")
            continue
        if shift and not byte:
            raise ValueError("a number of signals is longer than it need be")
        yield value
        value = shift = 0
    if shift:
        raise ValueError("signals end in the middle of a number")


def _put(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _put_signed(out: bytearray, value: int) -> None:
    _put(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _signed(value: int) -> int:
    return -(value + 1 >> 1) if value & 1 else value >> 1
