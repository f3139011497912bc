"""Every refusal as `application/problem+json` (RFC 9457) with a next step: domain errors, validation, unknown routes, bugs.

Domain errors know no HTTP. A code is looked up in `STATUS`, first whole, then by its ending; a code that nothing matches is a
bug of this table and answers 500. What the database refuses is answered here too, for every app alike.
"""

import logging
import secrets
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import DatabaseUnavailableError

PROBLEM_TYPE: Final = "application/problem+json"
REQUEST_ID_HEADER: Final = "x-request-id"
_log = logging.getLogger(__name__)

STATUS: Final[Mapping[str, int]] = {
    "signing.key_revoked": 409,
    "signing.root_outdated": 503,
    "signing.not_rotatable": 409,
    "signing.statement_refused": 409,
    "signing.process_too_many": 503,
    "signing.root_offline": 409,
    "request.precondition_failed": 412,
    "access.too_many_requests": 429,
    "access.no_token": 401,
    "access.bad_token": 401,
    "access.token_expired": 401,
    "access.forbidden": 403,
    "access.bad_id_token": 401,
    "access.id_token_used": 401,
    "access.token_unknown": 404,
    "access.person_unknown": 404,
    "access.audit_unknown": 404,
    "access.audit_broken": 500,
    "access.bad_token_request": 422,
    "access.bad_grant": 422,
    "access.grant_unknown": 404,
    "access.too_many_logins": 429,
    "signing.repository_unsound": 503,
    "signing.repository_stale": 503,
    "encryption.failed": 503,
    "encryption.fleet_key_missing": 503,
    "encryption.key_missing": 503,
    "encryption.key_wrong": 503,
    "encryption.key_unreadable": 503,
    "encryption.not_opened": 503,
    "encryption.key_change_refused": 409,
    "blob.digest_mismatch": 400,
    "blob.too_large": 413,
    "blob.unknown": 404,
    "data_set.unknown": 404,
    "data_set.too_many": 429,
    "blob.length_mismatch": 422,
    "blob.bad_range": 416,
    "blob.store_failed": 503,
    "release.unknown": 404,
    "model_card.failed": 500,
    "model_card.pdf_unavailable": 501,
    "release.exists_different": 409,
    "release.converting": 409,
    "release.removed": 409,
    "release.in_use": 409,
    "release.unsigned": 409,
    "release.withdrawn": 409,
    "release.bad_source": 422,
    "release.pickle_not_allowed": 422,
    "model.unknown": 404,
    "governance.failed": 500,
    "governance.evidence_busy": 409,
    "governance.no_trail": 409,
    "governance.policy_unknown": 404,
    "governance.bad_policy": 422,
    "governance.no_policy_change": 409,
    "governance.other_policy_change": 409,
    "governance.policy_not_met": 409,
    "governance.evidence_too_large": 413,
    "governance.evidence_incomplete": 503,
    "profile.unknown": 404,
    "profile.exists_different": 409,
    "profile.bad": 422,
    "id.bad": 422,
    "message.bad": 400,
    "request.bad_cursor": 422,
    "form.bad_field": 422,
    "form.operation_unknown": 404,
    "form.unconfirmed": 422,
    "form.nothing_selected": 422,
    "form.refused": 422,
    "fleet.failed": 500,
    "fleet.device_revoked": 409,
    "fleet.protected": 409,
    "move.unknown": 409,
    "move.bad": 422,
    "ca_rotation.unknown": 409,
    "ca_rotation.bad": 422,
    "ca_rotation.under_way": 409,
    "ca_rotation.unfinished": 409,
    "move.under_way": 409,
    "move.unfinished": 409,
    "move.unreachable": 409,
    "fleet.protection_unknown": 404,
    "fleet.protection_exists": 409,
    "fleet.bad_protection": 422,
    "fleet.nothing_to_recover": 409,
    "agent.package_bad": 422,
    "agent.package_damaged": 503,
    "enroll.pending": 202,
    "enroll.rejected": 403,
    "device.certificate_ended": 401,
    "device.readmission_pending": 403,
    "device.readmission_refused": 403,
    "enroll.approval_expired": 410,
    "enroll.too_many_pending": 429,
    "group.in_use": 409,
    "task.too_many": 422,
    "desired.not_found": 404,
    "signing.failed": 500,
    "signing.keys_exist": 500,
    "signing.keys_unreadable": 500,
    "signing.target_exists": 409,
    "signing.role_unknown": 404,
    "signing.role_offline": 409,
    "signing.bad_holder": 422,
    "signing.bad_answer": 422,
    "signing.request_waiting": 409,
    "signing.request_unknown": 404,
    "signing.request_outdated": 409,
    "bundle.unknown": 404,
    "rollout.failed": 500,
    "rollout.bad_spec": 422,
    "rollout.lint": 422,
    "rollout.unknown": 404,
    "rollout.active_exists": 409,
    "rollout.illegal_state": 409,
    "rollout.reason_needed": 422,
    "rollout.nothing_to_undo": 409,
    "rollout.not_approver": 403,
    "rollout.strategy_unknown": 404,
    "registry.error": 500,
    "access.error": 500,
    "conversion.failed": 500,
    "conversion.over": 409,
    "conversion.report_unknown": 404,
    "conversion.report_broken": 500,
    "telemetry.no_capture_key": 409,
    "telemetry.bad_span": 422,
    "predictions.bad_rule": 422,
    "predictions.no_parquet": 409,
    "erasure.unfinished": 409,
    "accuracy.bad_period": 422,
    "feedback.upload_unknown": 404,
    "feedback.no_labels": 422,
    "feedback.too_many": 413,
    "drift.no_baseline": 404,
    "drift.nothing_counted": 409,
    "drift.bad_period": 422,
    "webhook.failed": 500,
    "alert.failed": 500,
    "cost.failed": 500,
    "cost.no_prices": 404,
    "slo.failed": 500,
    "slo.name_mismatch": 422,
    "slo.too_many": 422,
    "retraining.failed": 500,
    "retraining.launch_refused": 409,
    "trigger.too_many": 422,
    "trigger.bad": 422,
    "server.database_unavailable": 503,
    "server.bad_settings": 500,
    "internal": 500,
}

