"""What a release policy may require, as its file writes it: `owner`, `hold_out>=300`. Pure.

Server and command line read a policy by the same words, so that a file can be checked where no server is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PLAIN: Final = ("owner", "licence", "card", "importance", "sealed")
"""Rules without a number."""
NUMBERED: Final = ("hold_out", "signers")
"""Rules with a least number: `hold_out>=300`."""
MAX_RULES: Final = 20
MAX_MODELS: Final = 200
_NUMBERED: Final = re.compile(r"([a-z_]+)>=([1-9][0-9]{0,8})")
_MODEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,61}\*?|[a-z0-9][a-z0-9._-]{0,62}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class PolicyMistake:
    """What is wrong with a policy. place: the field that it is about, such as `require[1]`, "name" of its name."""

    place: str
    what: str


def shown() -> list[str]:
    """Return all rules as a file writes them."""
    return [*PLAIN, *(f"{name}>=N" for name in NUMBERED)]


def parsed(rule: str) -> tuple[str, int] | None:
    """Return a rule's name and its number, 0 for a plain one; None for what is no rule."""
    if rule in PLAIN:
        return rule, 0
    found = _NUMBERED.fullmatch(rule)
    return (found[1], int(found[2])) if found and found[1] in NUMBERED else None


def mistakes_in(name: str, models: Sequence[str], require: Sequence[str]) -> list[PolicyMistake]:
    """Return what is wrong with a policy, nothing when all of it is known."""
    wrong: list[PolicyMistake] = []
    if not _NAME.fullmatch(name):
        wrong.append(PolicyMistake("name", f"{name[:80]!r} is no name: small letters, digits, dots and dashes"))
    seen: set[str] = set()
    for at, rule in enumerate(require):
        known = parsed(rule)
        if known is None:
            wrong.append(PolicyMistake(f"require[{at}]", f"{rule[:80]!r} is no rule; those are {', '.join(shown())}"))
        elif known[0] in seen:
            wrong.append(PolicyMistake(f"require[{at}]", f"the rule {known[0]} stands in it twice"))
        seen |= {known[0]} if known else set()
    if not require:
        wrong.append(PolicyMistake("require", "it requires nothing"))
    wrong += [
        PolicyMistake(f"models[{at}]", f"{one[:80]!r} is no name of a model, nor the beginning of one with *")
        for at, one in enumerate(models)
        if not _MODEL.fullmatch(one)
    ]
    for place, given, most in (("require", require, MAX_RULES), ("models", models, MAX_MODELS)):
        if len(given) > most:
            wrong.append(PolicyMistake(place, f"it has {len(given)} entries; at most {most} may be in it"))
    return wrong


def is_about(models: Sequence[str], model: str) -> bool:
    """Tell whether a policy's models, none for every one, name a model."""
    return not models or any(model.startswith(one[:-1]) if one.endswith("*") else model == one for one in models)
