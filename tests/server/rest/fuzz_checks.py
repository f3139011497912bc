"""Hooks and checks of ours for schemathesis.

What keeps the schema is not refused by the schema, lists that are cut have what was asked for, and nothing revokes the token in use.
"""

import os
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import response_schema_conformance, use_after_free

from tests.server.rest.fuzzing import OTHER_TOKEN, OWN_TOKEN


@schemathesis.hook
def before_call(_ctx: schemathesis.HookContext, case: schemathesis.Case[Any], **_kwargs: Any) -> None:
    """Let nothing revoke the token that everything is asked with: what would, revokes the other one."""
    is_revoking = case.method.upper() == "DELETE" and case.path.endswith("/tokens/{token_id}")
    if is_revoking and str((case.path_parameters or {}).get("token_id")) == os.environ[OWN_TOKEN]:
        case.path_parameters = {**case.path_parameters, "token_id": os.environ[OTHER_TOKEN]}


@schemathesis.check
def kept_schema_is_not_refused_by_it(
    _ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Fail for 422 `request.invalid` on a request that was made to keep the schema."""
    is_positive = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    if is_positive and response.status_code == 422 and case.method.upper() != "HEAD":  # which has no body to tell why
        problem = response.json()
        assert problem["code"] != "request.invalid", f"the schema allows what the API refuses: {problem['detail']}"


@schemathesis.check
def answers_keep_their_schema(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Fail for an answer that its schema does not describe; the items of a cut list need only be cut as asked (`fields`).

    Stands for the check of schemathesis, which knows nothing of cutting.
    """
    asked = str((case.query or {}).get("fields", ""))
    fields = {one.strip() for one in asked.split(",")} - {""}
    if not fields or response.status_code != 200:
        found: bool | None = response_schema_conformance(ctx, response, case)
        return found
    for item in response.json()["items"]:
        assert set(item) <= fields, f"asked for {sorted(fields)}, got {sorted(item)}"
    return None


@schemathesis.check
def what_is_deleted_is_gone(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Fail for an answer about what was deleted before, unless that was a dry run, or revoked or ended and is kept to be seen.

    Stands for the check of schemathesis, which knows neither.
    """
    for one in ctx.internals.find_related(case_id=case.id):
        is_dry = str((one.query or {}).get("dry_run", "")).lower() == "true"
        if one.method.upper() == "DELETE" and (
            is_dry or one.operation.definition.raw["operationId"].startswith(("revoke_", "end_"))
        ):
            return None
    found: bool | None = use_after_free(ctx, response, case)
    return found
