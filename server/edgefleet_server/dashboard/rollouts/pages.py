"""The pages of rollouts: the list, the four steps to a new one, one rollout, and what an undo would do."""

from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.rows import ACTIVE
from edgefleet_server.dashboard.rollouts.draft import EVERY, MAX_YAML_CHARS, OWN, STEPS, Draft, read_draft
from edgefleet_server.dashboard.rollouts.views import PERSON_STATES, DeviceFilter, RolloutPages
from edgefleet_server.dashboard.rollouts.wizard import NewRolloutPages
from edgefleet_server.db.keyset import PageRequest, decode_cursor
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.model import RolloutState
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.spec.model import Membership, Mode, OnFail, Promote, Supersede

TAB: Final = "rollouts"
OPEN: Final = "open"
WAITING: Final = "waiting"
_WORDS: Final = {OPEN: ACTIVE, WAITING: PERSON_STATES}
"""Words of the filter that stand for several states."""
_MODELS: Final = 200
MAX_DIGITS: Final = 18
_Text = Annotated[str, Query(max_length=200)]


def add_pages(
    router: APIRouter,
    shell: Shell,
    pages: RolloutPages,
    new_pages: NewRolloutPages,
    rollouts: RolloutService,
    registry: RegistryService,
) -> None:
    """Add the pages."""
    _add_list(router, shell, registry, pages)
    _add_new(router, shell, new_pages)
    _add_undo(router, shell, rollouts)
    _add_show(router, shell, pages)  # its address is the widest: the others are asked first


def _add_list(router: APIRouter, shell: Shell, registry: RegistryService, pages: RolloutPages) -> None:
    @router.get("/rollouts", operation_id="show_rollouts")
    def show_rollouts(request: Request, state: _Text = "", model: _Text = "", cursor: str | None = None) -> Response:
        """Show rollouts, newest first: where each stands, why, and what would move it."""

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            models = [one.name for one in registry.models(PageRequest(_MODELS)).items]
            return {
                "page": pages.page(_states(state), model, after),
                "waiting": pages.waiting(),
                "state": state,
                "model": model,
                "models": models,
                "states": [one.value for one in RolloutState],
                "is_first": cursor is None,
                "keep": urlencode([(name, text) for name, text in (("state", state), ("model", model)) if text]),
            }

        return shell.shown(request, "rollouts/list.html", build, tab=TAB)


def _states(text: str) -> Sequence[str]:
    if text in _WORDS:
        return _WORDS[text]
    return [one.strip() for one in text.split(",") if one.strip()]


def _add_new(router: APIRouter, shell: Shell, pages: NewRolloutPages) -> None:
    @router.get("/rollouts/new", operation_id="show_new_rollout")
    def show_new_rollout(request: Request) -> Response:
        """Show one of the four steps to a new rollout; all that was written so far is in the address."""

        def build() -> dict[str, Any]:
            pairs = list(request.query_params.multi_items())
            draft = read_draft(pairs)
            step = _step(draft, next((text for name, text in reversed(pairs) if name == "step"), ""))
            return {
                "is_still": True,  # a plan costs, and changes while the user writes
                "draft": draft,
                "step": step,
                "steps": STEPS,
                "link": _linker(draft),
                "in_the_way": (),
                **_step_values(pages, draft, step),
            }

        return shell.shown(request, "rollouts/new.html", build, tab=TAB)


def _step(draft: Draft, wanted: str) -> str:
    """Return the step that was asked for, else the first one that is not done: a link to this page need not know them."""
    if draft["yaml"]:
        return "review"
    if wanted in STEPS:
        return wanted
    if not draft["release"]:
        return "release"
    return "how" if draft["selector"] or draft["who"] == EVERY else "devices"


def _step_values(pages: NewRolloutPages, draft: Draft, step: str) -> dict[str, Any]:
    if step == "release":
        return {"releases": pages.releases(draft["release"].partition("@")[0])}
    if step == "devices":
        link = _linker(draft)
        choices = pages.picker(draft["selector"], lambda text: link("devices", but=["who"], selector=text))
        return {
            "matching": pages.matching(draft),
            "every": EVERY,
            "in_the_way": pages.in_the_way(draft),
            "picker": choices,
        }
    values: dict[str, Any] = {
        "planned": pages.planned(draft),
        "own": OWN,
        "strategies": pages.strategies(),
        "max_yaml": MAX_YAML_CHARS,
    }
    if step == "how":
        values |= {
            "promotes": [one.value for one in Promote],
            "on_fails": [one.value for one in OnFail],
            "modes": [one.value for one in Mode],
            "supersedes": [one.value for one in Supersede],
            "memberships": [one.value for one in Membership],
            "roles": [one.value for one in Role if one is not Role.VIEWER],
        }
    return values


def _linker(draft: Draft) -> Any:
    """Return what makes the address of a step, with some fields left out or set again."""

    def link(step: str, but: Sequence[str] = (), **more: str) -> str:
        pairs = draft.pairs(but=(*but, *more))
        return "/rollouts/new?" + urlencode(
            [("step", step), *pairs, *((name, text) for name, text in more.items() if text)]
        )

    return link


def _add_show(router: APIRouter, shell: Shell, pages: RolloutPages) -> None:
    @router.get("/rollouts/{rollout_id}", operation_id="show_rollout")
    def show_rollout(
        request: Request,
        rollout_id: str,
        state: _Text = "",
        stage: _Text = "",
        cursor: str | None = None,
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    ) -> Response:
        """Show one rollout: stages, gates, approvals, waits, devices by reason, decisions, what happened, and what can be done.

        at: as it stood at one of its decisions. report: everything opened, to be printed or sent.
        """
        if at := _number(request, "at"):
            return _replayed(request, shell, pages, rollout_id, at)
        report = "report" in request.query_params

        def build() -> dict[str, Any]:
            chosen = DeviceFilter(state, stage, "" if cursor is None else decode_cursor(cursor))
            still = {"is_still": True} if report else {}
            return {"page": pages.show(rollout_id, chosen, before), "before": before, "report": report, **still}

        return shell.shown(request, "rollouts/show.html", build, tab=TAB)


def _number(request: Request, name: str) -> int:
    """Return a number of the address, 0 where there is none."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < MAX_DIGITS else 0


def _replayed(request: Request, shell: Shell, pages: RolloutPages, rollout_id: str, at: int) -> Response:
    """Return a rollout as it stood at a decision."""

    def build() -> dict[str, Any]:
        rollout, moment = pages.replay(rollout_id, at)
        return {"rollout": rollout, "moment": moment, "is_still": True}

    return shell.shown(request, "rollouts/replay.html", build, tab=TAB)


def _add_undo(router: APIRouter, shell: Shell, rollouts: RolloutService) -> None:
    @router.get("/rollouts/undo", operation_id="show_undo")
    def show_undo(request: Request, name: Annotated[str, Query(max_length=127)] = "") -> Response:
        """Show what an undo of a model (or of one release of it) would do: which devices go back to what, and what it costs."""

        def build() -> dict[str, Any]:
            values: dict[str, Any] = {"name": name, "undo": None, "refused": None}
            if not name:
                return values
            try:
                return values | {"undo": rollouts.undo(name, "", "", dry_run=True)}
            except EdgefleetError as error:
                return values | {"refused": error}

        return shell.shown(request, "rollouts/undo.html", build, tab=TAB, role=Role.OPERATOR)
