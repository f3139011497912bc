"""Figures of a decision in words. Pure."""

from edgefleet_server.rollout.analysis.model import Counts, Facts
from edgefleet_server.rollout.model import LOST, Answer, Confirmation


def percent(ratio: float) -> str:
    """Return a ratio as a percentage, for example "3 %"."""
    return f"{100 * ratio:.4g} %"


def failures_in_words(facts: Facts) -> str:
    """Return for example "3 of 9 devices failed (nonfinite ×2, lost ×1)"."""
    counts = facts.counts
    kinds = sorted(
        ((name, count) for name, count in facts.failures.items() if count > 0), key=lambda kind: (-kind[1], kind[0])
    )
    detail = ", ".join(f"{name} ×{count}" for name, count in kinds)
    failed = max(counts.failed, sum(count for _, count in kinds))
    return f"{failed} of {counts.exposed} devices failed" + (f" ({detail})" if detail else "")


def outside_in_words(counts: Counts) -> str:
    """Return for example " (2 unreachable, 1 incompatible)", "" for none."""
    parts = [
        f"{n} {word}" for n, word in ((counts.unreachable, "unreachable"), (counts.incompatible, "incompatible")) if n
    ]
    return f" ({', '.join(parts)})" if parts else ""


def span_in_words(seconds: float) -> str:
    """Return a time in its largest unit of which there are at least two."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.4g} s"


def failure_named(error_class: str) -> str:
    """Return a class of failures as the subject of a sentence: "the crash failure"."""
    if error_class == LOST:
        return "the loss of devices"
    return f"the {error_class} failure" if error_class else "the failure"


def asked_in_words(one: Confirmation) -> str:
    """Return what the drawn devices of a question show, for example "1 of 3 drawn devices failed, 1 healthy"."""
    return answers_in_words(
        len(one.draws) - one.count(Answer.GONE), one.count(Answer.FAILED), one.count(Answer.HEALTHY)
    )


def answers_in_words(there: int, failed: int, healthy: int) -> str:
    """Return the same of counts. there: drawn devices without those that show nothing."""
    if not there:
        return "no other device could be asked"
    if there == 1:
        word = "failed" if failed else "is healthy" if healthy else "has not answered"
        return f"the drawn device {word}"
    if failed:
        return f"{failed} of {there} drawn devices failed" + (f", {healthy} healthy" if healthy else "")
    if healthy:
        return f"{healthy} of {there} drawn devices {'is' if healthy == 1 else 'are'} healthy"
    return f"none of {there} drawn devices has answered"
