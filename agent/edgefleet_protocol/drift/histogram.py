"""What signals looked like in a window: counts and integer sums that add up exactly, and their wire form.

1. Merging is addition, so any two windows of the same `basis` (`reference.basis_of`) merged say the same as one window over both.
2. Sums are integers in parts of the reference's standard deviation: `total` in 64ths of z, `squares` in 64ths of z², `low` and
   `high` in 8ths of z. Each value is rounded and limited once, where it is seen; after that nothing is rounded any more.
3. The wire form is a string of bits: Exp-Golomb codes, whose parameter follows from how many answers there are. Of bins the difference
   from equal shares is coded, for bins are deciles of the reference, and the last one not at all; sums and extremes are coded as what
   they are beyond those of a normal signal that has not moved. So a number takes what its chance is worth, a bin of 90 answers six bits.
4. The same signals have one wire form only, and every number that it holds fits 64 bits: what says anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgefleet_protocol.drift.reference import MAX_BINS, MAX_SIGNALS

Z_PARTS = 64
EXTREME_PARTS = 8
MAX_Z = 1_000.0
"""Farther away counts as this far: a sum must not be one broken value."""
MAX_COUNT = 2**36
"""Values of one signal in a window: so many squares of MAX_Z still fit 64 bits."""
_FORM = 2
_EXTREME_BITS = 2
_MOST_BITS = 68
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
    out = [_coded(len(signals), 4)]
    before, width = 0, 0
    for one in signals:
        n = one.n
        out.append("".join("01"[flag] for flag in (len(one.bins) == width, one.missing > 0, n > 0)))
        if len(one.bins) != width:
            width = len(one.bins)
            out.append(_coded(width, 4))
        if one.missing:
            out.append(_coded(one.missing, 0))
        if n:
            share, place, few, many = _guesses(n, width)
            out += [_coded(_folded(n - before), 0), _coded(one.beyond, 0)]
            out += [_coded(_folded(count - share), few) for count in one.bins[:-1]]
            out += [_coded(_folded(value), many) for value in (one.total, one.squares - n * Z_PARTS)]
            out += [_coded(_folded(value), _EXTREME_BITS) for value in (one.low + place, one.high - place)]
            before = n
    text = "".join(out)
    size = -(-len(text) // 8)
    return bytes((_FORM,)) + (int(text, 2) << 8 * size - len(text)).to_bytes(size, "big")


def unpack(data: bytes) -> list[SignalSums]:
    """Return the signals of a wire form. Raises ValueError when it is none, or counts what nobody can have counted."""
    if not data:
        return []
    if data[0] != _FORM:
        raise ValueError(f"signals in form {data[0]}, known is {_FORM}")
    bits = _Bits(data[1:])
    (of,) = bits.numbers(1, 4)
    if not 0 < of <= MAX_SIGNALS:
        raise ValueError(f"no signals, or more than {MAX_SIGNALS} signals")
    found: list[SignalSums] = []
    before, width = 0, 0
    for _ in range(of):
        found.append(_one(bits, before, width))
        before, width = found[-1].n or before, len(found[-1].bins)
    bits.end()
    return found


def _one(bits: _Bits, before: int, width: int) -> SignalSums:
    is_as_wide, is_missing, is_counted = bits.flags(3)
    if not is_as_wide:
        last, (width,) = width, bits.numbers(1, 4)
        _check(width != last, 1, 1)
    _check(width, 1, MAX_BINS)
    missing = bits.numbers(1, 0)[0] if is_missing else 0
    _check(missing, int(is_missing), MAX_COUNT)
    if not is_counted:
        return SignalSums((0,) * width, missing)
    more, beyond = bits.numbers(2, 0)
    n = before + _unfolded(more)
    _check(n, 1, MAX_COUNT)
    share, place, few, many = _guesses(n, width)
    bins = [_unfolded(value) + share for value in bits.numbers(width - 1, few)]
    bins.append(n - sum(bins))
    total, squares = map(_unfolded, bits.numbers(2, many))
    low, high = map(_unfolded, bits.numbers(2, _EXTREME_BITS))
    squares, low, high = squares + n * Z_PARTS, low - place, high + place
    _check(beyond, 0, n)
    _check(min(bins), 0, n)
    _check(total, -n * _MAX_TOTAL, n * _MAX_TOTAL)
    _check(squares, 0, n * _MAX_SQUARE)
    _check(low, -_MAX_EXTREME, high)
    _check(high, low, _MAX_EXTREME)
    return SignalSums(tuple(bins), missing, beyond, total, squares, low, high)


def _guesses(n: int, width: int) -> tuple[int, int, int, int]:
    """Return what n normal answers would count: answers a bin, the extreme, and how many bits the distance of a bin and of a sum takes."""
    share, bits = n // width, n.bit_length()
    return share, 9 + 3 * bits // 2, share.bit_length() // 2, 6 + bits // 2


def _check(value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError("signals count what cannot be")


class _Bits:
    """A string of bits, read from the front. Every method raises ValueError where there are none left."""

    def __init__(self, data: bytes) -> None:
        self._text = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        self._at = 0

    def flags(self, count: int) -> list[bool]:
        text = self._text[self._at : self._at + count]
        if len(text) < count:
            raise ValueError("signals end in the middle of one")
        self._at += count
        return [bit == "1" for bit in text]

    def numbers(self, count: int, noise: int) -> list[int]:
        """Return so many numbers, each coded with so many bits of noise."""
        text, at, size, least = self._text, self._at, len(self._text), 1 << noise
        found = []
        for _ in range(count):
            first = text.find("1", at)
            end = 2 * first - at + noise + 1
            if first < 0 or end > size:
                raise ValueError("signals end in the middle of a number")
            if end - first > _MOST_BITS:
                raise ValueError("a number of signals is too long")
            found.append(int(text[first:end], 2) - least)
            at = end
        self._at = at
        return found

    def end(self) -> None:
        rest = self._text[self._at :]
        if len(rest) > 7 or "1" in rest:
            raise ValueError("signals are followed by something else")


def _coded(value: int, noise: int) -> str:
    """Return the Exp-Golomb code of a number of which the last so many bits are noise."""
    text = f"{value + (1 << noise):b}"
    return "0" * (len(text) - 1 - noise) + text


def _folded(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unfolded(value: int) -> int:
    return -(value + 1 >> 1) if value & 1 else value >> 1
