"""Checks of ours for schemathesis: what keeps the schema is not refused by the schema, and lists that are cut have what was asked for."""

from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import response_schema_conformance


@schemathesis.check
def kept_schema_is_not_refused_by_it(
    _ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Fail for 422 `request.invalid` on a request that was made to keep the schema."""
    is_positive = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    if is_positive and response.status_code == 422:
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
