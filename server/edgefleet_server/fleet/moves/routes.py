"""Operator routes of moves of the server. They only translate."""

from fastapi import APIRouter

from edgefleet_server.access.dependency import Admin, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.moves.model import SPREAD_S, ServerMove
from edgefleet_server.fleet.moves.rules import Wanted
from edgefleet_server.fleet.moves.schemas import MoveFinishIn, MovePlanIn, MoveStartIn
from edgefleet_server.fleet.moves.service import MoveBook
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, acting
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(moves: MoveBook, db: Database) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get("/server-moves", operation_id="list_server_moves")
    def list_server_moves(_caller: Viewer) -> ListOf[ServerMove]:
        """List the newest moves of the server, the newest first, and how many devices have followed the announcement of each."""
        return ListOf.whole(moves.moves())

    @router.post("/server-moves", operation_id="plan_server_move", status_code=201)
    def plan_server_move(wanted: MovePlanIn, dry_run: DryRun, caller: Admin) -> ServerMove:
        """Plan a move to another name, address, port or machine. Devices are not told; from its next start the server serves both."""
        with acting(db, dry_run=dry_run):
            order = Wanted(wanted.host, wanted.device_port, wanted.broker_host, wanted.broker_port)
            return moves.plan(order, f"{caller.name} ({caller.id})")

    @router.post("/server-moves:start", operation_id="start_server_move")
    def start_server_move(wanted: MoveStartIn, dry_run: DryRun, _caller: Admin) -> ServerMove:
        """Announce the new place to all devices, signed; the old one stays as what they fall back to."""
        with acting(db, dry_run=dry_run):
            return moves.start(ahead=wanted.ahead, spread_s=wanted.spread_s)

    @router.post("/server-moves:undo", operation_id="undo_server_move")
    def undo_server_move(dry_run: DryRun, _caller: Admin) -> ServerMove:
        """Call all devices back to the old place, or drop a plan."""
        with acting(db, dry_run=dry_run):
            return moves.undo(spread_s=SPREAD_S)

    @router.post("/server-moves:finish", operation_id="finish_server_move")
    def finish_server_move(wanted: MoveFinishIn, dry_run: DryRun, _caller: Admin) -> ServerMove:
        """End the move: announce only the place that stays. Refused as long as devices are missing that may not be left behind."""
        with acting(db, dry_run=dry_run):
            return moves.finish(leave_behind=wanted.leave_behind, spread_s=SPREAD_S)

    return router
