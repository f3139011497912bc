"""Operator routes of deployment protection rules. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.protection.model import BreakGlass, ProtectionRule
from edgefleet_server.fleet.protection.schemas import BreakGlassIn, ProtectionRuleIn
from edgefleet_server.fleet.protection.service import ProtectionBook
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(protection: ProtectionBook, db: Database) -> APIRouter:
    """Return the routes of protection rules, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.post("/protection-rules", operation_id="create_protection_rule", status_code=201)
    def create_protection_rule(
        wanted: ProtectionRuleIn, response: Response, dry_run: DryRun, caller: Admin
    ) -> ProtectionRule:
        """Let devices that match take releases only by an approved rollout: those that match now, and all that ever will."""
        with acting(db, dry_run=dry_run):
            made = protection.add(wanted.name, wanted.selector, f"{caller.name} ({caller.id})")
        put_location(response, f"/protection-rules/{made.name}")
        put_tag(response, _tag(made))
        return made

    @router.get("/protection-rules", operation_id="list_protection_rules")
    def list_protection_rules(_caller: Viewer) -> ListOf[ProtectionRule]:
        """List the protection rules in force by name, and who has set them aside."""
        return ListOf.whole(protection.rules())

    @router.get("/protection-rules/{name}", operation_id="get_protection_rule")
    def get_protection_rule(name: str, response: Response, _caller: Viewer) -> ProtectionRule:
        """Return one protection rule."""
        found = protection.rule(name)
        put_tag(response, _tag(found))
        return found

    @router.post("/protection-rules/{name}:end", operation_id="end_protection_rule")
    def end_protection_rule(name: str, dry_run: DryRun, caller: Admin) -> ProtectionRule:
        """Ask to remove a protection rule: it stays in force for 24 hours more, and an alert fires until then."""
        with acting(db, dry_run=dry_run):
            return protection.end(name, f"{caller.name} ({caller.id})")

    @router.post("/protection-rules/{name}:keep", operation_id="keep_protection_rule")
    def keep_protection_rule(name: str, dry_run: DryRun, caller: Admin) -> ProtectionRule:
        """Keep a protection rule that was to be removed."""
        with acting(db, dry_run=dry_run):
            return protection.keep(name, f"{caller.name} ({caller.id})")

    @router.post("/protection-rules/{name}:break-glass", operation_id="break_glass", status_code=201)
    def break_glass(name: str, wanted: BreakGlassIn, dry_run: DryRun, caller: Admin) -> BreakGlass:
        """Set a rule aside for the caller alone, who may then deploy at once; an alert fires as long as that lasts."""
        with acting(db, dry_run=dry_run):
            return protection.break_glass(
                name,
                principal=caller.id,
                by=f"{caller.name} ({caller.id})",
                reason=wanted.reason,
                lasts=wanted.lasts,
            )

    return router


def _tag(one: ProtectionRule) -> str:
    return tag_of(one.name, one.selector, one.ends_at)
