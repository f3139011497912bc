"""Operator routes of rollouts. They only translate."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from edgefleet_protocol.ids import DeviceId, ReleaseRef
from edgefleet_server.access.dependency import Operator, Publisher, ScopedOperator, Viewer
from edgefleet_server.access.grants.grant_scope import EVERYBODY, Touched
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.registry.routes import release_tag
from edgefleet_server.registry.schemas import ReleaseOut, WithdrawnReleaseOut
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.commands.retry import Choice
from edgefleet_server.rollout.commands.undo import UndoView
from edgefleet_server.rollout.lint.preview import PlanView
from edgefleet_server.rollout.retirement import ReleaseRetirement
from edgefleet_server.rollout.schemas import (
    AnswerIn,
    CommandIn,
    RetireIn,
    RetryIn,
    SkipIn,
    SpecIn,
    UndoIn,
)
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.status.decision_views import DecisionView
from edgefleet_server.rollout.status.devices import RolloutDevice
from edgefleet_server.rollout.status.experiments import ExperimentReader, ExperimentResult, ExperimentView
from edgefleet_server.rollout.status.explanation import DeviceExplanation
from edgefleet_server.rollout.status.reader import RolloutView
from edgefleet_server.rollout.status.strategy_views import StrategyView, strategies, strategy
from edgefleet_server.web.pagination import ByDevice, ListOf, NewestFirst, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location
from edgefleet_server.web.sparse_fields import ListRoute

RolloutPage = Annotated[PageRequest, paged("-created_at", "created_at")]


def build_router(rollouts: RolloutService, db: Database) -> APIRouter:
    """Return the rollouts' routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["rollout"], route_class=ListRoute)
    _add_making(router, rollouts, db)
    _add_reading(router, rollouts)
    _add_steering(router, rollouts, db)
    _add_answers(router, rollouts, db)
    _add_experiments(router, rollouts.experiments)
    _add_strategies(router)
    return router


