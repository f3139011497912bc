"""`--strategy` of `deploy` and `publish`: the names it takes, and the rollout that each stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefleet_cli.core.errors import UsageError

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.reply import Document


ALL = "all"

STRATEGIES = ("canary", "rolling", "blue-green", "shadow", "ab")
"""The named strategies of the server: each is a rollout in stages."""


def parse_strategy(strategy: str) -> str:
    """Return the strategy when there is one of that name. Raises UsageError."""
    if strategy in {ALL, *STRATEGIES}:
        return strategy
    raise UsageError(
        f"there is no strategy {strategy!r}",
        why=f"{ALL} sets a release at once; {', '.join(STRATEGIES)} are rollouts in stages",
        next_step="`edgectl rollout strategy` shows them; stages of your own: `edgectl rollout create --stages`, or a spec with -f",
    )


def strategy_document(ref: str, selector: str, strategy: str) -> Document:
    """Return the document of a rollout by a named strategy; canary is what the server does without a word."""
    from edgefleet_cli.rollout.spec import RolloutFlags, from_flags

    return from_flags(RolloutFlags(ref, selector, strategy=None if strategy == STRATEGIES[0] else strategy))
