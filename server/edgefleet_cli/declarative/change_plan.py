"""What has to be done so that a server has what documents say, listed first and then carried out.

Applying twice changes nothing the second time. What was made by hand, or by another token, is never removed: pruning takes only
what the caller's own token made (ADR 0049).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from edgefleet_cli.core.errors import EXIT_CONFLICT, EXIT_NOT_FOUND, CliError, UsageError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.declarative.document import Document, Spec
from edgefleet_cli.declarative.resource_kinds import KINDS, Found, Made
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.api_client import ApiClient


class Action(StrEnum):
    """What is done with one object."""

    CREATE = "create"
    CHANGE = "change"
    REPLACE = "replace"
    DELETE = "delete"
    KEEP = "keep"
    NONE = "unchanged"


_DONE = {
    Action.CREATE: "created",
    Action.CHANGE: "changed",
    Action.REPLACE: "replaced",
    Action.DELETE: "deleted",
    Action.KEEP: "kept",
    Action.NONE: "unchanged",
}


class FixedObjectError(CliError):
    """A document differs from an object that cannot be changed."""

    code = "cli.fixed_object"
    exit_code = EXIT_CONFLICT


class NotDeclarableError(CliError):
    """A document names an object that files cannot create."""

    code = "cli.not_declarable"
    exit_code = EXIT_NOT_FOUND


@dataclass(frozen=True)
class Step:
    """One object and what is to be done. before: what the server has; after: the spec that it is to have (normal form).

    rollout: id of the rollout that it started.
    """

    action: Action
    document: Document
    before: Found | None = None
    after: Spec | None = None
    detail: str = ""
    is_done: bool = False
    rollout: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it as `apply -o json` prints it."""
        action = _DONE[self.action] if self.is_done else self.action.value
        return {"kind": self.document.kind, "name": self.document.name, "action": action, "detail": self.detail}

    @property
    def is_work(self) -> bool:
        """Tell whether it changes something."""
        return self.action not in {Action.NONE, Action.KEEP}


STEPS: Sheet[dict[str, str]] = Sheet(
    "objects",
    [
        Column("kind", lambda s: s["kind"], keep=True),
        Column("name", lambda s: s["name"]),
        Column("action", lambda s: s["action"], keep=True),
        Column("detail", lambda s: s["detail"] or "-"),
    ],
    lambda s: f"{s['kind'].lower()}/{s['name']}",
)


def steps_for(api: ApiClient, documents: Iterable[Document]) -> list[Step]:
    """Return what has to be done for each document, in the order of kinds. Raises what the server says of a rollout's spec."""
    order = list(KINDS)
    return [_step(api, one) for one in sorted(documents, key=lambda one: order.index(one.kind))]


def _step(api: ApiClient, document: Document) -> Step:
    kind = KINDS[document.kind]
    found = kind.find(api, document)
    if found is None:
        return Step(Action.CREATE, document, detail=kind.warning(api, document) if kind.can_create else kind.why_fixed)
    wanted = kind.normal(api, document)
    if wanted == found.document.spec:
        return Step(Action.NONE, document, found, wanted)
    detail = ", ".join(key for key in _changed(found.document.spec, wanted))
    return Step(Action.CHANGE if kind.can_change else Action.REPLACE, document, found, wanted, detail)


def _changed(before: Spec, after: Spec) -> Iterator[str]:
    yield from (key for key in sorted({*before, *after}) if before.get(key) != after.get(key))


def prune_steps(api: ApiClient, documents: Iterable[Document], owner: str) -> list[Step]:
    """Return the removal of each object that the token called `owner` made and no document declares; the last made kind first."""
    declared = {(one.kind, one.name) for one in documents}
    return [
        Step(Action.DELETE, found.document, found, detail=f"created by {owner}, in no file")
        for kind in reversed(list(KINDS.values()))
        if kind.can_prune
        for found in kind.objects(api)
        if found.made_by == owner and (kind.name, found.document.name) not in declared
    ]


