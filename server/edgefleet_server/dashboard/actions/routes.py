"""Changing something from a page: `POST /do/{operation_id}` calls that operation of the public API as the signed-in user.

So a page can do nothing that the API cannot, with the same validation, roles and audit row. Afterwards the browser goes to the
page that the form names in `next`, with a sentence of what was done; `{id}` in it is a field of the answer. What the API shows once
(a token, a secret) is shown on a page of its own. A refusal is a page with what, why and what to do next.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.model import Principal
from edgefleet_server.dashboard.actions.outcomes import outcome
from edgefleet_server.dashboard.core.forms import Form, NothingSelectedError, action_of, check_key, check_origin
from edgefleet_server.dashboard.core.layout import SAID_COOKIE, Shell
from edgefleet_server.dashboard.core.login import own_page, redirect, to_login
from edgefleet_server.dashboard.operations import internal_client
from edgefleet_server.dashboard.operations.catalog import Call, Operations
from edgefleet_server.dashboard.operations.internal_client import Answer
from edgefleet_server.dashboard.operations.reversal import BEFORE, GONE, Done, Undo, sealed, standing, undo_of

SHOWN_ONCE: Final = frozenset(
    {
        "create_token",
        "create_own_token",
        "create_login_link",
        "create_invitation",
        "create_enrollments",
        "create_webhook",
        "rotate_webhook",
        "create_alert_receiver",
    }
)
ANSWER_PAGES: Final[Mapping[str, str]] = {"create_enrollments": "enrolment/tokens.html"}
"""Operations whose answer has a page of its own."""
_MAX_SAID: Final = 300
_NOTHING_THERE: Final = 404
_CHANGED: Final = 412
_CHANGED_SINCE: Final = {
    "detail": "it was changed since then, or is undone already: nothing was undone now",
    "next": "look at it as it is now, and change it there",
    "code": "request.precondition_failed",
}
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]{1,40})\}")
Action = Annotated[Form, Depends(action_of)]


class RefusedError(EdgefleetError):
    """The API refused what a form asked for. `problem_code`: the API's own code; `status`: its HTTP status.

    back: the page with the form as it was filled in, "" where the form names none.
    """

    code = "form.refused"

    def __init__(self, problem: Mapping[str, Any], status: int, back: str = "") -> None:
        """Take over a problem document."""
        detail = str(problem.get("detail") or "the server could not do this")
        wrong = "; ".join(_fault(one) for one in problem.get("errors") or ())
        super().__init__(f"{detail} ({wrong})" if wrong else detail, next_step=str(problem.get("next") or "try again"))
        self.problem_code = str(problem.get("code") or "internal")
        self.status = status
        self.back = back


class UnconfirmedError(EdgefleetError):
    """The word that confirms an action was not typed."""

    code = "form.unconfirmed"


def add_action_route(router: APIRouter, shell: Shell) -> None:
    """Add the one route that changes something, but for signing in and out."""

    @router.post("/do/{operation_id}", operation_id="do_operation")
    async def do_operation(request: Request, operation_id: str, form: Action) -> Response:
        """Call an operation and go on."""
        session = shell.gate.session_of(request)
        if session is None:
            return to_login(request)
        check_origin(request)
        check_key(session, form)
        operation = shell.operations(request).get(operation_id)
        if not operation.is_changing:
            raise EdgefleetError(f"{operation_id} only reads", next_step="open the page that shows it")
        _check_word(form)
        if form["picks"] and not form[form["picks"]]:
            raise NothingSelectedError(own_page(form["next"]))
        call = replace(shell.operations(request).call(operation_id, form.fields), if_match=form["if_match"])
        before = await _seen(request, session.principal, shell.operations(request), operation_id, form)
        if form["standing"] and before is not None and form["standing"] != _standing(operation_id, before):
            raise RefusedError(_CHANGED_SINCE, _CHANGED, own_page(form["next"]))
        answer = await internal_client.ask(request.app, request.scope, session.principal, call)
        if answer.status == _CHANGED and call.if_match:
            raise RefusedError(_CHANGED_SINCE, _CHANGED, own_page(form["next"]))
        if not answer.is_ok:
            raise RefusedError(answer.value or {}, answer.status, own_page(form["back"]) if form["back"] else "")
        if operation_id in SHOWN_ONCE or form["show"]:
            values = {"operation": operation, "answer": answer.value, "next": own_page(form["next"])}
            template = ANSWER_PAGES.get(operation_id, "answer.html")
            return shell.page(request, session, template, tab=form["tab"], **values)
        sentence = outcome(operation_id, answer.value) or form["said"] or f"Done: {operation.summary or operation_id}"
        undo = offer_of(Done(operation_id, _path_of(form), _body_of(call), answer=_mapping(answer.value)), before)
        if undo is not None and before is not None:  # the button may stand on a page for long
            now = await _seen(request, session.principal, shell.operations(request), operation_id, form)
            undo = _unless_changed(undo, now)
        text, secure = sealed(sentence[:_MAX_SAID], undo, session.form_key), shell.gate.is_secure(request)
        return said(_onward(form["next"], answer.value), text, secure=secure)


def _fault(one: Mapping[str, Any]) -> str:
    place = one.get("where") or ""
    what = one.get("message") or ""
    return f"{place}: {what}" if place else str(what)


def _check_word(form: Form) -> None:
    """Raise UnconfirmedError unless the word that the form asks for was typed."""
    if form["confirm"].strip() != form["confirm_word"]:
        raise UnconfirmedError(
            f"nothing was done: the confirmation is {form['confirm_word']!r}, not {form['confirm'][:80]!r}",
            next_step="go back and type it to confirm",
        )


async def _seen(
    request: Request, caller: Principal, operations: Operations, operation_id: str, form: Form
) -> Answer | None:
    """Return what is there of that which an operation changes, for those that can be undone by it; None for others."""
    reads = BEFORE.get(operation_id)
    if reads is None:
        return None
    path = {name: values for name, values in form.fields.items() if name.startswith("path.")}
    return await internal_client.ask(request.app, request.scope, caller, operations.call(reads, path))


def offer_of(done: Done, before: Answer | None) -> Undo | None:
    """Return what undoes it; nothing where nobody knows what was there: that it could not be read does not say that there was nothing."""
    if before is None or before.status == _NOTHING_THERE:
        return undo_of(done)
    return undo_of(replace(done, before=_mapping(before.value))) if before.is_ok else None


def _unless_changed(undo: Undo, now: Answer | None) -> Undo:
    """Return what undoes it only while nobody changed it again, or made it again. now: what is there after it was done."""
    if now is None or not (now.is_ok or now.status == _NOTHING_THERE):
        return undo
    known = {"if_match": now.headers.get("etag", ""), "standing": _standing(undo.operation, now)}
    return Undo(undo.operation, {**undo.fields, **{name: text for name, text in known.items() if text}})


def _standing(operation_id: str, seen: Answer) -> str:
    return GONE if seen.status == _NOTHING_THERE else standing(operation_id, _mapping(seen.value))


def _path_of(form: Form) -> dict[str, str]:
    return {name.removeprefix("path."): form[name] for name in form.fields if name.startswith("path.")}


def _body_of(call: Call) -> Mapping[str, Any]:
    return _mapping(json.loads(call.body)) if call.body else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def said(path: str, text: str, *, secure: bool) -> Response:
    """Return a redirect to a page that shows a sealed sentence once, with the button that undoes what was done."""
    answer = redirect(path)
    answer.set_cookie(SAID_COOKIE, text, max_age=30, httponly=True, samesite="strict", secure=secure, path="/")
    return answer


def _onward(wanted: str, value: Any) -> str:
    """Return the page to go to, with fields of the answer filled in."""
    known = value if isinstance(value, dict) else {}
    return own_page(_PLACEHOLDER.sub(lambda match: str(known.get(match[1], "")), wanted or "/"))
