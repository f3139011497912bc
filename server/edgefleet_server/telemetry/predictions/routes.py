"""Routes of prediction logs and of erasing. They only translate."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import Admin, Auditor, Viewer
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.access.grants.scoped_caller import out_of_scope
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.telemetry.predictions.data_set_book import DataSetBook, NewDataSet, page_key
from edgefleet_server.telemetry.predictions.erasure import Erasures
from edgefleet_server.telemetry.predictions.model import (
    Erasure,
    PredictionLogFile,
    PredictionLogVerification,
    PredictionLogView,
    WrittenDataSetView,
    WrittenRecordView,
)
from edgefleet_server.telemetry.predictions.schemas import DataSetPurgeIn, ErasureIn, PredictionLogIn, WrittenDataSetIn
from edgefleet_server.telemetry.predictions.service import PredictionLogs
from edgefleet_server.web import problems
from edgefleet_server.web.pagination import ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

DataSetPage = Annotated[PageRequest, paged("-made_at", "made_at")]
PARQUET = "application/octet-stream"
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}}
}


def build_router(logs: PredictionLogs, db: Database) -> APIRouter:
    """Return the routes of what is kept, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["predictions"], route_class=ListRoute)

    @router.get("/prediction-logs", operation_id="list_prediction_logs")
    def list_prediction_logs(_caller: Viewer) -> ListOf[PredictionLogView]:
        """List the models whose answers are kept or were, and how much there is."""
        return ListOf.whole(logs.views())

    @router.get("/prediction-logs/{model}", operation_id="get_prediction_log")
    def get_prediction_log(model: str, response: Response, _caller: Viewer) -> PredictionLogView:
        """Return what is kept of a model's answers."""
        found = logs.view(parse_model_name(model))
        put_tag(response, _tag(found))
        return found

    @router.put(
        "/prediction-logs/{model}",
        operation_id="set_prediction_log",
        responses={201: {"model": PredictionLogView, "description": "it is new"}},
    )
    def set_prediction_log(
        model: str, wanted: PredictionLogIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Admin
    ) -> PredictionLogView:
        """Keep a model's answers from now on, all or a share, on every device that runs it."""
        name = parse_model_name(model)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(logs.view(name)))
            found, is_new = logs.set(
                name, caller.name, ratio=wanted.ratio, inputs=wanted.inputs, keep_days=wanted.keep_days
            )
        response.status_code = 201 if is_new else 200
        put_tag(response, _tag(found))
        return found

    @router.delete(
        "/prediction-logs/{model}", operation_id="stop_prediction_log", status_code=204, response_class=Response
    )
    def stop_prediction_log(model: str, expected: IfMatch, dry_run: DryRun, caller: Admin) -> Response:
        """Keep no more of a model's answers. What is kept stays for its days."""
        name = parse_model_name(model)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(logs.view(name)))
            logs.stop(name, caller.name)
        return Response(status_code=204)

    return router


def build_reading_router(logs: PredictionLogs, access: AccessService) -> APIRouter:
    """Return the routes for an auditor, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["predictions"], route_class=ListRoute)

    @router.get("/prediction-logs/{model}/verification", operation_id="verify_prediction_log")
    def verify_prediction_log(
        model: str, _caller: Auditor, device: Annotated[str, Query(max_length=63, pattern="^[a-z0-9-]*$")] = ""
    ) -> PredictionLogVerification:
        """Read a log again and say whether it is whole: which numbers have no row and why, and which parts are missing or were changed."""
        return logs.verify(parse_model_name(model), device)

    @router.get("/prediction-logs/{model}/files", operation_id="list_prediction_log_files")
    def list_prediction_log_files(model: str, _caller: Auditor) -> ListOf[PredictionLogFile]:
        """List the Parquet files of a model's log, oldest first."""
        return ListOf.whole(logs.files(parse_model_name(model)))

    @router.get(
        "/prediction-logs/{model}/files/{sha256}",
        operation_id="get_prediction_log_file",
        response_class=Response,
        responses=_FILE,
    )
    def get_prediction_log_file(model: str, sha256: str, caller: Auditor, request: Request) -> Response:
        """Return a Parquet file of a model's log. Reading one is audited."""
        data = logs.read_file(parse_model_name(model), sha256)
        who = f"{caller.name} ({caller.id})"
        access.record(who, "get_prediction_log_file", request.url.path, 200, problems.request_id_of(request))
        return Response(data, media_type=PARQUET)

    return router


