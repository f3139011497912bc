"""The device listener: always HTTPS with the server's own CA, on its own port.

Routes under `/device/v1`: `ca` (the CA certificate, so that a device can check it against its claim token before it says
anything), `enroll` (claim token), and with a device token (`fleet/enrolment/device_token.py`): `renew`, `tuf/{file}`, `blobs/{sha256}`
(Range), `desired`, `tasks/{id}/result`. TUF files are signed and public within the fleet, yet they need a token too: nobody
else has business here. Under `/agent/`, for machines that are no devices yet: the agent's packages and what installs them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, cast

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from edgefleet_protocol.digest import parse_sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.fleet.desired.reader import DesiredReader
from edgefleet_server.fleet.desired.tasks import MAX_RESULT_BYTES, TaskBook
from edgefleet_server.fleet.enrolment.agent_installer import SCRIPT, AgentInstaller
from edgefleet_server.fleet.enrolment.model import DeviceIdentity, DeviceKeys, Enrolment
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError
from edgefleet_server.fleet.enrolment.schemas import EnrollIn, RenewIn
from edgefleet_server.fleet.enrolment.service import EnrolmentService
from edgefleet_server.fleet.errors import BadDeviceTokenError, TaskResultTooLargeError
from edgefleet_server.registry.routes import blob_response
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.service import SigningService
from edgefleet_server.web import problems
from edgefleet_server.web.body_limit import DEVICE_BODY_BYTES, BodyLimit
from edgefleet_server.web.guarded_route import GuardedRoute
from edgefleet_server.web.security_headers import GuardedApp

PREFIX = "/device/v1"
DeviceOf = Callable[[Request], DeviceIdentity]


class NoSuchFileError(EdgefleetError):
    """The repository has no such metadata file."""

    code = "tuf.file_not_found"


class BlobForbiddenError(EdgefleetError):
    """The device's desired document does not name this blob."""

    code = "blob.forbidden"


class NoDesiredError(EdgefleetError):
    """The device has no desired document."""

    code = "desired.not_found"


