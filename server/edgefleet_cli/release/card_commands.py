"""`edgectl model card`: what was measured of a release, and what people state of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import STANDARD_INPUT, read_text, write_whole
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import convert
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.output import Column, Sheet, visible

app = typer.Typer(help="Show and state the model card of a release.", no_args_is_help=True)

MAX_BYTES = 200_000
Ref = Annotated[
    str, typer.Argument(metavar="REF", help="name@version or name@alias.", autocompletion=completion.releases)
]


class CardForm(StrEnum):
    """How a card is written."""

    MARKDOWN = "md"
    JSON = "json"
    PDF = "pdf"


As = Annotated[CardForm | None, typer.Option("--as", help="Form of the file; default: by the name of --out, else md.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: standard output.")]
CardFile = Annotated[
    str, typer.Option("--file", "-f", metavar="FILE", help="Card file (YAML or JSON); `-`: standard input.")
]

FACTS: Sheet[api.release.Fact] = Sheet(
    "facts",
    [
        Column("fact", lambda one: visible(one.name), keep=True),
        Column("value", lambda one: visible(one.value), keep=True),
        Column("origin", lambda one: one.origin.replace("_", " ")),
    ],
    lambda one: one.name,
)
Line = tuple[str, api.release.Fact]
"""A fact with the title of its section."""
LINES: Sheet[Line] = Sheet(
    "facts",
    [
        Column("section", lambda line: visible(line[0])),
        Column("fact", lambda line: visible(line[1].name)),
        Column("value", lambda line: visible(line[1].value)),
        Column("origin", lambda line: line[1].origin.replace("_", " ")),
    ],
    lambda line: line[1].name,
)
"""A card as one table, for CSV and for names."""


@app.command("show")
def show(ctx: typer.Context, ref: Ref, form: As = None, out: Out = None) -> None:
    """Show the model card of a release, or write it as Markdown, JSON or PDF."""
    session = Session.of(ctx)
    path = f"/releases/{part(ref)}/card"
    chosen = form or _form_of(out)
    if chosen is None:
        card = session.api.get(path, api.release.ModelCard)
        if session.out.is_for_eyes:
            _show(session, card.value)
        else:
            lines = [(section.title, fact) for section in card.value.sections for fact in section.facts]
            session.out.rows(card.raw, lines, LINES)
        return
    suffix = {CardForm.JSON: "", CardForm.MARKDOWN: ".md", CardForm.PDF: ".pdf"}[chosen]
    data = session.api.read(f"{path}{suffix}")
    if out is None and chosen is CardForm.PDF:
        raise UsageError("a PDF is no text", why="it was to be printed on the terminal", next_step="add --out FILE")
    if out is None:
        session.out.line(data.decode())
        return
    write_whole(out.absolute(), data)
    session.out.note(f"the card of {ref} is in {out}")


def _form_of(out: Path | None) -> CardForm | None:
    if out is None:
        return None
    suffix = out.suffix.lstrip(".").lower()
    return CardForm(suffix) if suffix in set(CardForm) else CardForm.MARKDOWN


def _show(session: Session, card: api.release.ModelCard) -> None:
    for section in card.sections:
        session.out.heading(section.title)
        session.out.table(section.facts, FACTS.columns)


@app.command("set")
def set_card(
    ctx: typer.Context,
    ref: Ref,
    file: CardFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file.")] = False,
) -> None:
    """State owner, licence, use and limits of a release from a file; what was stated before is replaced."""
    session = Session.of(ctx)
    card = put_card(session, ref, read_card(file), dry_run=dry_run)
    said = "can be stated so" if dry_run else "is stated"
    session.out.document(card.raw, lambda: session.out.note(f"the card of {card.value.ref} {said}"))


def read_card(file: str) -> api.release.ModelCardIn:
    """Return the card file's statement. Raises UsageError that names the field, UnreadableFileError."""
    import yaml

    path = None if file == "-" else Path(file)
    origin, text = str(path or STANDARD_INPUT), read_text(path, MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise UsageError(f"{origin} is too large", why=f"more than {MAX_BYTES} characters", next_step="shorten it")
    try:
        document: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(
            f"{origin} is neither YAML nor JSON", why=str(error), next_step="fix the named line"
        ) from error
    try:
        if not isinstance(document, dict):
            raise TypeError("it holds no fields")
        return convert(document, api.release.ModelCardIn)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{origin} is no card file",
            why=str(error),
            next_step="the fields are owner, contact, licence, summary, intended_use, not_for, limits, data and references:"
            " see docs/reference/model-card.md",
        ) from error


def put_card(
    session: Session, ref: str, stated: api.release.ModelCardIn, *, dry_run: bool = False
) -> Reply[api.release.ModelCard]:
    """State what people say of a release; return its card."""
    path = f"/releases/{part(ref)}/card" + ("?dry_run=true" if dry_run else "")
    return session.api.put(path, stated, api.release.ModelCard)
