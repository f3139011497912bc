"""Evaluates the rules every so often: loads facts, lets alerts go on, and hands over the messages that are due.

Any number of processes may run it: one claims each evaluation, and writes only while the claim is its own. Alerts, what was sent of
groups and the messages themselves are written in one transaction, so a message is neither lost nor made twice.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts import notices, store
from edgefleet_server.alerting.active_alerts.model import ActiveAlert, RuleSetting
from edgefleet_server.alerting.active_alerts.notices import Notice
from edgefleet_server.alerting.active_alerts.rule_settings import RuleBook
from edgefleet_server.alerting.active_alerts.silences import SilenceBook
from edgefleet_server.alerting.active_alerts.state_machine import all_stepped
from edgefleet_server.alerting.active_alerts.suppression import suppressed
from edgefleet_server.alerting.alert_facts.facts_loader import FactsLoader, with_windows
from edgefleet_server.alerting.alert_rules.fleet_facts import Facts, Finding, ModelFact
from edgefleet_server.alerting.alert_rules.model_rules import FRESH
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.errors import BadSelectorError

PATIENCE: Final = 20
LONGEST: Final = timedelta(minutes=1)
"""An evaluation is followed by PATIENCE times as long without one, at most LONGEST: that of 100,000 devices takes long."""
ENDED_KEPT: Final = timedelta(days=90)
SILENCES_KEPT: Final = timedelta(days=30)
RECORDS_KEPT: Final = timedelta(days=30)
_log = logging.getLogger(__name__)


class Announcer(Protocol):
    """Writes messages, in the caller's transaction."""

    def announce(self, notice: Notice) -> None:
        """Write a notice for all that want it."""
        ...

    def repeats(self) -> Mapping[str, timedelta]:
        """Return after how long each contact point gets again what nobody acknowledged; those that never do are left out."""
        ...

    def remind(self, notice: Notice, contacts: Sequence[str]) -> None:
        """Write a notice again for some contact points."""
        ...


class AlertEngine:
    """Evaluates rules. Thread-safe; calls block."""

    def __init__(  # noqa: PLR0913  # what it reads, what it writes, and two times
        self,
        db: Database,
        facts: FactsLoader,
        rules: RuleBook,
        silences: SilenceBook,
        announcer: Announcer,
        clock: Clock,
        *,
        every: timedelta,
        wait: timedelta,
    ) -> None:
        """Wire the parts. clock: shared by all processes of the database."""
        self._db = db
        self._facts = facts
        self._rules = rules
        self._silences = silences
        self._announcer = announcer
        self._clock = clock
        self._every = every
        self._wait = wait
        self._known: dict[tuple[str, str], ModelFact] = {}
        """The records of models after the evaluation `_fence`: those of the next one, if it is ours as well."""
        self._fence = -1
        self._pause = every

    def tick(self, _now: datetime | None = None) -> bool:
        """Evaluate the rules if that is due and no other process does; return whether it was done."""
        now = self._clock.now()
        with self._db.read() as session:
            last = store.evaluation(session)
            if last is not None and abs(now - last.at) < self._pause:
                return False
        with self._db.session() as session:
            claimed = store.claim(session, now, self._every)
        if claimed is None:
            return False
        began_s = self._clock.monotonic_s()
        is_done = self._evaluate(now, *claimed)
        if is_done:
            took = timedelta(seconds=max(0.0, self._clock.monotonic_s() - began_s))
            self._pause = max(self._every, min(PATIENCE * took, LONGEST))
        return is_done

    def _evaluate(self, now: datetime, fence: int, position: int | None) -> bool:
        """Evaluate the rules under a claim; return whether the claim was still ours in the end."""
        windows, position_after = self._facts.windows(position, now)
        known = self._records(now, fence, {one.device for one in windows})
        changed = with_windows(known, windows)
        known |= changed
        settings = self._rules.settings()
        thresholds = {name: one.threshold for name, one in settings.items() if one.is_enabled}
        facts = self._facts.load(now, known, thresholds)
        findings = self._findings(facts, settings)
        quiet = self._silences.in_force(now)
        with self._db.session() as session:
            if not store.hold_fence(session, fence, position_after):
                return False
            store.write_records(session, changed.values())
            before = store.open_alerts(session)
            after, forgotten = all_stepped(before, findings, RULES, settings, now)
            after = suppressed(after, *quiet)
            store.forget_alerts(session, [one.id for one in forgotten])
            self._tell(session, store.write_alerts(session, before, after), now)
        self._known, self._fence = known, fence
        self._facts.refresh(now)
        return True

    def prune(self, _now: datetime | None = None) -> int:
        """Forget what ended long ago; return how many alerts. For the engine tick."""
        now = self._clock.now()
        with self._db.session() as session:
            return store.prune(session, now - ENDED_KEPT, now - SILENCES_KEPT, now - RECORDS_KEPT)

    def _records(self, now: datetime, fence: int, devices: Collection[str]) -> dict[tuple[str, str], ModelFact]:
        """Return what is known of models, from memory where the evaluation before was ours."""
        fresh = now - FRESH
        kept = (
            {}
            if fence != self._fence + 1
            else {key: one for key, one in self._known.items() if one.looks[-1].at >= fresh}
        )
        missing = set(devices) - {device for device, _model in kept}
        if kept and not missing:
            return kept
        with self._db.read() as session:
            if kept:
                return kept | store.records_of(session, missing)
            return store.records(session, fresh) | store.records_of(session, missing)

    def _findings(self, facts: Facts, settings: Mapping[str, RuleSetting]) -> dict[str, list[Finding]]:
        """Return the findings of each rule; a rule that fails is left out, so that its alerts stay as they are."""
        found: dict[str, list[Finding]] = {}
        for name, setting in settings.items():
            try:
                every = list(RULES[name].check(facts, setting.threshold)) if setting.is_enabled else []
            except (ArithmeticError, ValueError, LookupError):
                _log.exception("a rule of alerts failed", extra={"rule": name})
                continue
            found[name] = self._inside(every, setting)
        return found

    def _inside(self, found: Sequence[Finding], setting: RuleSetting) -> list[Finding]:
        if not setting.selector or not found:
            return list(found)
        try:
            devices = self._rules.selected(setting.selector)
        except BadSelectorError as error:  # a group that was removed: an alert too many is better than one too few
            _log.warning("the selector of a rule is wrong", extra={"rule": setting.rule, "error": error.message})
            return list(found)
        return [one for one in found if not one.devices or not devices.isdisjoint(one.devices)]

    def _tell(self, session: Session, alerts: Sequence[ActiveAlert], now: datetime) -> None:
        known = store.groups(session)
        here = {one.id for one in alerts}
        gone = store.alerts_by_id(session, {one for group in known.values() for one in group.sent} - here)
        every = {one.id: one for one in (*alerts, *gone)}
        inside: dict[tuple[str, str], list[ActiveAlert]] = defaultdict(list)
        for one in alerts:
            inside[one.rule, one.group].append(one)
        changed, repeats = [], self._announcer.repeats()
        for group in notices.groups_of(alerts, known):
            there = {one.id for one in inside[group.key]} | (group.sent & every.keys())
            mine = [every[one] for one in sorted(there)]
            after, notice = notices.planned(replace(group, sent=group.sent & there), mine, now, self._wait)
            if notice is not None:
                self._announcer.announce(notice)
            else:
                after, again, contacts = notices.reminded(after, mine, now, repeats)
                if again is not None:
                    self._announcer.remind(again, contacts)
            if after != known.get(group.key):
                changed.append(after)
        store.write_groups(session, changed)
