"""How much an input that moved matters to the answers, in words: the size of the move next to the importance. Pure.

Rules:
1. An input matters little where its importance is not surely above zero, or is below LITTLE of that of the most important one.
2. What moved and matters comes first, the most important first; then what nobody measured, answers too; then what matters little.
3. Where a release has no importance, nothing is said and nothing is ranked.
"""

from enum import StrEnum
from typing import Final

from edgefleet_terms.feature_importance import Importance, worth_text

LITTLE: Final = 0.1
MUCH: Final = 0.5
"""Of the importance of the most important input."""
A_LOT: Final = 0.25
PLAIN: Final = 0.1
"""Effect (PSI) from which on an input moved a lot, and moved at all."""


class Matters(StrEnum):
    """How much an input matters. Public, never renamed. UNKNOWN: not measured; NOTHING_SAID: no input, or no importance of the release."""

    MOST = "most"
    MUCH = "much"
    SOME = "some"
    LITTLE = "little"
    UNKNOWN = "unknown"
    NOTHING_SAID = ""


_WORDS: Final = {
    Matters.MOST: "matters most",
    Matters.MUCH: "matters much",
    Matters.SOME: "matters",
    Matters.LITTLE: "matters little",
    Matters.UNKNOWN: "not measured how much it matters",
}


def matters_of(name: str, found: Importance) -> Matters:
    """Return how much the input of a drift signal's name matters, `input.column` or an input's own name."""
    if not found.features:
        return Matters.NOTHING_SAID
    one = found.by_name.get(name)
    if one is None:
        return Matters.UNKNOWN
    first = found.features[0]
    share = one.value / first.value if first.value > 0 else 0.0
    if not one.is_seen or share < LITTLE:
        return Matters.LITTLE
    if one.name == first.name:
        return Matters.MOST
    return Matters.MUCH if share >= MUCH else Matters.SOME


def weighed_text(name: str, psi: float, found: Importance) -> str:
    """Return move and importance in a sentence without a full stop: `Moved a lot, matters little: no effect beyond chance`.

    psi: how far it moved. "" where the release has no importance.
    """
    matters = matters_of(name, found)
    if matters is Matters.NOTHING_SAID:
        return ""
    said = f"{_moved(psi)}, {_WORDS[matters]}"
    one = found.by_name.get(name)
    return said if one is None else f"{said}: {worth_text(one, found)}"


def rank_of(name: str, found: Importance) -> tuple[int, float]:
    """Return where a signal that moved stands among others, smaller = earlier; equal for all where nothing was measured."""
    match matters_of(name, found):
        case Matters.MOST | Matters.MUCH | Matters.SOME:
            return 0, -found.by_name[name].value
        case Matters.LITTLE:
            return 2, 0.0
        case _:
            return 1, 0.0


def _moved(psi: float) -> str:
    return "Moved a lot" if psi >= A_LOT else "Moved" if psi >= PLAIN else "Moved a little"
