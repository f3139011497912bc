"""`edgectl tool`: environments for converters that are too heavy to be part of edgefleet (PyTorch, TensorFlow …), and for scikit-learn."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.reply import Page
    from edgefleet_cli.release.conversion.tool_environments import Tool

app = typer.Typer(
    help="Manage the tool environments that scikit-learn, PyTorch and Keras models need.", no_args_is_help=True
)


class ToolName(StrEnum):
    """The tools there are."""

    SKLEARN = "sklearn"
    TORCH = "torch"
    TENSORFLOW = "tensorflow"
    ONNX2TF = "onnx2tf"
    AI_EDGE_QUANTIZER = "ai-edge-quantizer"
    RKNN = "rknn"
    SHAP = "shap"


Name = Annotated[ToolName, typer.Argument(metavar="NAME", help=f"One of {', '.join(ToolName)}.")]
Tools = Annotated[
    Path | None,
    typer.Option(
        "--tools", metavar="DIR", help="Folder of the environments; a server's is DATA-tools beside its data folder."
    ),
]

SHEET: Sheet[Tool] = Sheet(
    "tools",
    [
        Column("name", lambda t: text(t.name), keep=True),
        Column("state", lambda t: text(t.state)),
        Column("version", lambda t: text(t.version or None)),
        Column("python", lambda t: text(t.python or None), wide=True),
        Column("for", lambda t: text(t.serves)),
        Column("path", lambda t: text(t.path), wide=True),
    ],
    lambda t: text(t.name),
)


@app.command("list")
def list_tools(ctx: typer.Context, tools: Tools = None) -> None:
    """List the tools and which of them are installed here."""
    from edgefleet_cli.release.conversion.tool_environments import manage, tools_folder

    session = Session.of(ctx)
    found = manage("list", tools_folder(tools))
    session.out.rows({"items": [tool.raw for tool in found.replies]}, found, SHEET)


@app.command("install")
def install(ctx: typer.Context, name: Name, tools: Tools = None) -> None:
    """Install a tool environment. sklearn takes 0.35 GB of disk; torch downloads about 1 GB, tensorflow 2 GB."""
    from edgefleet_cli.release.conversion.tool_environments import manage, tools_folder

    session = Session.of(ctx)
    _show(session, manage("install", tools_folder(tools), name.value))


@app.command("remove")
def remove(ctx: typer.Context, name: Name, tools: Tools = None) -> None:
    """Remove a tool environment."""
    from edgefleet_cli.release.conversion.tool_environments import manage, tools_folder

    session = Session.of(ctx)
    folder = tools_folder(tools)
    session.confirm(f"Remove the tool environment {folder / name.value}?")
    _show(session, manage("remove", folder, name.value))


def _show(session: Session, items: Page[Tool]) -> None:
    for item in items.replies:
        session.out.one(item, SHEET, lambda t: session.out.note(f"{t.name} is {t.state} in {t.path}"))
