"""The first steps of an empty fleet, each ticked by a fact. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what to do, why, where on the pages, and the command that does the same."""

    title: str
    says: str
    words: str
    href: str
    command: str
    is_done: bool


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What is there already. running: devices that run a model."""

    devices: int
    models: int
    running: int


def first_steps(facts: StepFacts) -> Sequence[Step]:
    """Return the steps in order; none when all are done."""
    steps = (
        Step(
            "Enrol a device",
            "A claim token lets a device in; its agent runs `edge-agent enroll TOKEN`.",
            "Create a claim token",
            "/enrolment",
            "edgectl device enroll",
            facts.devices > 0,
        ),
        Step(
            "Publish a model",
            "It is converted for the profiles of your devices, checked and signed.",
            "Publish a model",
            "/publish",
            "edgectl publish MODEL --name NAME --version 1.0.0",
            facts.models > 0,
        ),
        Step(
            "Roll it out",
            "Stage by stage; it goes back by itself when it is worse than what ran before.",
            "Start a rollout",
            "/rollouts/new",
            "edgectl rollout create NAME@1.0.0 --to ''",
            facts.running > 0,
        ),
    )
    return () if all(one.is_done for one in steps) else steps
