"""Routes of release policies. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.governance.release_policies.model import EndingPolicy, PolicyCheck, ReleasePolicy
from edgefleet_server.governance.release_policies.schemas import ApprovePolicyIn, ReleasePolicyIn
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
        """Set a policy from its file. What weakens one waits 24 hours, or for a second person: it is the policy's `change` then."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(policies.policy(name)))
            made, is_new = policies.set(name, wanted.models, wanted.require, wanted.since, caller)
        response.status_code = 201 if is_new else 200
        put_tag(response, _tag(made))
        return made

    @router.post("/release-policies/{name}:end", operation_id="end_release_policy")
    def end_release_policy(name: str, dry_run: DryRun, caller: Admin) -> EndingPolicy:
        """Ask for the end of a policy: it holds for 24 hours more, or until a second person approves that."""
        with acting(db, dry_run=dry_run):
            return EndingPolicy(policies.end(name, caller))

    @router.post("/release-policies/{name}:keep", operation_id="keep_release_policy")
    def keep_release_policy(name: str, dry_run: DryRun, _caller: Admin) -> ReleasePolicy:
        """Take back what would weaken a policy, or end it."""
        with acting(db, dry_run=dry_run):
            return policies.keep(name)

    @router.post("/release-policies/{name}:approve", operation_id="approve_release_policy")
    def approve_release_policy(name: str, body: ApprovePolicyIn, dry_run: DryRun, caller: Admin) -> EndingPolicy:
        """Let what weakens a policy begin now; by a person who did not ask for it, and has seen this very change."""
        with acting(db, dry_run=dry_run):
            return EndingPolicy(policies.approve(name, body.asked_at, caller))

    @router.get("/releases/{ref}/policy-check", operation_id="check_release_policies")
    def check_release_policies(ref: str, _caller: Viewer) -> PolicyCheck:
        """Say whether a release has what policies require, and else what it lacks and how to mend that."""
        return policies.check(registry.resolve(ref))

    return router


def _tag(one: ReleasePolicy) -> str:
    return tag_of(one.name, one.changed_at.isoformat(), one.change.asked_at.isoformat() if one.change else "")