_BY_ENDING: Final[tuple[tuple[str, int], ...]] = (
    ("unknown", 404),
    ("not_found", 404),
    ("missing", 404),
    ("exists", 409),
    ("exists_different", 409),
    ("conflict", 409),
    ("used_up", 409),
    ("expired", 401),
    ("revoked", 401),
    ("unauthorized", 401),
    ("forbidden", 403),
    ("too_large", 413),
    ("unavailable", 503),
    ("bad", 422),
)

_HTTP_NEXT: Final[Mapping[int, tuple[str, str]]] = {
    400: ("request.malformed", "send what /openapi.json describes"),
    404: ("request.no_such_route", "compare the address with /openapi.json"),
    405: ("request.method_not_allowed", "use one of the methods of the Allow header"),
    413: ("request.too_large", "send less"),
}


FRAMEWORK_CODES: Final[Mapping[str, tuple[int, str, str]]] = {
    "request.malformed": (400, "The request cannot be read.", _HTTP_NEXT[400][1]),
    "request.no_such_route": (404, "The API has no such address.", _HTTP_NEXT[404][1]),
    "request.method_not_allowed": (405, "This method is not allowed at this address.", _HTTP_NEXT[405][1]),
    "request.too_large": (413, "The body is larger than this address accepts.", _HTTP_NEXT[413][1]),
    "request.invalid": (
        422,
        "Fields of the request cannot be used; `errors` names them.",
        "correct the fields listed in `errors`",
    ),
    "request.refused": (400, "The request was refused before it reached a route.", "see `detail`"),
    "internal": (
        500,
        "The server failed in a way it does not know.",
        "look for the request id in the server's log and report it",
    ),
}
"""Codes of refusals that no error class stands for: status, cause, what to do next. For the page of all codes."""


def status_of(code: str) -> int | None:
    """Return the HTTP status of an error code, or None when the table has no answer."""
    if code in STATUS:
        return STATUS[code]
    last = code.rpartition(".")[2]
    for ending, status in _BY_ENDING:
        if last == ending or last.endswith("_" + ending):
            return status
    return 422 if last.startswith(("bad_", "invalid_")) else None


