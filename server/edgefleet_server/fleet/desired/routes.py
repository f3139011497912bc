"""Operator routes of what devices should do: deploy at once, tasks, the key that seals captured records. They only translate."""

from typing import Any

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin, Operator, ScopedOperator, Viewer
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook, CaptureKeyView
from edgefleet_server.fleet.desired.deploy import Deployer
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.model import CandidateOrder, Deployment, SigningProgress, TasksAsked, TaskView
from edgefleet_server.fleet.desired.schemas import CaptureKeyIn, DeployIn, TaskIn, TasksIn
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.errors import CaptureKeyUnknownError
from edgefleet_server.fleet.protection.model import PersonWarrant
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector, crowd_of
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "what the device sent",
        "content": {
            "application/gzip": {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }
}
_NO_KEY: dict[int | str, dict[str, Any]] = {404: {"description": "no capture key was set"}}


def build_deploy_router(deployer: Deployer, registry: RegistryService, devices: DeviceSelector) -> APIRouter:
    """Return the route that deploys at once, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.post("/releases/{ref}:deploy", operation_id="deploy_release")
    def deploy_release(ref: str, wanted: DeployIn, asked_dry: DryRun, scoped: ScopedOperator) -> Deployment:
        """Make a release active on every matching device whose profile has a bundle, or run it as a candidate; the others are listed."""
        release = registry.resolve(ref)
        crowd = crowd_of(wanted.selector or "") if wanted.device is None else devices.crowd_of_device(wanted.device)
        caller = scoped.on(Touched(frozenset({release.model}), crowd))
        candidate = None if wanted.mode is None else CandidateOrder(wanted.mode, wanted.share_pct, wanted.salt)
        return deployer.deploy(
            release,
            selector=wanted.selector,
            device=wanted.device,
            dry_run=asked_dry or wanted.dry_run,
            by=caller.name,
            order=candidate,
            warrant=PersonWarrant(caller.id),
        )

    return router


def build_signing_router(desired: DesiredBook) -> APIRouter:
    """Return the route that shows how far a new key of the director has come, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["signing"], route_class=ListRoute)

    @router.get("/signing-progress", operation_id="get_signing_progress")
    def get_signing_progress(_caller: Viewer) -> SigningProgress:
        """Return how many documents of devices the director's newest key has signed, after a rotation."""
        return desired.signing_progress()

    return router


def build_capture_key_router(sampling: CaptureKeyBook, db: Database) -> APIRouter:
    """Return the routes of the capture key, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    def known(*, lock: bool = False) -> CaptureKeyView:
        found = sampling.key(lock=lock)
        if found is None:
            raise CaptureKeyUnknownError("the tenant has no capture key: no device captures anything")
        return found

    def tag(key: CaptureKeyView) -> str:
        return tag_of(key.public_key, key.set_at)

    @router.get("/capture-key", operation_id="get_capture_key", responses=_NO_KEY)
    def get_capture_key(response: Response, _caller: Viewer) -> CaptureKeyView:
        """Return the public key that devices seal captured records to."""
        found = known()
        put_tag(response, tag(found))
        return found

    @router.put("/capture-key", operation_id="set_capture_key", responses=_NO_KEY)
    def set_capture_key(
        wanted: CaptureKeyIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Admin
    ) -> CaptureKeyView:
        """Let devices that consent capture, sealed to this key from now on."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag(known(lock=True)))
            made = sampling.set(wanted.public_key, f"{caller.name} ({caller.id})")
        put_tag(response, tag(made))
        return made

    @router.delete(
        "/capture-key", operation_id="remove_capture_key", status_code=204, response_class=Response, responses=_NO_KEY
    )
    def remove_capture_key(expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Let no device capture any more."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag(known(lock=True)))
            sampling.remove()
        return Response(status_code=204)

    return router


def build_task_router(tasks: TaskBook, devices: DeviceSelector) -> APIRouter:
    """Return the routes of tasks, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.post("/devices/{device_id}/tasks", operation_id="create_device_task", status_code=201)
    def create_task(device_id: str, wanted: TaskIn, response: Response, caller: Operator) -> TaskView:
        """Ask a device to do something once: send its diagnosis or its log, or restart. It learns so by its signed document."""
        made = tasks.create(device_id, wanted.order(), caller.name)
        put_location(response, f"/devices/{device_id}/tasks/{made.id}")
        return made

    @router.post("/devices:task", operation_id="create_tasks", status_code=201)
    def create_tasks(wanted: TasksIn, scoped: ScopedOperator) -> TasksAsked:
        """Ask every live device that a selector matches to do something once: at most 1,000; `dry_run` only counts them."""
        caller = scoped.on(Touched(None, crowd_of(wanted.selector)))
        chosen = [one.id for one in devices.population(wanted.selector)]
        return tasks.create_many(chosen, wanted.order(), caller.name, dry_run=wanted.dry_run)

    @router.get("/devices/{device_id}/tasks", operation_id="list_device_tasks")
    def list_tasks(device_id: str, _caller: Viewer) -> ListOf[TaskView]:
        """List the newest 50 tasks of a device and how far they are, newest first."""
        return ListOf.whole(tasks.tasks(device_id))

    @router.get("/devices/{device_id}/tasks/{task_id}", operation_id="get_device_task")
    def get_task(device_id: str, task_id: str, _caller: Viewer) -> TaskView:
        """Return one task and how far it is."""
        return tasks.task(device_id, task_id)

    @router.get(
        "/devices/{device_id}/tasks/{task_id}/result",
        operation_id="get_device_task_result",
        response_class=Response,
        responses=_RESULTS,
    )
    def get_result(device_id: str, task_id: str, _caller: Operator) -> Response:
        """Return what the device sent: a gzipped tar for `diag`, text for `logs`."""
        media_type, data = tasks.result(device_id, task_id)
        return Response(data, media_type=media_type)

    return router
