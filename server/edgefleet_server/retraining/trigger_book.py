"""Triggers: made, changed, shown, removed, and started by hand.

A trigger acts in the name of the person who made or changed it last. So they need for it all that its retrainings will do: publisher of
the model, and operator over what its rollout touches; that is asked again when the rollout is made.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.access.grants.scoped_caller import out_of_scope
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.retraining import store
from edgefleet_server.retraining.errors import (
    BadTriggerError,
    LaunchRefusedError,
    TooManyTriggersError,
    TriggerBusyError,
    TriggerExistsError,
    TriggerHeldError,
)
from edgefleet_server.retraining.model import (
    DataWanted,
    Launcher,
    LauncherKind,
    LauncherView,
    LaunchOrder,
    RunCause,
    TriggerOn,
    TriggerView,
)
from edgefleet_server.retraining.run_maker import RunMaker, terms_of
from edgefleet_server.retraining.tables import RetrainingRun, RetrainingTrigger
from edgefleet_server.retraining.trigger_rules import may_start, used
from edgefleet_server.rollout.preparation.membership import touched_by
from edgefleet_server.rollout.spec.maintenance_windows import cron_flaw, next_start, zone
from edgefleet_server.rollout.spec.parser import parse_spec

MAX_TRIGGERS: Final = 200
_MAX_MAKERS: Final = 100


class Models(Protocol):
    """What is needed of the registry."""

    def model(self, name: str) -> Any:
        """Return a model. Raises ModelUnknownError."""
        ...


class TriggerBook:
    """Keeps triggers. Thread-safe; calls block; writes join the caller's transaction."""

    def __init__(
        self, db: Database, models: Models, maker: RunMaker, sealer: Sealer, launchers: Mapping[LauncherKind, Launcher]
    ) -> None:
        """Wire the parts. launchers: of each kind that is called."""
        self._db = db
        self._models = models
        self._maker = maker
        self._clock = maker.clock
        self._sealer = sealer
        self._launchers = launchers
        self._seen: Callable[[str], RunCause | None] = lambda _model: None

    def look_at(self, seen: Callable[[str], RunCause | None]) -> None:
        """Ask `seen` for the drift of a model that there is when a retraining is started by hand: it is a part of its cause."""
        self._seen = seen

    # ---- making

    def create(self, name: str, model: str, terms: Mapping[str, Any], secret: str, caller: Principal) -> TriggerView:
        """Make a trigger.

        Raises BadTriggerError, BadSpecError, TriggerExistsError, TooManyTriggersError, ModelUnknownError, ForbiddenError.
        """
        named = parse_model_name(model)
        self._check(name, named, terms, secret, caller)
        self._models.model(named)
        now = self._clock.now()
        with self._db.session() as session:
            if store.find_trigger(session, name) is not None:
                raise TriggerExistsError(f"there is a trigger {name!r} already", next_step="choose another name")
            if store.count_triggers(session) >= MAX_TRIGGERS:
                raise TooManyTriggersError(
                    f"there are {MAX_TRIGGERS} triggers, more are not kept",
                    next_step="remove one: `edgectl trigger delete NAME`",
                )
            enabled = bool(terms["enabled"])
            row = RetrainingTrigger(
                name=name, model=named, terms=_stored(terms), enabled=enabled, maker=caller.person,
                makers=[caller.person] if caller.person else [], held="", after=now, created_at=now, created_by=caller.name[:80],
                changed_at=now, changed_by=caller.name[:80],
            )  # fmt: skip
            session.add(row)
            session.flush()
            store.set_secret(session, self._sealer, name, secret, now)
            return self._view(session, row, bool(secret), now)

    def change(self, name: str, changes: Mapping[str, Any], secret: str | None, caller: Principal) -> TriggerView:
        """Change a trigger; what is left out stays. The caller becomes the one in whose name it acts. Raises what `create` does.

        secret: of its launcher, None: the one it has stays, as long as its kind does.
        """
        now = self._clock.now()
        with self._db.session() as session:
            row = store.known_trigger(session, name, lock=True)
            before = {**row.terms, "enabled": row.enabled}
            terms = {**before, **changes}
            has_moved = terms["launcher"]["kind"] != before["launcher"]["kind"]
            has_moved = has_moved or terms["launcher"]["settings"] != before["launcher"]["settings"]
            # a secret goes only to the address that it was given for: with other settings it has to be given again
            kept = "" if has_moved else self._secret(session, name)
            _check_rights(row.model, touched_of(row.model, before["rollout"]), caller)
            self._check(name, row.model, terms, kept if secret is None else secret, caller)
            if terms["schedule"] != before["schedule"] or terms["tz"] != before["tz"] or not before["enabled"]:
                row.after = now
            row.terms, row.enabled, row.held = _stored(terms), bool(terms["enabled"]), ""
            row.maker, row.changed_at, row.changed_by = caller.person, now, caller.name[:80]
            if caller.person and caller.person not in row.makers:
                row.makers = [*row.makers[-_MAX_MAKERS:], caller.person]
            session.add(row)
            session.flush()
            if secret is not None or has_moved:
                store.set_secret(session, self._sealer, name, secret or "", now)
            return self._view(session, row, store.secret_of(session, name) is not None, now)

    def delete(self, name: str) -> None:
        """Remove a trigger; its retrainings stay. Raises TriggerUnknownError, TriggerBusyError."""
        with self._db.session() as session:
            store.known_trigger(session, name, lock=True)
            if busy := store.open_of_trigger(session, name):
                raise TriggerBusyError(
                    f"the retraining {busy} of the trigger {name} has not ended",
                    next_step=f"end it first: `edgectl retrain cancel {busy}`; or switch the trigger off",
                )
            store.remove_trigger(session, name)

    def start(self, name: str, reason: str, caller: Principal) -> RetrainingRun:
        """Start a retraining by hand. Raises TriggerUnknownError, TriggerHeldError."""
        words = f"started by hand by {caller.name}" + (f": {reason.strip()}" if reason.strip() else "")
        cause = replace(self._seen(self.model_of(name)) or RunCause(TriggerOn.HAND, ""), on=TriggerOn.HAND, words=words)
        found, made = self._maker.start(name, cause, None, by=caller.name, person=caller.person, is_own=False)
        if made is None:
            raise TriggerHeldError(
                f"the trigger {name} starts nothing now: {found.words}",
                next_step=f"see what holds it: `edgectl trigger show {name}`",
            )
        return made

    # ---- looking

    def model_of(self, name: str) -> str:
        """Return the model of a trigger. Raises TriggerUnknownError."""
        with self._db.read() as session:
            return store.known_trigger(session, name).model

    def triggers(self, model: str = "") -> list[TriggerView]:
        """Return all triggers, or those of a model, by name."""
        now = self._clock.now()
        with self._db.read() as session:
            secret = store.with_secret(session)
            return [self._view(session, row, row.name in secret, now) for row in store.triggers(session, model)]

    def trigger(self, name: str) -> TriggerView:
        """Return one trigger. Raises TriggerUnknownError."""
        with self._db.read() as session:
            row = store.known_trigger(session, name)
            return self._view(session, row, store.secret_of(session, name) is not None, self._clock.now())

    def order(self, session: Session, name: str, launcher: Mapping[str, Any]) -> LaunchOrder:
        """Return what a launcher gets, with the opened secret. Raises LaunchRefusedError, and what opening a secret does.

        launcher: as the trigger said when the retraining began. Its secret goes to no other receiver than it was given for.
        """
        now = store.known_trigger(session, name).terms["launcher"]
        if (now["kind"], now["settings"]) != (launcher["kind"], launcher["settings"]):
            raise LaunchRefusedError(
                f"the launcher of the trigger {name} was changed since this retraining began",
                next_step=f"start it again: `edgectl trigger start {name}`",
            )
        return _order(name, launcher, self._secret(session, name))

    def _secret(self, session: Session, name: str) -> str:
        sealed = store.secret_of(session, name)
        return "" if sealed is None else self._sealer.open(sealed)

    def _check(self, name: str, model: str, terms: Mapping[str, Any], secret: str, caller: Principal) -> None:
        """Raise for a trigger that cannot be, and for a caller who may not do what it will do."""
        check_terms(terms)
        touched = touched_of(model, terms["rollout"])
        _check_rights(model, touched, caller)
        if touched is not None and not caller.person:
            raise BadTriggerError(
                "a trigger makes its rollout in its maker's name, and this token belongs to nobody",
                next_step="use a token of a person or a service, or leave `rollout` out",
            )
        kind = LauncherKind(terms["launcher"]["kind"])
        if kind is LauncherKind.RUNNER:
            if secret or terms["launcher"]["settings"]:
                raise BadTriggerError(
                    "a runner asks by itself: it has no settings and no secret", next_step="leave them out"
                )
        elif kind not in self._launchers:
            raise BadTriggerError(f"this server has no launcher {kind}", next_step="use the launcher runner")
        else:
            self._launchers[kind].check(_order(name, terms["launcher"], secret))

    def _view(self, session: Session, row: RetrainingTrigger, has_secret: bool, now: datetime) -> TriggerView:
        terms, history = terms_of(row), self._maker.history(session, row, now)
        stored, hold = row.terms, may_start(terms, history, now)
        launcher = stored["launcher"]
        return TriggerView(
            name=row.name, model=row.model, on=terms.on, objective=stored["objective"], schedule=stored["schedule"], tz=stored["tz"],
            lasting_s=stored["lasting_s"], cool_down_s=stored["cool_down_s"], budget=stored["budget"],
            budget_period_s=stored["budget_period_s"], approval=stored["approval"],
            launcher=LauncherView(LauncherKind(launcher["kind"]), launcher["settings"], has_secret, launcher["deadline_s"]),
            data=DataWanted(**stored["data"]), rollout=stored["rollout"], enabled=row.enabled,
            says=_says(row, terms.on) if hold.fires else hold.words, used=used(terms, history, now),
            open_run=history.open_run, next_at=next_at(row), created_at=row.created_at, created_by=row.created_by,
            changed_at=row.changed_at, changed_by=row.changed_by,
        )  # fmt: skip


