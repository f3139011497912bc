"""Routes of retraining. They only translate."""

import base64
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import ScopedPublisher, Viewer
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.access.grants.scoped_caller import ScopedCaller
from edgefleet_server.access.model import Principal
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import encode_cursor
from edgefleet_server.retraining.model import LeasedRetraining, RetrainingView, TriggerView
from edgefleet_server.retraining.runner_leases import LeaseBook
from edgefleet_server.retraining.schemas import (
    AnswerRetrainingIn,
    CompleteIn,
    FailIn,
    LeaseIn,
    RenewIn,
    RetrainingCaptureOut,
    TriggerChangeIn,
    TriggerIn,
)
from edgefleet_server.retraining.service import RetrainingService, view_of
from edgefleet_server.retraining.trigger_book import TriggerBook
from edgefleet_server.web import problems
from edgefleet_server.web.pagination import ById, EitherWay, ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

ModelQuery = Annotated[str, Query(max_length=63)]


def build_router(
    triggers: TriggerBook, retrainings: RetrainingService, leases: LeaseBook, access: AccessService, db: Database
) -> APIRouter:
    """Return the routes of retraining, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["retraining"], route_class=ListRoute)
    _add_triggers(router, triggers, db)
    _add_changes(router, triggers, db)
    _add_reading(router, retrainings, access)
    _add_answers(router, retrainings, db)
    _add_training(router, retrainings, leases)
    return router


def _add_triggers(router: APIRouter, triggers: TriggerBook, db: Database) -> None:
    @router.get("/triggers", operation_id="list_triggers")
    def list_triggers(_caller: Viewer, model: ModelQuery = "") -> ListOf[TriggerView]:
        """List triggers by name, each with what it waits for. model: only of this one."""
        return ListOf.whole(triggers.triggers(model))

    @router.get("/triggers/{name}", operation_id="get_trigger")
    def get_trigger(name: str, response: Response, _caller: Viewer) -> TriggerView:
        """Return one trigger. The ETag names what it says, not what it has started."""
        found = triggers.trigger(name)
        put_tag(response, _tag(found))
        return found

    @router.post("/triggers", operation_id="create_trigger", status_code=201)
    def create_trigger(wanted: TriggerIn, response: Response, dry_run: DryRun, scoped: ScopedPublisher) -> TriggerView:
        """Retrain a model from now on by this rule. It acts in the name of its maker, who has to be operator of its rollout's devices."""
        caller = _of_model(scoped, parse_model_name(wanted.model))
        with acting(db, dry_run=dry_run):
            made = triggers.create(wanted.name, wanted.model, wanted.terms(), wanted.launcher.secret or "", caller)
        put_location(response, f"/triggers/{made.name}")
        put_tag(response, _tag(made))
        return made

    @router.post("/triggers/{name}:start", operation_id="start_retraining", status_code=201)
    def start_retraining(
        name: str, command: AnswerRetrainingIn, response: Response, dry_run: DryRun, scoped: ScopedPublisher
    ) -> RetrainingView:
        """Start a retraining by hand. It counts for the budget of its trigger, and neither waits for its cool-down nor begins it."""
        caller = _of_model(scoped, triggers.model_of(name))
        with acting(db, dry_run=dry_run):
            made = view_of(triggers.start(name, command.reason, caller))
        put_location(response, f"/retrainings/{made.id}")
        return made


def _add_changes(router: APIRouter, triggers: TriggerBook, db: Database) -> None:
    @router.patch("/triggers/{name}", operation_id="update_trigger")
    def update_trigger(
        name: str,
        wanted: TriggerChangeIn,
        response: Response,
        expected: IfMatch,
        dry_run: DryRun,
        scoped: ScopedPublisher,
    ) -> TriggerView:
        """Change a trigger; what is left out stays. It acts in the caller's name from now on; what is under way stays as it is."""
        caller = _of_model(scoped, triggers.model_of(name))
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(triggers.trigger(name)))
            secret = None if wanted.launcher is None else wanted.launcher.secret
            changed = triggers.change(name, wanted.changes(), secret, caller)
        put_tag(response, _tag(changed))
        return changed

    @router.delete("/triggers/{name}", operation_id="delete_trigger", status_code=204, response_class=Response)
    def delete_trigger(name: str, expected: IfMatch, dry_run: DryRun, scoped: ScopedPublisher) -> Response:
        """Remove a trigger; its retrainings stay."""
        _of_model(scoped, triggers.model_of(name))
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(triggers.trigger(name)))
            triggers.delete(name)
        return Response(status_code=204)


