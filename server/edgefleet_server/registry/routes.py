"""Routes of the registry: blobs, releases, models, profiles. They only translate."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from edgefleet_profiles.profile import profile_to_dict
from edgefleet_protocol.digest import Sha256, parse_sha256
from edgefleet_protocol.ids import parse_model_name, parse_profile_name, parse_version
from edgefleet_server.access.dependency import Publisher, ScopedPublisher, Viewer
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.registry import rules
from edgefleet_server.registry.aliases import AliasBook
from edgefleet_server.registry.blobs import READ_BYTES
from edgefleet_server.registry.errors import BlobTooLargeError, unknown_blob
from edgefleet_server.registry.model import ReleaseView
from edgefleet_server.registry.schemas import (
    AliasIn,
    AliasOut,
    BlobOut,
    BundleInsideOut,
    BundleOut,
    ModelOut,
    ReleaseIn,
    ReleaseOut,
    ReleaseSourceOut,
)
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.service import SigningService
from edgefleet_server.web.pagination import ByName, ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

_BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the whole blob", "content": _BINARY},
    206: {"description": "the part that `Range` asked for", "content": _BINARY},
    416: {"description": "the range lies outside the blob"},
}
ReleasePage = Annotated[PageRequest, paged("-created_at", "created_at")]
BundlePage = Annotated[PageRequest, paged("-signed_at", "signed_at")]


def build_router(registry: RegistryService, signing: SigningService, db: Database) -> APIRouter:
    """Return the registry's routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["registry"], route_class=ListRoute)
    _add_blob_routes(router, registry)
    _add_release_routes(router, registry)
    _add_model_routes(router, registry)
    _add_bundle_routes(router, registry, signing)
    _add_alias_routes(router, registry.aliases, db)
    _add_profile_routes(router, registry)
    return router


def blob_response(registry: RegistryService, sha256: Sha256, range_header: str | None) -> Response:
    """Return a blob, or the part of it that a `Range` header asks for. Raises BlobUnknownError, BadRangeError."""
    size = registry.blob_size(sha256)
    if size is None:
        raise unknown_blob(sha256)
    part = rules.parse_range(range_header, size)
    start, length = part or (0, size)
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(length),
        "etag": f'"{sha256}"',
        "cache-control": "private, max-age=31536000, immutable",
    }
    if part is not None:
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{size}"

    def body() -> Iterator[bytes]:
        yield from registry.blob_chunks(sha256, start, length)

    return StreamingResponse(
        body(), status_code=206 if part else 200, headers=headers, media_type="application/octet-stream"
    )


def release_tag(release: ReleaseView) -> str:
    """Return the tag of what a deletion would remove."""
    bundles = ",".join(bundle.sha256 for bundle in release.bundles)
    return tag_of(str(release.ref), release.attempt, release.state, bundles, release.withdrawn is not None)