def build_erasure_router(erasures: Erasures) -> APIRouter:
    """Return the routes of erasing, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["predictions"], route_class=ListRoute)

    @router.post("/erasures", operation_id="erase_subject", status_code=201)
    def erase_subject(wanted: ErasureIn, response: Response, caller: Admin) -> Erasure:
        """Erase a subject from prediction logs, here and on devices, with what was captured of the same answers. Cannot be undone."""
        models = [parse_model_name(one) for one in wanted.models]
        made = erasures.erase(wanted.subject, models, f"{caller.name} ({caller.id})")
        put_location(response, f"/erasures/{made.id}")
        return made

    @router.get("/erasures", operation_id="list_erasures")
    def list_erasures(_caller: Auditor) -> ListOf[Erasure]:
        """List the receipts of all erasures, newest first."""
        return ListOf.whole(erasures.receipts())

    @router.get("/erasures/{erasure_id}", operation_id="get_erasure")
    def get_erasure(erasure_id: str, _caller: Auditor) -> Erasure:
        """Return the receipt of one erasure."""
        return erasures.receipt(erasure_id)

    return router


def build_data_set_router(book: DataSetBook, db: Database) -> APIRouter:
    """Return the routes of data sets, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["predictions"], route_class=ListRoute)

    @router.get("/data-sets", operation_id="list_data_sets")
    def list_data_sets(
        page: DataSetPage,
        _caller: Viewer,
        model: Annotated[str, Query(max_length=63)] = "",
        digest: Annotated[str, Query(pattern="^([0-9a-f]{64})?$")] = "",
    ) -> ListOf[WrittenDataSetView]:
        """List the data sets that were written from captured records, newest first: of a model, or with this digest of the manifest."""
        found, total = book.data_sets(model, digest, page)
        return ListOf.cut(found, page, total, page_key)

    @router.post("/data-sets", operation_id="create_data_set", status_code=201)
    def create_data_set(
        wanted: WrittenDataSetIn, response: Response, dry_run: DryRun, caller: Viewer
    ) -> WrittenDataSetView:
        """Note a data set that was written elsewhere; needs what reading its records does: operator, or publisher of the model."""
        model = parse_model_name(wanted.model)
        _check_reader(caller, model)
        records = [(one.device, one.record, one.trace_id) for one in wanted.records]
        written = NewDataSet(model, wanted.digest, wanted.format, wanted.place, wanted.retraining, records)
        with acting(db, dry_run=dry_run):
            made = book.add(written, f"{caller.name} ({caller.id})")
        put_location(response, f"/data-sets/{made.id}/records")
        return made

    @router.get("/data-sets/{data_set_id}/records", operation_id="list_data_set_records")
    def list_data_set_records(
        data_set_id: str, _caller: Viewer, erasure: Annotated[str, Query(max_length=32)] = ""
    ) -> ListOf[WrittenRecordView]:
        """List the records that a data set has to lose for an erasure, by its receipt; without one for any."""
        return ListOf.whole(book.records(data_set_id, erasure))

    @router.post("/data-sets/{data_set_id}:purge", operation_id="purge_data_set")
    def purge_data_set(data_set_id: str, word: DataSetPurgeIn, dry_run: DryRun, caller: Viewer) -> WrittenDataSetView:
        """Say that the records that an erasure asks for are gone from a data set; needs what noting one does."""
        with acting(db, dry_run=dry_run), db.session():
            by = f"{caller.name} ({caller.id})"
            done = book.purge(data_set_id, word.erasure, word.digest, by, word.records)
            _check_reader(caller, done.model)
        return done

    return router


def _check_reader(caller: Principal, model: str) -> None:
    """Raise ForbiddenError for a caller who may not read captured records of a model."""
    touched = Touched(frozenset({model}), None)
    if not caller.may(Role.OPERATOR) and not caller.may(Role.PUBLISHER, touched):
        raise out_of_scope(caller, Role.PUBLISHER, touched)


def _tag(found: PredictionLogView) -> str:
    return tag_of(found.model, found.ratio, found.inputs, found.keep_days, found.set_at)
