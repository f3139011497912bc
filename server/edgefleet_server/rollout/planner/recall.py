"""A tick's pace: who is offered the release now, tried again, recalled, counted as away, and which leases end. Pure.

Its own module because the planner says in which stage a device is, and this says when its turn comes. Rules:
1. What a device reports is observed first (`observe`); then a failure of the moment is tried again or ends (`auto_retry`).
2. Where an offer may not be carried out at any time (`limits` or `windows`), one that was not taken up goes back to waiting when
   the window closes, or with limits after TAKE_UP. The time that it was out counts against `ack_deadline`, all offers together.
3. A device that is due but not there for `offline.after` is `unreachable`, offered or not; with `count: failed` it is a failure.
   When it comes back it joins: it takes up its document, or where that was recalled waits for its offer like the others.
4. Where there are limits, a device that failed, fell silent or stayed away is told to stop: its document is taken back.
5. Before a rollout ends, who is still away gets its document after all: when it comes back, the limits are over.
6. A lease ends when the device cannot be downloading any more, also in a rollout that has ended.

Source: docs/explanation/rollouts.md, "How fast"; ADR 0036.
"""

from datetime import timedelta
from typing import Final

from edgefleet_protocol.messages import TRANSIENT, AssignmentState
from edgefleet_server.rollout.assignments import stands_failed
from edgefleet_server.rollout.effects import AssignmentTransitioned, LeaseEnded, Offer, RampWindowUpdated, Revert
from edgefleet_server.rollout.model import OFFLINE, WAITING, Assignment, StageRun
from edgefleet_server.rollout.planner import auto_retry
from edgefleet_server.rollout.planner.builder import withdrawn
from edgefleet_server.rollout.planner.observe import DEAF
from edgefleet_server.rollout.planner.stages import ShapedDraft
from edgefleet_server.rollout.spec.model import CountAs, Mode
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS, AssignmentEvent, moved
from edgefleet_server.rollout.throttle import leases
from edgefleet_server.rollout.throttle.admission import AdmissionControl

_S: Final = AssignmentState
_E: Final = AssignmentEvent
_OUT: Final = frozenset({_S.FAILED, _S.LOST, _S.UNREACHABLE})
_MAY_BE_ABSENT: Final = _OUT | {_S.OFFERED}
"""Where nothing is recalled, of all others nobody asks whether they are there."""
_TRANSIENT: Final = frozenset(one.value for one in TRANSIENT)


