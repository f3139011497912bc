"""Operator routes of groups: named selectors. They only translate."""

from fastapi import APIRouter, Response

from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory.device_list import DeviceLister
from edgefleet_server.fleet.inventory.groups import GroupBook
from edgefleet_server.fleet.inventory.routes import DevicePage, devices_page
from edgefleet_server.fleet.inventory.views import DeviceView
from edgefleet_server.fleet.model import Group
from edgefleet_server.fleet.schemas import GroupChangeIn, GroupIn
from edgefleet_server.web.pagination import ByName, ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(groups: GroupBook, lists: DeviceLister, db: Database) -> APIRouter:
    """Return the routes of groups, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    def tag(name: str, *, lock: bool = False) -> str:
        return tag_of(*groups.editable(name, lock=lock))

    @router.post("/groups", operation_id="create_group", status_code=201)
    def create_group(wanted: GroupIn, response: Response, dry_run: DryRun, caller: Operator) -> Group:
        """Give a selector a name, so that other selectors can say `group=NAME`."""
        with acting(db, dry_run=dry_run):
            made = groups.create(wanted.name, wanted.selector, caller.name)
        put_location(response, f"/groups/{made.name}")
        put_tag(response, tag_of(made.name, made.selector))
        return made

    @router.get("/groups", operation_id="list_groups")
    def list_groups(page: ByName, _caller: Viewer) -> ListOf[Group]:
        """List groups and how many live devices each has, in order of name, upwards unless `sort` says otherwise."""
        found, total = groups.page(page.after, page.limit + 1, is_down=page.is_turned)
        return ListOf.cut(found, page, total, lambda group: group.name)

    @router.get("/groups/{name}", operation_id="get_group")
    def get_group(name: str, response: Response, _caller: Viewer) -> Group:
        """Return one group."""
        found = groups.get(name)
        put_tag(response, tag_of(found.name, found.selector))
        return found

    @router.get("/groups/{name}/members", operation_id="list_group_members")
    def list_group_members(name: str, page: DevicePage, _caller: Viewer) -> ListOf[DeviceView]:
        """List the live devices in a group, in order of id unless `sort` says otherwise."""
        return devices_page(lists, groups.members_selector(name), page)

    @router.patch("/groups/{name}", operation_id="update_group")
    def update_group(
        name: str, wanted: GroupChangeIn, response: Response, expected: IfMatch, dry_run: DryRun, _caller: Operator
    ) -> Group:
        """Give a group that nothing unfinished names another selector."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag(name, lock=True))
            changed = groups.change(name, wanted.selector)
        put_tag(response, tag_of(changed.name, changed.selector))
        return changed

    @router.delete("/groups/{name}", operation_id="delete_group", status_code=204, response_class=Response)
    def delete_group(name: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Remove a group that nothing unfinished names; its devices stay as they are."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag(name, lock=True))
            groups.delete(name)
        return Response(status_code=204)

    return router
