"""Pages of models, versions, bundles, keys and profiles."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.drift.reference import MEMBER
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.run_schedule import SCHEDULE_MEMBER
from edgefleet_server.access.model import Role
from edgefleet_server.conversion.reports import page_of, report_of
from edgefleet_server.conversion.routes import PAGE_HEADERS, Attempt
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.dashboard.models.model_views import ModelViews
from edgefleet_server.dashboard.registry.drift_pages import add_drift_pages
from edgefleet_server.dashboard.registry.profile_views import profile_lines, profile_page
from edgefleet_server.dashboard.registry.views import PAGE_ROWS, RegistryViews
from edgefleet_server.dashboard.timelines.time_range import AskedQuery
from edgefleet_server.db.keyset import PageRequest, decode_cursor
from edgefleet_server.fleet.desired.capture_key import CaptureKeyBook
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.fleet.reported.metadata_recovery import MetadataRecovery
from edgefleet_server.governance.release_policies.service import PolicyBook
from edgefleet_server.registry.model import ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.predictions.service import PredictionLogs
from edgefleet_server.telemetry.timelines.model import LinesBy

SOON: Final = timedelta(days=30)
CONTENTS: Final = {
    "golden.npz": "inputs and expected answers that a device must reproduce before it switches",
    MEMBER: "reference data for detecting drift",
    "labels.txt": "class names",
    "preprocess.json": "how an input becomes a tensor",
    "postprocess.json": "how the output becomes an answer",
    "privacy.json": "which parts of an input may be captured",
    SCHEDULE_MEMBER: "when devices run the model on a batch",
}
Cursor = Annotated[str | None, Query(max_length=256)]
Version = Annotated[str, Query(max_length=63)]
ByQuery = Annotated[LinesBy | None, Query()]


@dataclass(frozen=True, slots=True)
class KeySources:
    """What the page of keys and bundles shows."""

    registry: RegistryService
    signing: SigningService
    capture_key: CaptureKeyBook
    recovery: MetadataRecovery
    predictions: PredictionLogs
    clock: Clock


def add_pages(  # noqa: PLR0913, PLR0917  # the services of an area
    router: APIRouter,
    shell: Shell,
    views: RegistryViews,
    keys: KeySources,
    costs: CostService,
    drift: DriftService,
    devices: FleetReader,
    models: ModelViews,
    policies: PolicyBook,
) -> None:
    """Add the pages."""
    add_drift_pages(router, shell, drift, keys.clock)
    _add_model_pages(router, shell, views, keys.predictions, models)
    _add_release_pages(router, shell, views, policies)
    _add_report(router, shell, keys.registry)
    _add_bundle_pages(router, shell, keys, views)
    _add_profile_pages(router, shell, keys.registry, costs, devices)


def _add_model_pages(
    router: APIRouter, shell: Shell, views: RegistryViews, predictions: PredictionLogs, models: ModelViews
) -> None:
    @router.get("/models", operation_id="show_models")
    def show_models(request: Request, cursor: Cursor = None) -> Response:
        """Show models: what is live, on how many devices, how fast, and the newest version."""

        def build() -> dict[str, Any]:
            page = views.models(_after(cursor))
            withdrawn = [
                one for one in page.lines if any(f"{one.model.name}@{v}" in page.withdrawn for v, _ in one.running)
            ]
            return {
                "page": page,
                "is_first": cursor is None,
                "latencies": models.latencies(),
                "withdrawn": len(withdrawn),
                "failed": sum(one.failed is not None and one.devices > 0 for one in page.lines),
            }

        return shell.shown(request, "registry/models.html", build, tab="models")

    @router.get("/models/{name}", operation_id="show_model")
    def show_model(
        request: Request,
        name: str,
        asked: AskedQuery,
        cursor: Cursor = None,
        by: ByQuery = None,
    ) -> Response:
        """Show one model: what is live and where, a line a version over time, versions, and where the newest comes from."""

        def build() -> dict[str, Any]:
            shown = models.overview(name, _after(cursor), asked, by)
            usable = [str(one.release.ref) for one in shown.page.versions if _goes_out(one.release)]
            return {
                "shown": shown,
                "page": shown.page,
                "is_first": cursor is None,
                "newest_ref": usable[0] if usable else "",
                "log": predictions.find(name),
                "has_aliases": any(one.id == "set_alias" for one in shell.operations(request)),
                "timeline": replace(shown.timeline, charts=shown.charts.others),
            }

        return shell.shown(request, "registry/model.html", build, tab="models")


def _add_release_pages(router: APIRouter, shell: Shell, views: RegistryViews, policies: PolicyBook) -> None:
    @router.get("/models/{name}/compare", operation_id="show_model_comparison")
    def show_comparison(request: Request, name: str, a: Version = "", b: Version = "") -> Response:
        """Show two versions side by side, profile by profile; what runs and the newest unless others are chosen."""

        def build() -> dict[str, Any]:
            before, after = (a, b) if a or b else views.pair_of(name)
            return {"page": views.compare(name, before, after), "a_version": before, "b_version": after}

        return shell.shown(request, "registry/compare.html", build, tab="models")

    @router.get("/models/{name}/{version}", operation_id="show_release")
    def show_release(request: Request, name: str, version: str) -> Response:
        """Show one version: its card, bundles, refusals, progress, where it runs."""

        def build() -> dict[str, Any]:
            page = views.release(name, version)
            release = page.line.release
            return {
                "page": page,
                "judged": policies.check(release.ref),
                "newest_ref": str(release.ref) if _goes_out(release) else "",
            }

        return shell.shown(request, "registry/release.html", build, tab="models")


def _add_report(router: APIRouter, shell: Shell, registry: RegistryService) -> None:
    @router.get("/models/{name}/{version}/report", operation_id="show_release_report")
    def show_report(request: Request, name: str, version: str, attempt: Attempt = None) -> Response:
        """Show the conversion report, as the API gives it: a page of its own with a policy of its own."""
        session = shell.gate.session_of(request)
        if session is None or not session.principal.may(Role.VIEWER):
            return to_login(request)
        report = report_of(registry, ReleaseRef.parse(f"{name}@{version}"), attempt)
        return HTMLResponse(page_of(report), headers=PAGE_HEADERS)


def _add_bundle_pages(router: APIRouter, shell: Shell, keys: KeySources, views: RegistryViews) -> None:
    @router.get("/bundles", operation_id="show_bundles")
    def show_bundles(request: Request, cursor: Cursor = None) -> Response:
        """Show what a restored server lacks, keys and roles, certificates, the capture key and the signed bundles."""

        def build() -> dict[str, Any]:
            return {
                "recovery": keys.recovery.view(),
                "trust": keys.signing.trust(),
                "waiting": keys.signing.ceremony.waiting(),
                "team_requests": [one for one in keys.signing.teams.requests() if one.ended_at is None],
                "soon": keys.clock.now() + SOON,
                "capture_key": keys.capture_key.key(),
                "bundles": keys.registry.bundles(PageRequest(PAGE_ROWS, _after(cursor))),
                "is_first": cursor is None,
            }

        return shell.shown(request, "registry/bundles.html", build, tab="bundles")

    @router.get("/bundles/requests/{request_id}", operation_id="show_signing_request")
    def show_signing_request(request: Request, request_id: str) -> Response:
        """Give the file of a request for signatures, to be carried to the holders."""
        session = shell.gate.session_of(request)
        if session is None or not session.principal.may(Role.VIEWER):
            return to_login(request)
        found = keys.signing.ceremony.request(request_id)
        headers = {"content-disposition": f'attachment; filename="edgefleet-request-{found.id}.json"'}
        return Response(found.document, media_type="application/json", headers=headers)

    @router.get("/bundles/{sha256}", operation_id="show_bundle")
    def show_bundle(request: Request, sha256: str) -> Response:
        """Show one bundle from the inside, and how it is signed."""
        return shell.shown(
            request,
            "registry/bundle.html",
            lambda: {"page": views.bundle(sha256), "contents": CONTENTS},
            tab="bundles",
        )


def _add_profile_pages(
    router: APIRouter, shell: Shell, registry: RegistryService, costs: CostService, devices: FleetReader
) -> None:
    @router.get("/profiles", operation_id="show_profiles")
    def show_profiles(request: Request) -> Response:
        """Show the hardware profiles, those that devices have first."""
        return shell.shown(
            request,
            "registry/profiles.html",
            lambda: {"lines": profile_lines(registry, costs, devices)},
            tab="profiles",
        )

    @router.get("/profiles/{name}", operation_id="show_profile")
    def show_profile(request: Request, name: str) -> Response:
        """Show one profile: facts with their evidence, devices, what predictions rest on."""
        return shell.shown(
            request,
            "registry/profile.html",
            lambda: {"page": profile_page(registry, costs, devices, name)},
            tab="profiles",
        )


def _goes_out(release: ReleaseView) -> bool:
    """Return whether a release can be deployed."""
    return bool(release.bundles) and release.withdrawn is None


def _after(cursor: str | None) -> str | None:
    return None if cursor is None else decode_cursor(cursor)
