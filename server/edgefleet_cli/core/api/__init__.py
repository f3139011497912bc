"""Answers of the API as frozen structs, one module a resource, all made from `openapi.json`. Import the module that a command reads."""

from edgefleet_cli.core.imports import without

with without("typing_extensions"):  # `typing` has all that the structs need; the other costs a third of loading msgspec
    import msgspec  # noqa: F401