def build_retirement_router(retirement: ReleaseRetirement, registry: RegistryService, db: Database) -> APIRouter:
    """Return the routes that take releases away, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["registry"], route_class=ListRoute)

    @router.post("/releases/{ref}:withdraw", operation_id="withdraw_release")
    def withdraw_release(ref: str, command: RetireIn, dry_run: DryRun, caller: Operator) -> WithdrawnReleaseOut:
        """Let nobody deploy a release any more, with a reason. Its open rollouts end; devices that run it go on. It cannot be undone."""
        with acting(db, dry_run=dry_run):
            first, *others = retirement.withdraw(
                registry.resolve(ref), caller.name, command.reason, older=command.older
            )
            shown = ReleaseOut.of(first).model_dump()
            waits = retirement.waits_for_team(first.ref.model)
            also = [str(one.ref) for one in others]
            return WithdrawnReleaseOut.model_validate({**shown, "also": also, "waits_for_team": waits})

    @router.delete("/releases/{ref}", operation_id="delete_release", status_code=204, response_class=Response)
    def delete_release(
        ref: str,
        expected: IfMatch,
        dry_run: DryRun,
        caller: Publisher,
        reason: Annotated[str, Query(max_length=500)] = "",
    ) -> Response:
        """Delete a release that was never deployed, with its bundles and reports. The version of a signed one is never used again."""
        named = ReleaseRef.parse(ref)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: release_tag(registry.release(named)))
            gone = retirement.delete(named, caller.name, reason)
        if not dry_run:
            retirement.drop_bytes(gone)
        return Response(status_code=204)

    return router


def _add_making(router: APIRouter, rollouts: RolloutService, db: Database) -> None:
    @router.post("/rollouts", operation_id="create_rollout", status_code=201)
    def create_rollout(spec: SpecIn, response: Response, dry_run: DryRun, scoped: ScopedOperator) -> RolloutView:
        """Start a rollout: a spec, alone or as `{apiVersion, kind, metadata, spec}`."""
        maker = scoped.principal
        with acting(db, dry_run=dry_run):
            made = rollouts.reader.rollout(rollouts.create(spec, maker.name, maker.person, scoped.on))
        put_location(response, f"/rollouts/{made.id}")
        return made

    @router.post("/rollouts:plan", operation_id="plan_rollout")
    def plan_rollout(spec: SpecIn, _caller: Viewer) -> PlanView:
        """Say what a spec would do now: who, in which stage, by which rule, and what is wrong with it."""
        return rollouts.plan(spec)


def _add_reading(router: APIRouter, rollouts: RolloutService) -> None:
    reader = rollouts.reader

    @router.get("/rollouts", operation_id="list_rollouts")
    def list_rollouts(
        page: RolloutPage,
        _caller: Viewer,
        state: Annotated[str, Query(max_length=200)] = "",
        model: Annotated[str | None, Query(max_length=63)] = None,
        device: Annotated[str | None, Query(max_length=63)] = None,
    ) -> ListOf[RolloutView]:
        """List rollouts, newest first unless `sort` says otherwise; `state` is a comma list, `device` the id of one that belongs to it."""
        states = [one.strip() for one in state.split(",") if one.strip()]
        found, total = reader.page(page, states=states, model=model, device=device)
        return ListOf.cut(found, page, total, lambda one: one.id)

    @router.get("/rollouts/{rollout_id}", operation_id="get_rollout")
    def get_rollout(rollout_id: str, _caller: Viewer) -> RolloutView:
        """Return one rollout: stages, strata, figures and reasons."""
        return reader.rollout(rollout_id)

    @router.get("/rollouts/{rollout_id}/plan", operation_id="get_rollout_plan")
    def get_rollout_plan(rollout_id: str, _caller: Viewer) -> PlanView:
        """Say who belongs to which stage, and why."""
        return rollouts.plan_of(rollout_id)

    @router.get("/rollouts/{rollout_id}/devices", operation_id="list_rollout_devices")
    def list_rollout_devices(
        rollout_id: str,
        page: ByDevice,
        _caller: Viewer,
        state: str | None = None,
        stage: str | None = None,
        device: Annotated[str | None, Query(max_length=63)] = None,
    ) -> ListOf[RolloutDevice]:
        """List devices of a rollout: where each stands and why. `stage` is a name or a number from 0, `device` an id."""
        found, total = reader.device_page(rollout_id, page, state=state, stage=stage, device=device)
        return ListOf.cut(found, page, total, lambda one: one.device)

    @router.get("/devices/{device_id}/explain", operation_id="explain_device")
    def explain_device(device_id: str, _caller: Viewer) -> DeviceExplanation:
        """Say why a device does not run what it should, model by model, and what would move it."""
        return reader.explanation(device_id)

    @router.get("/rollouts/{rollout_id}/decisions", operation_id="list_rollout_decisions")
    def list_rollout_decisions(rollout_id: str, page: NewestFirst, _caller: Viewer) -> ListOf[DecisionView]:
        """List decisions, newest first, with their evidence, each made again from it."""
        found = reader.decisions(rollout_id, before=page.after_number(), limit=page.limit + 1)
        return ListOf.cut(found, page, reader.count_decisions(rollout_id), lambda one: str(one.id))


def _add_steering(router: APIRouter, rollouts: RolloutService, db: Database) -> None:
    def steer(rollout_id: str, act: Callable[[], None], *, dry_run: bool) -> RolloutView:
        with acting(db, dry_run=dry_run):
            act()
            return rollouts.reader.rollout(rollout_id)

    @router.post("/rollouts/{rollout_id}:pause", operation_id="pause_rollout")
    def pause_rollout(rollout_id: str, command: CommandIn, dry_run: DryRun, caller: Operator) -> RolloutView:
        """Stop offering; what has not begun its switch is stopped on the devices too."""
        return steer(rollout_id, lambda: rollouts.pause(rollout_id, caller.name, command.reason), dry_run=dry_run)

    @router.post("/rollouts/{rollout_id}:resume", operation_id="resume_rollout")
    def resume_rollout(rollout_id: str, command: CommandIn, dry_run: DryRun, caller: Operator) -> RolloutView:
        """Go on after a pause."""
        act = partial(rollouts.resume, rollout_id, caller.name, command.reason, caller.person)
        return steer(rollout_id, act, dry_run=dry_run)

    @router.post("/rollouts/{rollout_id}:abort", operation_id="abort_rollout")
    def abort_rollout(rollout_id: str, command: CommandIn, dry_run: DryRun, caller: Operator) -> RolloutView:
        """End it for good; with `rollback` every device goes back to what it ran before."""
        return steer(
            rollout_id,
            lambda: rollouts.abort(rollout_id, caller.name, command.reason, rollback=command.rollback),
            dry_run=dry_run,
        )

    @router.post("/rollouts/{rollout_id}:promote", operation_id="promote_rollout")
    def promote_rollout(rollout_id: str, command: CommandIn, dry_run: DryRun, caller: Operator) -> RolloutView:
        """Let the open stage pass on a person's word, with a reason."""
        return steer(
            rollout_id,
            lambda: rollouts.promote(rollout_id, caller.name, command.reason, command.stratum, caller.person),
            dry_run=dry_run,
        )

    @router.post("/rollouts/{rollout_id}:skip", operation_id="skip_rollout_stage")
    def skip_rollout_stage(rollout_id: str, command: SkipIn, dry_run: DryRun, caller: Operator) -> RolloutView:
        """Leave out a stage that has not opened, with a reason: its devices belong to the next one."""
        return steer(
            rollout_id,
            lambda: rollouts.skip(rollout_id, caller, command.reason, command.stage, command.stratum),
            dry_run=dry_run,
        )

    @router.post("/rollouts/{rollout_id}:retry", operation_id="retry_rollout")
    def retry_rollout(rollout_id: str, command: RetryIn, dry_run: DryRun, caller: Operator) -> RolloutView:
        """Give devices on which the release failed another try. The failure stays evidence; a finished rollout runs again."""
        choice = Choice(command.failed, tuple(DeviceId(one) for one in command.devices))
        return steer(
            rollout_id,
            lambda: rollouts.retry(rollout_id, caller.name, command.reason, choice, caller.person),
            dry_run=dry_run,
        )

    @router.post("/rollouts:undo", operation_id="undo_model")
    def undo_model(command: UndoIn, asked_dry: DryRun, scoped: ScopedOperator) -> UndoView:
        """Take every device of a model back to what it ran before; with `dry_run` only tell what that would do."""
        caller = scoped.on(Touched(frozenset({command.name.partition("@")[0]}), EVERYBODY))
        return rollouts.undo(command.name, caller.name, command.reason, dry_run=asked_dry or command.dry_run)


