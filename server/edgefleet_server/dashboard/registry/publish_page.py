"""Publishing from a browser: files go up by their digest, as `edgectl publish` sends them, and then the release is asked for.

The browser reads each file and its SHA-256 and sends it to `PUT /do/put_blob/{sha256}`, which passes the stream on to the API's own
upload; the form that follows calls `create_release`. Without JavaScript the page says how to do it on a terminal.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.forms import Form, check_key, check_origin
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.operations import internal_client
from edgefleet_server.dashboard.operations.catalog import Call
from edgefleet_server.registry.service import RegistryService

UPLOADS: Final = "/do/put_blob/"
FORM_KEY_HEADER: Final = "x-form-key"
DATA: Final = (
    ("calibration", "Calibration data, .npz", "allows int8 bundles"),
    ("eval", "Evaluation data, .npz", "measures the accuracy"),
    ("labels", "Labels, one class per line", ""),
    ("preprocess", "Preprocessing, .json", "how an image becomes a tensor"),
    ("postprocess", "Postprocessing, .json", ""),
    ("reference", "Reference data, .npz", "for detecting drift"),
    ("schedule", "Schedule, .json", "when devices run it on a batch"),
)


def add_pages(router: APIRouter, shell: Shell, registry: RegistryService) -> None:
    """Add the page and the upload behind it."""

    @router.get("/publish", operation_id="show_publish")
    def show_publish(request: Request, model: Annotated[str, Query(max_length=63)] = "") -> Response:
        """Show the form that publishes a model, or another version of one."""

        def build() -> dict[str, object]:
            profiles = [one.name for one in registry.profiles()]
            values = {"data": DATA, "profiles": profiles, "max_bytes": registry.max_blob_bytes, "model": model}
            return {**values, "is_still": True}

        return shell.shown(request, "registry/publish.html", build, tab="models", role=Role.PUBLISHER)

    @router.put(UPLOADS + "{sha256}", operation_id="do_put_blob")
    async def put_blob(request: Request, sha256: str) -> Response:
        """Pass one file of this browser on to the API; the answer is the API's."""
        session = shell.gate.session_of(request)
        if session is None:
            return JSONResponse({"detail": "you are no longer signed in", "next": "reload the page"}, 401)
        check_origin(request)
        check_key(session, Form({"form_key": [request.headers.get(FORM_KEY_HEADER, "")]}))
        path = f"/api/v1/blobs/{sha256}"
        call = Call("PUT", path, path, "", b"")
        answer = await internal_client.ask(request.app, request.scope, session.principal, call, request.receive)
        return JSONResponse(answer.value or {}, answer.status)
