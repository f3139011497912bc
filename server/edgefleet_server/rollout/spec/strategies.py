"""Named ways to roll out, each of them stages that anybody could have written: a spec may name one instead of its stages. Pure.

Source: docs/reference/rollout-spec.md; Fowler, "BlueGreenDeployment" and Sato, "CanaryRelease", for what the names mean.
Every device keeps its former version in the other slot anyhow, so here blue-green means: run it on all devices next to the active version,
then switch at a word.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from edgefleet_server.access.model import Role
from edgefleet_server.rollout.spec.model import Approval, Mode, Promote, Size, StageSpec

_MINUTES: Final = timedelta(minutes=10)
_WORD: Final = Approval(Role.OPERATOR, timedelta(days=7))


@dataclass(frozen=True, slots=True)
class Strategy:
    """A named way. about: when to take it, one line."""

    name: str
    about: str
    stages: tuple[StageSpec, ...]


def _stage(name: str, size: Size, soak: timedelta, **shape: Any) -> StageSpec:
    return StageSpec(name, size, soak, Promote.AUTO, **shape)


_ALL: Final = Size(percent=100)
_FEW: Final = Size(percent=5, min=2)
_CANARY: Final = (
    _stage("canary", _FEW, _MINUTES),
    _stage("half", Size(percent=50), _MINUTES),
    _stage("rest", _ALL, timedelta()),
)
_ROLLING: Final = (
    _stage("quarter", Size(percent=25, min=2), _MINUTES),
    _stage("half", Size(percent=50), _MINUTES),
    _stage("three-quarters", Size(percent=75), _MINUTES),
    _stage("rest", _ALL, timedelta()),
)
STRATEGIES: Final = {
    one.name: one
    for one in (
        Strategy("canary", "a few devices first, then half, then all; each step on evidence", _CANARY),
        Strategy("rolling", "one quarter of the devices after another; each step on evidence", _ROLLING),
        Strategy(
            "blue-green",
            "runs alongside the active version on every device, then all switch once a person approves",
            (
                _stage("green", _ALL, timedelta(hours=1), mode=Mode.SHADOW),
                _stage("switch", _ALL, timedelta(), approval=_WORD),
            ),
        ),
        Strategy(
            "shadow",
            "a few devices run it alongside the active version, its answers unused; then as canary",
            (_stage("shadow", _FEW, timedelta(hours=1), mode=Mode.SHADOW), *_CANARY),
        ),
        Strategy(
            "ab",
            "answers half of the requests on some devices for a day; a person decides, then all",
            (
                _stage("ab", Size(percent=20, min=2), timedelta(days=1), mode=Mode.SPLIT, share_pct=50),
                _stage("winner", _ALL, timedelta(), approval=_WORD),
            ),
        ),
    )
}