def _add_reading(router: APIRouter, retrainings: RetrainingService, access: AccessService) -> None:
    @router.get("/retrainings", operation_id="list_retrainings")
    def list_retrainings(
        page: EitherWay,
        _caller: Viewer,
        model: ModelQuery = "",
        trigger: ModelQuery = "",
        state: Annotated[str, Query(max_length=200)] = "",
    ) -> ListOf[RetrainingView]:
        """List retrainings, newest first unless `sort` says otherwise; `state` is a comma list."""
        states = [one.strip() for one in state.split(",") if one.strip()]
        found, total = retrainings.page(page, model=model, trigger=trigger, states=states)
        return ListOf.cut(found, page, total, lambda one: one.id)

    @router.get("/retrainings/{retraining_id}", operation_id="get_retraining")
    def get_retraining(retraining_id: str, _caller: Viewer) -> RetrainingView:
        """Return one retraining: its cause, data, training, release, rollout, and whether its cause is gone."""
        return retrainings.run(retraining_id)

    @router.get("/retrainings/{retraining_id}/captures", operation_id="list_retraining_captures")
    def list_retraining_captures(
        retraining_id: str, page: ById, scoped: ScopedPublisher, request: Request
    ) -> ListOf[RetrainingCaptureOut]:
        """List the records that were collected for a retraining, as their devices sealed them. Reading them is audited.

        A page may have fewer than `limit` where records are large; it is the last one only without `next_cursor`.
        """
        caller = _of_model(scoped, retrainings.run(retraining_id).model)
        found, last, total = retrainings.captures(retraining_id, page.after, page.limit)
        actor = f"{caller.name} ({caller.id})"
        access.record(actor, "list_retraining_captures", request.url.path, 200, problems.request_id_of(request))
        items = [
            RetrainingCaptureOut(**asdict(view), sealed=base64.b64encode(sealed).decode()) for view, sealed in found
        ]
        return ListOf(items=items, next_cursor=None if last is None else encode_cursor(page.mark + last), total=total)


def _add_answers(router: APIRouter, retrainings: RetrainingService, db: Database) -> None:
    @router.post("/retrainings/{retraining_id}:approve", operation_id="approve_retraining")
    def approve_retraining(
        retraining_id: str, command: AnswerRetrainingIn, dry_run: DryRun, caller: Viewer
    ) -> RetrainingView:
        """Let a retraining begin; needs the role approver for its model, and a person who did not make or start it."""
        with acting(db, dry_run=dry_run):
            return retrainings.approve(retraining_id, command.reason, caller)

    @router.post("/retrainings/{retraining_id}:reject", operation_id="reject_retraining")
    def reject_retraining(
        retraining_id: str, command: AnswerRetrainingIn, dry_run: DryRun, caller: Viewer
    ) -> RetrainingView:
        """Refuse a retraining; needs what `:approve` does."""
        with acting(db, dry_run=dry_run):
            return retrainings.reject(retraining_id, command.reason, caller)

    @router.post("/retrainings/{retraining_id}:cancel", operation_id="cancel_retraining")
    def cancel_retraining(
        retraining_id: str, command: AnswerRetrainingIn, dry_run: DryRun, scoped: ScopedPublisher
    ) -> RetrainingView:
        """End a retraining whose release is not being rolled out yet."""
        caller = _of_model(scoped, retrainings.run(retraining_id).model)
        with acting(db, dry_run=dry_run):
            return retrainings.cancel(retraining_id, command.reason, caller.name)


def _add_training(router: APIRouter, retrainings: RetrainingService, leases: LeaseBook) -> None:
    @router.post(
        "/retrainings:lease",
        operation_id="lease_retraining",
        responses={204: {"description": "none waits for a runner"}},
    )
    def lease_retraining(wanted: LeaseIn, scoped: ScopedPublisher) -> LeasedRetraining:
        """Take the retraining of a model that has waited longest. The lease counts as long as it is renewed; 204: none waits."""
        _of_model(scoped, parse_model_name(wanted.model))
        found = leases.lease(wanted.model, wanted.holder)
        return found if found is not None else Response(status_code=204)  # type: ignore[return-value]

    @router.post("/retrainings/{retraining_id}:renew", operation_id="renew_retraining")
    def renew_retraining(retraining_id: str, word: RenewIn, scoped: ScopedPublisher) -> RetrainingView:
        """Keep the lease of a retraining, and say how far it is; with `gives_back` let another runner take it."""
        _of_model(scoped, retrainings.run(retraining_id).model)
        data_set = None if word.data_set is None else word.data_set.view()
        return leases.renew(retraining_id, word.lease, word.progress, data_set, gives_back=word.gives_back)

    @router.post("/retrainings/{retraining_id}:complete", operation_id="complete_retraining")
    def complete_retraining(retraining_id: str, word: CompleteIn, scoped: ScopedPublisher) -> RetrainingView:
        """Name the release that came of a training: of its model, published since it began, and with its parent in the lineage."""
        _of_model(scoped, retrainings.run(retraining_id).model)
        return leases.complete(retraining_id, word.lease, word.release)

    @router.post("/retrainings/{retraining_id}:fail", operation_id="fail_retraining")
    def fail_retraining(retraining_id: str, word: FailIn, scoped: ScopedPublisher) -> RetrainingView:
        """Say that a training failed, and why."""
        _of_model(scoped, retrainings.run(retraining_id).model)
        return leases.fail(retraining_id, word.lease, word.trouble())


def _of_model(scoped: ScopedCaller, model: str) -> Principal:
    return scoped.on(Touched(frozenset({model}), None))


def _tag(trigger: TriggerView) -> str:
    left_out = {"says", "used", "open_run", "next_at"}
    return tag_of({name: value for name, value in asdict(trigger).items() if name not in left_out})
