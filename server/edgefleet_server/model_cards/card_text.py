"""A model card as Markdown. Pure.

Names and texts come from people and from models, so whatever Markdown or HTML would take for markup is escaped.
"""

import re
from typing import Final

from edgefleet_server.model_cards.model import FactOrigin, ModelCard

_MARKUP: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>~-])")
ORIGINS: Final = {
    FactOrigin.MEASURED: "measured", FactOrigin.RECORDED: "recorded", FactOrigin.STATED: "stated by a person",
    FactOrigin.NOT_MEASURED: "not measured", FactOrigin.NOT_STATED: "not stated",
}  # fmt: skip


def markdown(card: ModelCard) -> str:
    """Return the card as one Markdown document, a table a section."""
    lines = [f"# Model card of {escaped(card.ref)}", "", f"As of {card.made_at:%Y-%m-%d %H:%M} UTC.", ""]
    for section in card.sections:
        lines += [f"## {section.title}", "", "| fact | value | origin |", "| --- | --- | --- |"]
        lines += [
            f"| {escaped(one.name)} | {escaped(one.value)} | {ORIGINS[one.origin]} |" for one in section.facts
        ]  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split())).replace("\\-", "-").replace("\\(", "(").replace("\\)", ")")