def _check_rights(model: str, touched: Touched | None, caller: Principal) -> None:
    """Raise ForbiddenError for a caller who is no publisher of a model, or no operator over what a trigger's rollout touches."""
    of_model = Touched(frozenset({model}), None)
    if not caller.may(Role.PUBLISHER, of_model):
        raise out_of_scope(caller, Role.PUBLISHER, of_model)
    if touched is not None and not caller.may(Role.OPERATOR, touched):
        raise out_of_scope(caller, Role.OPERATOR, touched)


def check_terms(terms: Mapping[str, Any]) -> None:
    """Raise BadTriggerError for what a trigger cannot say."""
    on, schedule = TriggerOn(terms["on"]), terms["schedule"]
    if (on is TriggerOn.SCHEDULE) is not bool(schedule):
        raise BadTriggerError(
            "`schedule` goes with `on: schedule`, and with nothing else",
            next_step='give a cron line, such as "0 3 * * 1", or leave it out',
        )
    if terms["objective"] and on is not TriggerOn.OBJECTIVE:
        raise BadTriggerError("`objective` goes with `on: objective` only", next_step="leave it out")
    if not schedule:
        return
    if flaw := cron_flaw(schedule):
        raise BadTriggerError(f"{schedule!r} is no cron expression: {flaw}", next_step='write for example "0 3 * * 1"')
    if zone(terms["tz"]) is None:
        raise BadTriggerError(f"{terms['tz']!r} is no time zone", next_step="use UTC, or one such as Europe/Berlin")


