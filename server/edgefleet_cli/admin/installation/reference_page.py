"""Writes the reference page of the command line from the command tree itself.

python -m edgefleet_cli.admin.installation.reference_page docs/reference
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperArgument

from edgefleet_cli.core.options import global_params, value_word
from edgefleet_cli.tree import build

PAGE = "cli.md"
_HEAD = """\
# Commands of `edgectl`

Made from the commands themselves by `python -m edgefleet_cli.admin.installation.reference_page docs/reference`;
`edgectl COMMAND --help` says the same.
What a command writes goes to stdout in the format that `-o` names, everything else to stderr.
[Exit codes](exit-codes.md) · [declarative files](declarative.md)
"""


def leaves(command: Any, path: str = "edgectl") -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its words, in the order of the tree; aliases are left out."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    if command.invoke_without_command and path != "edgectl":  # as `edgectl server check`, which has `broker` below it
        yield path, command
    for name, child in ((name, child) for name, child in children.items() if not child.hidden):
        yield from leaves(child, f"{path} {name}")


def page() -> str:
    """Return the page."""
    tree = build()
    parts = [
        _HEAD,
        "\n## Everywhere\n\n",
        _table([one for one in global_params() if one.name != "help"]),
        "\nOrder: flag, then `EDGECTL_…`, then the context, then the default.\n",
    ]
    group = ""
    for path, command in leaves(tree):
        words = path.split()
        if len(words) > 2 and words[1] != group:
            group = words[1]
            parts.append(f"\n## `{' '.join(words[:2])}`\n\n{_text(tree.commands[group].help)}\n")
        level = "###" if len(words) > 2 else "##"
        parts.append(f"\n{level} `{path}`\n\n`{_usage(path, command)}`\n\n{_text(command.help)}\n")
        own = _own(command)
        if own:
            parts.append("\n" + _table(own))
    return "".join(parts)


def _is_argument(param: Any) -> bool:
    return isinstance(param, TyperArgument)


def _own(command: Any) -> list[Any]:
    return [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]


def _usage(path: str, command: Any) -> str:
    words = [path, *(_called(param) for param in command.params if _is_argument(param))]
    if any(not _is_argument(one) for one in _own(command)):
        words.append("[OPTIONS]")
    return " ".join(words)


def _called(param: Any) -> str:
    name = (param.metavar or str(param.name)).strip("[]")
    shown = f"{name}…" if param.nargs == -1 else name
    return shown if param.required else f"[{shown}]"


def _table(params: list[Any]) -> str:
    rows = "".join(f"| {_option(one)} | {_default(one)} | {_cell(getattr(one, 'help', None))} |\n" for one in params)
    return f"| | default | |\n| --- | --- | --- |\n{rows}"


def _option(param: Any) -> str:
    if _is_argument(param):
        return f"`{_called(param)}`"
    names = "`, `".join([*param.opts, *param.secondary_opts])
    if param.is_flag:
        return f"`{names}`"
    return f"`{names}` {_cell(_value(param))}"


def _value(param: Any) -> str:
    """Return the choices of an option, or the word that stands for its value."""
    return (param.metavar or value_word(param)).strip("[]").replace("|", " / ")


def _default(param: Any) -> str:
    value = getattr(param.default, "value", param.default)
    if _is_argument(param) or value is None or value is False or value in ("", (), []) or callable(value):
        return "must be given" if param.required and not _is_argument(param) else ""
    return "yes" if value is True else f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _text(text: str | None) -> str:
    """Return help as paragraphs of one line each; what looks like a placeholder stays as it is."""
    blocks = [" ".join(block.split()) for block in (text or "").split("\n\n")]
    return "\n\n".join(block for block in blocks if block)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference")
    (folder / PAGE).write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {folder / PAGE}\n")