def delete_steps(api: ApiClient, documents: Iterable[Document]) -> list[Step]:
    """Return the removal of what documents name; what cannot be removed so is kept, with the reason."""
    steps = []
    for document in reversed(list(documents)):
        kind = KINDS[document.kind]
        found = kind.find(api, document)
        if found is None:
            steps.append(Step(Action.NONE, document, detail="there is none"))
        elif kind.can_delete:
            steps.append(Step(Action.DELETE, document, found))
        else:
            steps.append(Step(Action.KEEP, document, found, detail=_KEPT[kind.name]))
    return steps


_KEPT = {
    "Device": "`edgectl device revoke DEVICE` takes a device out of the fleet",
    "Rollout": "it is what happened; `edgectl rollout abort ROLLOUT` ends an open one",
}


def check(steps: Iterable[Step], *, may_replace: bool, secrets: Path | None) -> None:
    """Raise what speaks against carrying steps out, before the first of them: FixedObjectError, NotDeclarableError, UsageError."""
    for step in steps:
        kind = KINDS[step.document.kind]
        if step.action is Action.CREATE and not kind.can_create:
            raise NotDeclarableError(
                f"there is no {step.document.title}",
                why=kind.why_fixed,
                next_step="remove it from the files, or enrol it first",
            )
        if step.action is Action.REPLACE and not (kind.can_replace and may_replace):
            raise FixedObjectError(
                f"{step.document.title} exists and differs in {step.detail}",
                why=kind.why_fixed,
                next_step="add --replace to recreate it" if kind.can_replace else "see `edgectl diff -f FILE`",
            )
        if step.action in {Action.CREATE, Action.REPLACE} and kind.has_secret and secrets is None:
            raise UsageError(
                f"{step.document.title} would be created, but there is no place for its secret",
                why="the server shows it once, and it is not printed",
                next_step="add --secrets DIR: it is written there, readable only by you",
            )


def carry_out(api: ApiClient, steps: Iterable[Step], secrets: Path | None, note: Callable[[str], None]) -> list[Step]:
    """Do what the steps say, one after the other; `note` is called with each that is done, so that one that fails does not hide them."""
    done = []
    for step in steps:
        done.append(_carry_out(api, step, secrets, note))
        if step.is_work:
            note(f"{_DONE[step.action]} {step.document.title}")
    return done


def _carry_out(api: ApiClient, step: Step, secrets: Path | None, note: Callable[[str], None]) -> Step:
    kind, before = KINDS[step.document.kind], step.before
    detail, rollout = step.detail, ""
    if step.action in {Action.DELETE, Action.REPLACE}:
        assert before is not None
        kind.delete(api, before)
    if step.action is Action.CHANGE:
        assert before is not None
        assert step.after is not None
        kind.change(api, before, step.after)
    if step.action in {Action.CREATE, Action.REPLACE}:
        made = kind.create(api, step.document)
        detail, rollout = "; ".join(word for word in (detail, made.detail) if word), made.rollout
        if made.secret and secrets is not None:
            note(f"wrote {_keep(made, step.document, secrets)}")
    return replace(step, detail=detail, is_done=True, rollout=rollout)


def _keep(made: Made, document: Document, folder: Path) -> Path:
    """Write what the server sends once into a file for its owner's eyes only. Raises UsageError."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in document.name).lstrip(".") or "unnamed"
    file = folder / f"{safe}{made.ending}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, made.secret + "\n")
    except OSError as error:
        raise UsageError(
            f"{document.title} was created, but its secret could not be written to {file}",
            why=str(error),
            next_step="create a new secret with `edgectl webhook rotate WEBHOOK`, or delete it and apply again",
        ) from error
    return file


def difference(step: Step) -> str:
    """Return how an object and its document differ, as a unified diff of their YAML; "" when they do not."""
    if step.action is Action.NONE:
        return ""
    before = "" if step.before is None else as_yaml([replace(step.before.document, name=step.document.name)])
    after = (
        "" if step.action is Action.DELETE else as_yaml([replace(step.document, spec=step.after or step.document.spec)])
    )
    names = (f"server/{step.document.title}", f"{step.document.origin or 'files'}/{step.document.title}")
    return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names))


def as_yaml(documents: Iterable[Document]) -> str:
    """Return documents as one YAML file that `apply` takes."""
    import yaml

    return yaml.safe_dump_all([one.as_json() for one in documents], sort_keys=False, allow_unicode=True)