def _add_answers(router: APIRouter, rollouts: RolloutService, db: Database) -> None:
    @router.post("/rollouts/{rollout_id}:approve", operation_id="approve_rollout")
    def approve_rollout(rollout_id: str, command: AnswerIn, dry_run: DryRun, caller: Viewer) -> RolloutView:
        """Let the stages that wait for an approval open; needs the role that their spec names, and a person who did not make it."""
        with acting(db, dry_run=dry_run):
            rollouts.approve(rollout_id, caller, command.reason, command.stratum)
            return rollouts.reader.rollout(rollout_id)

    @router.post("/rollouts/{rollout_id}:deny", operation_id="deny_rollout")
    def deny_rollout(rollout_id: str, command: AnswerIn, dry_run: DryRun, caller: Viewer) -> RolloutView:
        """Refuse the stages that wait: what was rolled out there goes back; needs the role that their spec names."""
        with acting(db, dry_run=dry_run):
            rollouts.deny(rollout_id, caller, command.reason, command.stratum)
            return rollouts.reader.rollout(rollout_id)


def _add_experiments(router: APIRouter, reader: ExperimentReader) -> None:
    @router.get("/experiments", operation_id="list_experiments")
    def list_experiments(
        page: RolloutPage, _caller: Viewer, model: Annotated[str | None, Query(max_length=63)] = None
    ) -> ListOf[ExperimentView]:
        """List rollouts with stages that run the release as a candidate, newest first unless `sort` says otherwise."""
        found, total = reader.page(page, model=model)
        return ListOf.cut(found, page, total, lambda one: one.id)

    @router.get("/experiments/{rollout_id}", operation_id="get_experiment")
    def get_experiment(rollout_id: str, _caller: Viewer) -> ExperimentResult:
        """Return what a release showed as a candidate: by mode and stratum, both versions on the same devices."""
        return reader.experiment(rollout_id)


def _add_strategies(router: APIRouter) -> None:
    @router.get("/rollout-strategies", operation_id="list_rollout_strategies")
    def list_rollout_strategies(_caller: Viewer) -> ListOf[StrategyView]:
        """List the named strategies, each with the stages that it stands for."""
        return ListOf.whole(strategies())

    @router.get("/rollout-strategies/{name}", operation_id="get_rollout_strategy")
    def get_rollout_strategy(name: str, _caller: Viewer) -> StrategyView:
        """Return one strategy as the spec that it stands for."""
        return strategy(name)
