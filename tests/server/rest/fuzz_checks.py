"""A check of ours for schemathesis: what keeps the schema is not refused by the schema, whatever else may be wrong with it."""

from typing import Any

import schemathesis


@schemathesis.check
def kept_schema_is_not_refused_by_it(
    _ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Fail for 422 `request.invalid` on a request that was made to keep the schema."""
    is_positive = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    if is_positive and response.status_code == 422:
        problem = response.json()
        assert problem["code"] != "request.invalid", f"the schema allows what the API refuses: {problem['detail']}"
