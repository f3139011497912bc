"""Routes of keys and certificates. They only translate."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Response

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import rest_of
from edgefleet_server.signing.errors import RoleUnknownError
from edgefleet_server.signing.keys.rotation import KeyOrder, KeysRotated
from edgefleet_server.signing.schemas import RevokeKeyIn, RotateKeyIn, TrustOut
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import BrokerTrust, RoleView
from edgefleet_server.web.pagination import ByName, ListOf
from edgefleet_server.web.preconditions import DryRun, acting
from edgefleet_server.web.sparse_fields import ListRoute

_METADATA: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "a signed TUF file", "content": {"application/json": {"schema": {"type": "object"}}}}
}


def build_router(signing: SigningService, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["signing"], route_class=ListRoute)

    @router.get("/keys", operation_id="list_keys")
    def list_keys(page: ByName, _caller: Viewer) -> ListOf[RoleView]:
        """List the roles of the trust repository by name: which keys may sign each, and until when it is valid."""
        roles = sorted(signing.roles(), key=lambda one: one.name)
        return ListOf.cut(rest_of(roles, page, lambda one: one.name), page, len(roles), lambda one: one.name)

    @router.get("/keys/{role}", operation_id="get_key")
    def get_key(role: str, _caller: Viewer) -> RoleView:
        """Return one role of the trust repository."""
        return signing.role(role)

    @router.post("/keys/{role}:rotate", operation_id="rotate_key")
    def rotate_key(role: str, wanted: RotateKeyIn, dry_run: DryRun, _caller: Admin) -> KeysRotated:
        """Let a role be signed by a new key from now on, and no longer by those it has. Devices follow with their next metadata."""
        with acting(db, dry_run=dry_run):
            done = signing.keys.rotate(role, _order(wanted))
        signing.note_keys()
        return done

    @router.post("/keys/{role}:revoke", operation_id="revoke_key")
    def revoke_key(role: str, wanted: RevokeKeyIn, dry_run: DryRun, _caller: Admin) -> KeysRotated:
        """Replace the keys of a role because they may be stolen: nothing is signed with them again, and their files are deleted."""
        with acting(db, dry_run=dry_run):
            done, finish = signing.keys.revoke(role, _order(wanted), wanted.keyid, dry_run=dry_run)
        if not dry_run:
            finish()
        signing.note_keys()
        return done

    @router.get("/trust", operation_id="get_trust")
    def get_trust(_caller: Viewer) -> TrustOut:
        """Return the CA of the devices, its certificates, the digest of the first root, and whether the root key lies on this server."""
        found = signing.trust()
        return TrustOut(found.authority, found.certificates, found.is_root_here, found.first_root_sha256)

    @router.get(
        "/trust/metadata/{file}", operation_id="get_metadata_file", response_class=Response, responses=_METADATA
    )
    def get_metadata_file(file: str, _caller: Viewer) -> Response:
        """Return a TUF file by the name that clients ask for, exactly as it was signed: `timestamp.json`, `7.snapshot.json`."""
        data = signing.metadata_file(file)
        if data is None:
            raise RoleUnknownError(f"there is no TUF file {file[:80]!r}")
        return Response(data, media_type="application/json")

    _add_broker_route(router, signing)
    return router


def _add_broker_route(router: APIRouter, signing: SigningService) -> None:
    @router.get(
        "/trust/broker",
        operation_id="get_broker_trust",
        response_model=BrokerTrust,
        responses={304: {"description": "nothing has changed since the ETag in If-None-Match"}},
    )
    def get_broker_trust(
        response: Response,
        _caller: Viewer,
        known: Annotated[str, Header(alias="If-None-Match", max_length=200, description="ETag of what is known.")] = "",
    ) -> BrokerTrust | Response:
        """Return the CAs and the list of revoked certificates that a broker goes by which no server runs; new once a day at least."""
        tag, found = signing.broker_trust.read(known.removeprefix("W/").strip('"'))
        tagged = {"etag": f'W/"{tag}"', "cache-control": "no-cache"}
        if found is None:
            return Response(status_code=304, headers=tagged)
        response.headers.update(tagged)
        return found


def _order(wanted: RotateKeyIn) -> KeyOrder:
    return KeyOrder(wanted.algorithm, wanted.uri, wanted.public_key)