def create_device_app(fleet: Fleet, signing: SigningService, registry: RegistryService) -> FastAPI:
    """Return the app of the device listener."""
    app = GuardedApp(title="edgefleet device API", docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    # a result is read up to its own limit, by a device that has shown who it is
    app.add_middleware(BodyLimit, limit_bytes=DEVICE_BODY_BYTES, unlimited=[("PUT", f"{PREFIX}/tasks/")])

    def device_of(request: Request) -> DeviceIdentity:
        known: DeviceIdentity | None = getattr(request.state, "device", None)
        if known is not None:  # a token works once
            return known
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise BadDeviceTokenError(
                "this request carries no device token", next_step="send `Authorization: Bearer` and an ES256 JWT"
            )
        path = request.url.path
        kind = {"renews": path == f"{PREFIX}/renew", "reads": path.startswith(f"{PREFIX}/tuf/")}
        request.state.device = fleet.authenticator.authenticate(token.strip(), **kind)
        return cast("DeviceIdentity", request.state.device)

    def guard(request: Request) -> None:
        if request.url.path not in {
            f"{PREFIX}/enroll",
            f"{PREFIX}/healthz",
        }:  # a token in the body; load balancers have none
            device_of(request)

    app.router.route_class = GuardedRoute
    app.state.guard = guard

    _add_identity_routes(app, fleet.enrolment, signing, device_of)
    _add_content_routes(app, fleet.documents, signing, registry, device_of)
    _add_task_routes(app, fleet.tasks, device_of)
    _add_agent_routes(app, fleet.installer)
    return app


def _add_identity_routes(
    app: FastAPI, enrolment: EnrolmentService, signing: SigningService, device_of: DeviceOf
) -> None:
    device = Depends(device_of)

    @app.get(f"{PREFIX}/ca")
    def get_ca() -> Response:
        """Return the device CA's certificate, PEM."""
        return Response(signing.ca_pem(), media_type="application/x-pem-file")

    @app.get(f"{PREFIX}/healthz")
    def get_health(request: Request) -> Response:
        """Say that the listener is there, 503 once the server is about to stop. Needs no token and says nothing else."""
        is_leaving = getattr(request.app.state, "is_leaving", False)
        return JSONResponse({"status": "stopping" if is_leaving else "ok"}, 503 if is_leaving else 200)

    @app.post(f"{PREFIX}/enroll", response_model=Enrolment)
    def enroll(wanted: EnrollIn, request: Request) -> Enrolment | Response:
        """Turn a claim token and a CSR into a device; 202 as long as an operator has to approve it."""
        asked = wanted.token, wanted.csr.encode(), wanted.facts
        try:
            address = request.client.host if request.client is not None else ""
            made = enrolment.enroll(*asked, is_waiting=wanted.waiting, address=address)
        except ApprovalPendingError as error:
            body = {"state": "pending", **jsonable_encoder(error.waiting)}
            return JSONResponse(body, 202, headers={"retry-after": str(error.waiting.retry_s)})
        return replace(made, nonce=wanted.nonce)

    @app.post(f"{PREFIX}/renew")
    def renew(wanted: RenewIn, caller: Annotated[DeviceIdentity, device]) -> Enrolment:
        """Give the device a certificate for a new key; the old one works until the new one was used."""
        keys = DeviceKeys(wanted.model_key, wanted.key_storage)
        return replace(enrolment.renew(caller, wanted.csr.encode(), keys, wanted.place), nonce=wanted.nonce)


def _add_content_routes(
    app: FastAPI, documents: DesiredReader, signing: SigningService, registry: RegistryService, device_of: DeviceOf
) -> None:
    device = Depends(device_of)

    @app.get(f"{PREFIX}/tuf/{{file}}")
    def get_tuf_file(file: str, _caller: Annotated[DeviceIdentity, device]) -> Response:
        """Return one TUF metadata file."""
        data = signing.metadata_file(file)
        if data is None:
            raise NoSuchFileError(f"there is no metadata file {file[:80]!r}")
        return Response(data, media_type="application/json")

    @app.get(f"{PREFIX}/blobs/{{sha256}}")
    def get_blob(
        sha256: str,
        caller: Annotated[DeviceIdentity, device],
        wanted_range: Annotated[str | None, Header(alias="range")] = None,
    ) -> Response:
        """Return a blob that the device's document names, or a part of it."""
        digest = parse_sha256(sha256)
        if all(blob.sha256 != digest for blob in documents.offered_to(caller.id)):
            raise BlobForbiddenError(
                "the desired document of this device does not name this blob",
                next_step="fetch only blobs that the newest desired document names",
            )
        return blob_response(registry, digest, wanted_range)

    @app.get(f"{PREFIX}/desired")
    def get_desired(caller: Annotated[DeviceIdentity, device]) -> Response:
        """Return the device's signed desired document."""
        document = documents.of_device(caller.id)
        if document is None:
            raise NoDesiredError("this device has no desired document")
        return Response(document.envelope, media_type="application/json")


def _add_task_routes(app: FastAPI, tasks: TaskBook, device_of: DeviceOf) -> None:
    device = Depends(device_of)

    @app.put(f"{PREFIX}/tasks/{{task_id}}/result", status_code=204, response_class=Response)
    def put_result(
        task_id: str, caller: Annotated[DeviceIdentity, device], data: Annotated[bytes, Depends(_bounded_body)]
    ) -> Response:
        """Take what the device has to say to one of its tasks; that ends the task."""
        tasks.take_result(caller.id, task_id, data)
        return Response(status_code=204)


def _add_agent_routes(app: FastAPI, installer: AgentInstaller) -> None:
    headers = {"cache-control": "no-cache"}

    @app.get("/agent/")
    def get_agent_page() -> Response:
        """Say what there is, for people."""
        return Response(installer.page(), media_type="text/plain", headers=headers)

    @app.get(f"/agent/{SCRIPT}")
    def get_agent_script() -> Response:
        """Return the installer."""
        return Response(installer.script(), media_type="text/x-shellscript", headers=headers)

    @app.get("/agent/{name}")
    def get_agent_package(name: str, known: Annotated[str, Header(alias="if-none-match")] = "") -> Response:
        """Return a package; 304 for who has it."""
        package = installer.package(name)
        tagged = {**headers, "etag": f'"{package.sha256}"'}
        if known == tagged["etag"]:
            return Response(status_code=304, headers=tagged)
        return Response(installer.data(package), media_type="application/octet-stream", headers=tagged)


async def _bounded_body(request: Request) -> bytes:
    """Return the body. Raises TaskResultTooLargeError before more than MAX_RESULT_BYTES are held."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_RESULT_BYTES:
            raise TaskResultTooLargeError(f"the result is larger than {MAX_RESULT_BYTES} bytes", next_step="send less")
    return bytes(body)
