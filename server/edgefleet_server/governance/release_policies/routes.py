"""Routes of release policies. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.governance.release_policies.model import PolicyCheck, ReleasePolicy
from edgefleet_server.governance.release_policies.schemas import ReleasePolicyIn
from edgefleet_server.governance.release_policies.service import PolicyBook
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_policy_router(policies: PolicyBook, registry: RegistryService, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["governance"], route_class=ListRoute)

    @router.get("/release-policies", operation_id="list_release_policies")
    def list_release_policies(_caller: Viewer) -> ListOf[ReleasePolicy]:
        """List what releases have to have before they may be deployed, by name of the policy."""
        return ListOf.whole(policies.policies())

    @router.get("/release-policies/{name}", operation_id="get_release_policy")
    def get_release_policy(name: str, response: Response, _caller: Viewer) -> ReleasePolicy:
        """Return one policy."""
        found = policies.policy(name)
        put_tag(response, _tag(found))
        return found

    @router.put(
        "/release-policies/{name}",
        operation_id="set_release_policy",
        responses={201: {"model": ReleasePolicy, "description": "it is new"}},
    )
    def set_release_policy(
        name: str, wanted: ReleasePolicyIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Admin
    ) -> ReleasePolicy:
        """Set a policy from its file: make it, or put this one in the place of the one before."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(policies.policy(name)))
            made, is_new = policies.set(name, wanted.models, wanted.require, wanted.since, caller.name)
        response.status_code = 201 if is_new else 200
        put_tag(response, _tag(made))
        return made

    @router.delete(
        "/release-policies/{name}", operation_id="delete_release_policy", status_code=204, response_class=Response
    )
    def delete_release_policy(name: str, expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Remove a policy. What was refused by it may be deployed from then on."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(policies.policy(name)))
            policies.delete(name)
        return Response(status_code=204)

    @router.get("/releases/{ref}/policy-check", operation_id="check_release_policies")
    def check_release_policies(ref: str, _caller: Viewer) -> PolicyCheck:
        """Say whether a release has what policies require, and else what it lacks and how to mend that."""
        return policies.check(registry.resolve(ref))

    return router


def _tag(one: ReleasePolicy) -> str:
    return tag_of(one.name, one.changed_at.isoformat())
