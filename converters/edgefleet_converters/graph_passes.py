"""A pass changes a graph under a promise that the frame checks.

1. `requires(model)` says why the pass cannot run on this model, or nothing. A pass that cannot run is skipped with that note.
2. `apply(model)` returns the new model and whether it changed; it never changes its argument.
3. `ensures(before, after)` says how the promise was broken, or nothing. A broken promise drops the pass's result: the model
   before it goes on, and the report names the pass.
A pass that *must* succeed (`required = True`) turns rule 1 and 3 into an error instead.
Written after the pass frame of onnx-ir (`passes/_pass_infra.py`), which has the same three parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edgefleet_converters.errors import TransformError

M = TypeVar("M")


class Pass(Protocol[M]):
    """One transformation of a model of type M."""

    @property
    def name(self) -> str:
        """Stable word for reports."""

    @property
    def required(self) -> bool:
        """Whether the pipeline cannot go on without it."""

    def requires(self, model: M) -> str:
        """Return why the pass cannot run on `model`; empty when it can."""

    def apply(self, model: M) -> tuple[M, bool]:
        """Return the new model and whether it differs. Raises anything on models it cannot handle."""

    def ensures(self, before: M, after: M) -> str:
        """Return how the promise was broken; empty when kept."""


@dataclass(frozen=True)
class PassNote:
    """What became of one pass: `applied`, `unchanged`, `skipped` or `dropped`, and why."""

    name: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class PassResult(Generic[M]):
    """The model after all passes, and a note for each."""

    model: M
    notes: tuple[PassNote, ...]


def run_passes(model: M, passes: Sequence[Pass[M]]) -> PassResult[M]:
    """Run `passes` in order. Raises TransformError when a required pass cannot run or breaks its promise."""
    notes: list[PassNote] = []
    for step in passes:
        model, note = _run_one(model, step)
        if step.required and note.outcome in ("skipped", "dropped"):
            done = ", ".join(n.name for n in notes if n.outcome == "applied") or "none"
            raise TransformError(
                f"pass {step.name} is needed and failed: {note.reason} (passes applied before it: {done})",
                next_step="export the model again with a current exporter",
            )
        notes.append(note)
    return PassResult(model, tuple(notes))


def _run_one(model: M, step: Pass[M]) -> tuple[M, PassNote]:
    obstacle = step.requires(model)
    if obstacle:
        return model, PassNote(step.name, "skipped", obstacle)
    try:
        after, changed = step.apply(model)
    except Exception as error:  # noqa: BLE001 - onnx and its converters raise many unrelated types
        return model, PassNote(step.name, "dropped", " ".join(str(error).split())[:300] or type(error).__name__)
    if not changed:
        return model, PassNote(step.name, "unchanged")
    broken = step.ensures(model, after)
    if broken:
        return model, PassNote(step.name, "dropped", broken)
    return after, PassNote(step.name, "applied")