def _add_blob_routes(router: APIRouter, registry: RegistryService) -> None:
    @router.put(
        "/blobs/{sha256}",
        operation_id="put_blob",
        response_model=BlobOut,
        status_code=201,
        responses={200: {"model": BlobOut}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def put_blob(request: Request, sha256: str, _caller: Publisher) -> Response:
        """Store the body under its sha256. The digest is checked while the bytes come; a cut upload leaves nothing."""
        expected = parse_sha256(sha256)
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > registry.max_blob_bytes:
            raise BlobTooLargeError(
                f"the upload has {announced} bytes, this server accepts {registry.max_blob_bytes}",
                next_step="publish a smaller model, or raise `max_blob_bytes` in server.toml",
            )
        with await run_in_threadpool(registry.upload) as writer:
            pending = bytearray()
            async for chunk in request.stream():
                pending += chunk
                if len(pending) >= READ_BYTES:
                    await run_in_threadpool(writer.write, bytes(pending))
                    pending.clear()
            await run_in_threadpool(writer.write, bytes(pending))
            _, is_new = await run_in_threadpool(registry.finish_upload, writer, expected)
            return JSONResponse({"sha256": expected, "length": writer.length}, status_code=201 if is_new else 200)

    @router.head("/blobs/{sha256}", operation_id="head_blob", response_class=Response)
    def head_blob(sha256: str, _caller: Viewer) -> Response:
        """Say whether a blob is stored, and its length. It then lives on for some days, whether or not something names it."""
        digest = parse_sha256(sha256)
        registry.unnamed.keep(digest)
        size = registry.blob_size(digest)
        if size is None:
            raise unknown_blob(digest)
        return Response(headers={"content-length": str(size), "accept-ranges": "bytes", "etag": f'"{sha256}"'})

    @router.get("/blobs/{sha256}", operation_id="get_blob", response_class=StreamingResponse, responses=_BYTES)
    def get_blob(request: Request, sha256: str, _caller: Viewer) -> Response:
        """Return a blob's bytes; `Range` with one range is understood."""
        return blob_response(registry, parse_sha256(sha256), request.headers.get("range"))


def _add_release_routes(router: APIRouter, registry: RegistryService) -> None:
    @router.post(
        "/releases",
        operation_id="create_release",
        response_model=ReleaseOut,
        status_code=201,
        responses={200: {"model": ReleaseOut, "description": "exactly this was published before"}},
    )
    def create_release(wanted: ReleaseIn, response: Response, scoped: ScopedPublisher) -> ReleaseOut:
        """Publish a release: its conversions are queued, one job a profile; poll the release until it is not `converting`."""
        publication = wanted.to_publication()
        caller = scoped.on(Touched(frozenset({publication.ref.model}), None))
        view, is_new = registry.publish(publication, caller.name)
        response.status_code = 201 if is_new else 200
        response.headers["location"] = f"/api/v1/releases/{view.ref}"
        return ReleaseOut.of(view)

    @router.get("/releases", operation_id="list_releases")
    def list_releases(page: ReleasePage, _caller: Viewer, model: str | None = None) -> ListOf[ReleaseOut]:
        """List releases, newest first unless `sort` says otherwise."""
        return ListOf.of(registry.releases(page, None if model is None else parse_model_name(model)), ReleaseOut.of)

    @router.get("/releases/{ref}", operation_id="get_release")
    def get_release(ref: str, response: Response, _caller: Viewer) -> ReleaseOut:
        """Return one release, written `model@version` or `model@alias`."""
        found = registry.release(registry.resolve(ref))
        put_tag(response, release_tag(found))
        return ReleaseOut.of(found)

    @router.get("/releases/{ref}/source", operation_id="get_release_source")
    def get_release_source(ref: str, _caller: Publisher) -> ReleaseSourceOut:
        """Return what a release was made of: its files and data by digest, each a blob, and its options."""
        return ReleaseSourceOut.of(registry.source_of(registry.resolve(ref)))


def _add_model_routes(router: APIRouter, registry: RegistryService) -> None:
    @router.get("/models", operation_id="list_models")
    def list_models(page: ByName, _caller: Viewer) -> ListOf[ModelOut]:
        """List models by name, upwards unless `sort` says otherwise."""
        return ListOf.of(registry.models(page), ModelOut.of)

    @router.get("/models/{name}", operation_id="get_model")
    def get_model(name: str, _caller: Viewer) -> ModelOut:
        """Return one model."""
        return ModelOut.of(registry.model(parse_model_name(name)))


def _add_bundle_routes(router: APIRouter, registry: RegistryService, signing: SigningService) -> None:
    @router.get("/bundles", operation_id="list_bundles")
    def list_bundles(
        page: BundlePage, _caller: Viewer, model: str | None = None, profile: str | None = None
    ) -> ListOf[BundleOut]:
        """List the signed bundles, of a model or a profile when one is named, newest first unless `sort` says otherwise."""
        name = None if model is None else parse_model_name(model)
        wanted = None if profile is None else parse_profile_name(profile)
        return ListOf.of(registry.bundles(page, model=name, profile=wanted), BundleOut.of)

    @router.get("/bundles/{sha256}", operation_id="get_bundle")
    def get_bundle(sha256: str, _caller: Viewer) -> BundleInsideOut:
        """Return one signed bundle from the inside, and how it is signed."""
        bundle = registry.bundle(parse_sha256(sha256))
        manifest, trouble = registry.readable_manifest(bundle)
        return BundleInsideOut.with_contents(bundle, signing.target(bundle.target), manifest, trouble)


def _add_alias_routes(router: APIRouter, aliases: AliasBook, db: Database) -> None:
    @router.get("/models/{name}/aliases", operation_id="list_aliases")
    def list_aliases(name: str, _caller: Viewer) -> ListOf[AliasOut]:
        """List the aliases of a model by name: names of releases that move."""
        found = aliases.of(parse_model_name(name))
        return ListOf.whole([AliasOut.of(one) for one in found])

    @router.get("/models/{name}/aliases/{alias}", operation_id="get_alias")
    def get_alias(name: str, alias: str, response: Response, _caller: Viewer) -> AliasOut:
        """Return the release that an alias stands for."""
        found = aliases.get(parse_model_name(name), alias)
        put_tag(response, tag_of(found.model, found.alias, found.version))
        return AliasOut.of(found)

    @router.put(
        "/models/{name}/aliases/{alias}",
        operation_id="set_alias",
        responses={201: {"model": AliasOut, "description": "it is new"}},
    )
    def set_alias(
        name: str,
        alias: str,
        wanted: AliasIn,
        response: Response,
        expected: IfMatch,
        dry_run: DryRun,
        caller: Publisher,
    ) -> AliasOut:
        """Let an alias stand for a version, so that `model@alias` means it. What was rolled out does not follow."""
        model = parse_model_name(name)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _alias_tag(aliases, model, alias))
            found, is_new = aliases.set(model, alias, parse_version(wanted.version), caller.name)
        response.status_code = 201 if is_new else 200
        put_tag(response, tag_of(found.model, found.alias, found.version))
        return AliasOut.of(found)

    @router.delete(
        "/models/{name}/aliases/{alias}", operation_id="remove_alias", status_code=204, response_class=Response
    )
    def remove_alias(name: str, alias: str, expected: IfMatch, dry_run: DryRun, _caller: Publisher) -> Response:
        """Remove an alias; its release stays."""
        model = parse_model_name(name)
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _alias_tag(aliases, model, alias))
            aliases.remove(model, alias)
        return Response(status_code=204)


def _alias_tag(aliases: AliasBook, model: str, alias: str) -> str:
    found = aliases.get(model, alias, lock=True)
    return tag_of(found.model, found.alias, found.version)


def _add_profile_routes(router: APIRouter, registry: RegistryService) -> None:
    @router.get("/profiles", operation_id="list_profiles")
    def list_profiles(_caller: Viewer) -> ListOf[dict[str, Any]]:
        """List the hardware profiles that bundles can be built for."""
        return ListOf.whole([profile_to_dict(profile) for profile in registry.profiles()])

    @router.get("/profiles/{name}", operation_id="get_profile")
    def get_profile(name: str, _caller: Viewer) -> dict[str, Any]:
        """Return one hardware profile, as `edgectl publish --profile FILE` takes it."""
        return profile_to_dict(registry.profile(parse_profile_name(name)))