class Paced(ShapedDraft):
    """A tick in the making that keeps a pace."""

    @property
    def ledger(self) -> AdmissionControl:
        """What is left to offer; made when it is asked for first, after what devices said was heard."""
        if self._ledger is None:
            self._ledger = AdmissionControl(self.snapshot, self.now)
        return self._ledger

    _ledger: AdmissionControl | None = None

    def listen(self) -> None:
        """Hear what devices said, then what follows from it for their turn."""
        super().listen()
        if self.state not in ROLLOUT_WALKS:
            return
        self._give_time_after_absence()
        retries, recalls = self.snapshot.spec.pacing.retries is not None, self.snapshot.spec.pacing.recalls
        for a in list(self.assignments.values()):
            if retries:
                self._follow_up(a)
            now = self.assignments[a.device]
            if recalls or now.state in _MAY_BE_ABSENT:
                self._look_for_absent(now)
        failed = sum(self._is_news_of_failure(effect) for effect in self.effects)
        if failed and self.ledger.minutes:
            self.ledger.count_failures(failed)
            self.effects += [RampWindowUpdated(one) for one in self.ledger.minutes.values()]

    def _is_news_of_failure(self, effect: object) -> bool:
        if not isinstance(effect, AssignmentTransitioned):
            return False
        return stands_failed(effect.assignment) or effect.assignment.state is _S.ELIGIBLE  # waits for its next try

    def _give_time_after_absence(self) -> None:
        """Count the time in which the server was away as none in which a device was due."""
        if self.snapshot.missed <= DEAF:
            return
        for a in list(self.assignments.values()):
            if a.state in WAITING and a.due_at is not None:
                self._note(a.but(due_at=min(self.now, a.due_at + self.snapshot.missed)))

    # ---- after a failure of the moment

    def _follow_up(self, a: Assignment) -> None:
        retries, report = self.snapshot.spec.pacing.retries, self.snapshot.reports.get(a.device)
        if self.mode(a.stage) is not Mode.ACTIVE:
            return  # a candidate that waits or is suspended has not failed: the device tries by itself
        match auto_retry.sequel(a, report, self._terms(a).digest, retries):
            case auto_retry.RetryOutcome.AGAIN:
                assert retries is not None
                assert report is not None
                assert report.error_class is not None
                until = self.now + auto_retry.backoff(retries, a.retries, self.snapshot.salt, a.device)
                again = withdrawn(a, self.now, "").but(retries=a.retries + 1, retry_at=until)
                words = report.reason or report.error_code or "the device gives no reason"
                self.move(again.but(reason=auto_retry.told(again, retries, until, words, report.error_class.value)), a)
                self._stop(a)
            case auto_retry.RetryOutcome.FAIL:
                assert retries is not None
                assert report is not None
                assert report.error_class is not None
                words = report.reason or report.error_code or "the device gives no reason"
                tail = f" (retried {a.retries} times)" if a.retries else ""
                self.move(
                    moved(
                        a,
                        _E.FAIL,
                        self.now,
                        error_class=report.error_class.value,
                        reason=words + tail,
                        exposed_at=a.exposed_at or self.now,
                        ended_at=self.now,
                        deadline=None,
                    ),
                    a,
                )

    def _stop(self, a: Assignment) -> None:
        """Take an offer's document back, so that the device does not go on by itself."""
        if self.asks_for_release(a):
            self.effects.append(Revert(a.device, is_rollback=False, is_beside=self.is_beside(a)))

    # ---- who is away

    def _look_for_absent(self, a: Assignment) -> None:
        pacing, report = self.snapshot.spec.pacing, self.snapshot.reports.get(a.device)
        is_there = report is not None and report.is_online
        counts = OFFLINE if pacing.offline.count is CountAs.FAILED else ""
        is_due = a.state is _S.OFFERED or (a.state is _S.ELIGIBLE and pacing.recalls)
        if is_due and not is_there:
            seen = report.last_seen if report is not None else None
            begins = [moment for moment in (a.due_at or a.offered_at or a.entered_at, seen) if moment]
            if begins and self.now >= max(begins) + pacing.offline.after:
                reason = f"due, and not heard of since {max(begins):%Y-%m-%d %H:%MZ}"
                away = moved(a, _E.MISS, self.now, reason=reason, ended_at=self.now, deadline=None, error_class=counts)
                self.move(away, a)
        elif a.state is _S.UNREACHABLE and a.entered_at == self.now and not a.error_class:  # by its deadline, just now
            all_of_it = self.snapshot.spec.device.ack.total_seconds() if is_there else a.unanswered_s
            self._note(a.but(error_class="" if is_there else counts, unanswered_s=all_of_it))
        now = self.assignments[a.device]
        is_out = now.state in _OUT and now.entered_at == self.now and now.switched_at is None
        if pacing.limits.are_set and is_out and now.gen and not now.back_gen:
            is_lasting = now.state is _S.FAILED and now.error_class not in _TRANSIENT
            if not is_lasting:  # else the device itself will not try again, and its document tells what it failed at
                self._stop(now)

    def recall(self) -> None:
        """Take back offers that nobody took up in time, and let who came back wait for an offer."""
        if not self.snapshot.spec.pacing.recalls:
            return
        failed = {lane.stratum for lane in self.lanes() if lane.has_failed}
        for a in list(self.assignments.values()):
            if a.state is _S.OFFERED and not a.back_gen and self.asks_for_release(a):
                self._recall(a)
            elif a.state is _S.UNREACHABLE and a.stratum not in failed and self._is_back(a):
                reason = "was away and is back: waits for its offer"
                fresh = moved(a, _E.RETURN, self.now, reason=reason, error_class="", ended_at=None, due_at=self.now)
                self.move(fresh, a)

    def _recall(self, a: Assignment) -> None:
        out_for = self.now - (a.offered_at or self.now)
        is_late = self.snapshot.spec.pacing.limits.are_set and out_for >= leases.TAKE_UP
        if self.ledger.is_in_window(a) and not is_late:
            return
        unanswered_s = a.unanswered_s + out_for.total_seconds()
        if unanswered_s >= self.snapshot.spec.device.ack.total_seconds():
            told = "took none of its offers up within ack_deadline, all together"
            self.move(moved(a, _E.MISS, self.now, reason=told, ended_at=self.now, deadline=None), a)
            self._note(self.assignments[a.device].but(unanswered_s=unanswered_s))
            self._stop(a)
            return
        reason = "did not take its offer up in time" if is_late else "its window closed before it took its offer up"
        again = withdrawn(a, self.now, reason).but(
            unanswered_s=unanswered_s,
            retry_at=self.now + leases.NEXT_OFFER if is_late else None,
        )
        self.move(again, a)
        self._stop(a)

    def _is_back(self, a: Assignment) -> bool:
        report = self.snapshot.reports.get(a.device)
        is_there = report is not None and report.is_online and not report.is_revoked
        return is_there and not a.back_gen and not self._is_asked(a) and self.time_to_answer(a) > timedelta()

    def _is_asked(self, a: Assignment) -> bool:
        """Whether the device's document asks for the release in the mode of its stage."""
        if self.mode(a.stage) is not Mode.ACTIVE:
            return self.is_beside(a)
        return self.asks_for_release(a) and not self.is_beside(a)

    def time_to_answer(self, a: Assignment) -> timedelta:
        """Return what is left of `ack_deadline` after offers that were recalled."""
        return self.snapshot.spec.device.ack - timedelta(seconds=a.unanswered_s)

    # ---- offers

    def take_turn(self, a: Assignment, cell: StageRun) -> bool:
        """Return whether a device may be offered the release now, and take what that needs from what is left."""
        if self.ledger.wait(a, cell.stage) is not None:
            return False
        self.effects += self.ledger.take(a, cell.stage)
        return True

    def offer_to_absent(self) -> None:
        """Write the documents of who is away although every lane has ended: they join when they come back."""
        if not self.snapshot.spec.pacing.recalls or not all(lane.has_ended for lane in self.lanes()):
            return
        going_back = {lane.stratum for lane in self.lanes() if self._is_going_back(lane)}
        away = [a for a in self.assignments.values() if a.state is _S.UNREACHABLE and a.stratum not in going_back]
        todo = [a for a in away if not a.back_gen and self._is_untouched(a)]
        self.is_cut_short |= len(todo) > self.batch
        for a in todo[: self.batch]:
            reason = "is away; its document waits for it"
            back = moved(a, _E.RETURN, self.now, reason="the rollout ends, so its limits do", error_class="")
            out = moved(back, _E.OFFER, self.now, attempt=a.attempt + 1, offered_at=self.now, reason=reason)
            self.move(back, a)
            self.move(out, back)
            self.move(moved(out, _E.MISS, self.now, error_class=a.error_class, ended_at=self.now), out)
            self.effects.append(Offer(a.device))

    def _is_untouched(self, a: Assignment) -> bool:
        """Whether the device's document asks for what it asked for before this rollout: nobody else wrote over it."""
        report = self.snapshot.reports.get(a.device)
        before = a.previous.sha256 if a.previous is not None else ""
        is_live = report is not None and not report.is_revoked
        return is_live and report is not None and report.wanted_by_server == before != self._terms(a).digest

    # ---- leases

    def end_leases(self) -> None:
        """End the leases of devices that download no more."""
        taken = {effect.device for effect in self.effects if isinstance(effect, Offer)}
        for lease in self.snapshot.pace.leases:
            a = self.assignments.get(lease.device)
            digest = self._terms(a).digest if a is not None else ""
            if lease.device not in taken and not leases.holds(
                a, self.snapshot.reports.get(lease.device), digest, self.now
            ):
                self.effects.append(LeaseEnded(lease.device))

    def has_leases(self) -> bool:
        """Whether somebody still holds a lease: then the engine looks again, also when the rollout has ended."""
        ended = sum(isinstance(effect, LeaseEnded) for effect in self.effects)
        return len(self.snapshot.pace.leases) > ended