def request_id_of(request: Request) -> str:
    """Return the id of this request: what logs, the audit trail and the answer carry."""
    known = getattr(request.state, "request_id", None)
    if isinstance(known, str):
        return known
    made = secrets.token_hex(8)
    request.state.request_id = made
    return made


def problem(  # noqa: PLR0913 - one parameter for each field of the document
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    next_step: str = "",
    why: str = "",
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return one problem document as a response."""
    body = {
        "type": f"urn:edgefleet:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id_of(request),
        "next": next_step,
        "why": why,
        "errors": errors or [],
    }
    return JSONResponse(body, status_code=status, media_type=PROBLEM_TYPE, headers=dict(headers or {}))


def domain_problem(request: Request, error: EdgefleetError) -> Response:
    """Answer with a domain error. Its attribute `errors`, a list of mappings, says what is wrong in each field."""
    status = status_of(error.code)
    if status is None:
        _log.error("error code without a status", extra={"code": error.code})
        status = 500
    if status >= 500:
        _log.error("request failed", exc_info=error, extra={"code": error.code, "request_id": request_id_of(request)})
    headers = {}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="edgefleet"'
    retry_after_s = getattr(error, "retry_after_s", 5 if status == 503 else None)
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    errors = getattr(error, "errors", None)
    return problem(
        request,
        status,
        error.code,
        error.message,
        next_step=error.next_step,
        why=error.reason(),
        errors=errors,
        headers=headers,
    )


def method_not_allowed(request: Request, methods: Collection[str]) -> Response:
    """Answer to a method that an address does not take; methods: those that it takes."""
    code, next_step = _HTTP_NEXT[405]
    detail = f"{request.method} is not a method of {request.url.path}"
    return problem(request, 405, code, detail, next_step=next_step, headers={"allow": ", ".join(sorted(methods))})


def http_problem(request: Request, error: HTTPException) -> Response:
    """Answer with an error of the framework."""
    return _on_http_error(request, error)


def _on_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgefleetError)
    return domain_problem(request, error)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": ".".join(str(part) for part in item["loc"]), "code": item["type"], "message": item["msg"]}
        for item in error.errors()
    ]
    first = errors[0]
    detail = f"the request has {len(errors)} invalid field{'' if len(errors) == 1 else 's'}; first: {first['where']}: {first['message']}"
    return problem(
        request, 422, "request.invalid", detail, next_step="correct the fields listed in `errors`", errors=errors
    )


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, next_step = _HTTP_NEXT.get(error.status_code, ("request.refused", ""))
    detail = f"{error.detail}: {request.method} {request.url.path}"
    return problem(request, error.status_code, code, detail, next_step=next_step, headers=error.headers)


def _on_database_error(request: Request, error: Exception) -> Response:
    _log.error("the database failed", exc_info=error, extra={"request_id": request_id_of(request)})
    return domain_problem(
        request,
        DatabaseUnavailableError(
            "the database could not answer this request",
            next_step="try again; if it happens again, check that the database of `database_url` runs and has space",
        ),
    )


def _on_bad_value(request: Request, _error: Exception) -> Response:
    """A value that the database cannot hold (text with NUL, a number out of range) is the sender's mistake."""
    return problem(
        request,
        422,
        "request.invalid",
        "a value of the request cannot be stored",
        next_step="send text without NUL characters and numbers of a usual size",
    )


def _on_bug(request: Request, error: Exception) -> Response:
    _log.error("unexpected error", exc_info=error, extra={"request_id": request_id_of(request)})
    return problem(
        request,
        500,
        "internal",
        "the server failed in a way it does not know",
        next_step=f"look for request id {request_id_of(request)} in the server's log and report it",
        headers={REQUEST_ID_HEADER: request_id_of(request)},  # this handler runs outside the app's own middleware
    )


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(EdgefleetError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    for kind in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(kind, _on_database_error)
    app.add_exception_handler(DataError, _on_bad_value)
    app.add_exception_handler(Exception, _on_bug)