def touched_of(model: str, rollout: Mapping[str, Any] | None) -> Touched | None:
    """Return what the rollout of a trigger touches, None without one. Raises BadSpecError, BadTriggerError."""
    if rollout is None:
        return None
    if fixed := sorted({"release", "apiVersion", "kind", "metadata", "spec"} & rollout.keys()):
        raise BadTriggerError(
            f"the rollout of a trigger has no {fixed[0]}: its release is the one that was trained",
            next_step="give the fields of a rollout's `spec`, without `release`",
        )
    return touched_by(parse_spec(with_release(rollout, f"{model}@1.0.0")))


def with_release(rollout: Mapping[str, Any], release: str) -> dict[str, Any]:
    """Return a trigger's rollout as a spec."""
    return {"release": release, **rollout}


def next_at(row: RetrainingTrigger) -> datetime | None:
    """Return when the schedule of a trigger is due next, None without one."""
    place = zone(row.terms["tz"])
    return next_start(row.terms["schedule"], place, row.after) if row.terms["schedule"] and place is not None else None


def _says(row: RetrainingTrigger, on: TriggerOn) -> str:
    return "it is started by hand" if on is TriggerOn.HAND else row.held or "it was not looked at yet"


def _stored(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in terms.items() if key != "enabled"}


def _order(name: str, launcher: Mapping[str, Any], secret: str) -> LaunchOrder:
    kind = LauncherKind(launcher["kind"])
    return LaunchOrder(name, kind, dict(launcher["settings"]), secret, launcher["deadline_s"])
