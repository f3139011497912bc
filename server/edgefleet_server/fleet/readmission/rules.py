"""Whether a device whose certificate ended gets another one. Pure.

1. A person's word goes before the rule: refused stays refused until a person lets it in; a yes holds for APPROVAL_LIFE.
2. A suspect device always waits for a person.
3. By rule, a device comes back within so many days after the end, and no more than so many devices within 24 hours: a key that was
   copied from an old disk should not come back for ever, nor a thousand of them at once.
Source: ADR 0124.
"""

from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.fleet.readmission.model import (
    ReadmissionCase,
    ReadmissionState,
    ReadmissionTerms,
    ReadmissionVerdict,
)

APPROVAL_LIFE: Final = timedelta(days=7)
"""How long a person's yes waits for the device to ask again. It asks every six hours at least."""
DAY: Final = timedelta(days=1)


def judge(terms: ReadmissionTerms, case: ReadmissionCase, now: datetime) -> ReadmissionVerdict:
    """Return READMITTED, PENDING or REFUSED, and why."""
    if case.state is ReadmissionState.REFUSED:
        return ReadmissionVerdict(ReadmissionState.REFUSED, case.decided_by, case.reason)
    is_fresh = case.decided_at is not None and now - case.decided_at <= APPROVAL_LIFE
    if case.state is ReadmissionState.APPROVED and is_fresh:
        return ReadmissionVerdict(ReadmissionState.READMITTED, case.decided_by)
    if case.is_suspect:
        return _waits("it is suspect")
    away = now - case.ended_at
    if away > terms.within:
        days, most = away // DAY, terms.within // DAY
        return _waits(f"its certificate ended {days} days ago; the rule lets in up to {most} days")
    if case.by_rule >= terms.per_day:
        return _waits(f"{case.by_rule} devices came back by rule within 24 hours, which is the limit")
    return ReadmissionVerdict(ReadmissionState.READMITTED)


def _waits(why: str) -> ReadmissionVerdict:
    return ReadmissionVerdict(ReadmissionState.PENDING, why=why)
