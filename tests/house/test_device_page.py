"""The settings on the device page are the agent's, with their defaults."""

from __future__ import annotations

import re

import msgspec

from edgefleet_agent.settings import AgentSettings
from tests.house.tree import ROOT

PAGE = ROOT / "docs" / "operate" / "device.md"
MIB = 1024 * 1024


def _value(text: str) -> float | bool | str:
    """Return a default as the page writes it: a number with or without a unit, true, false, or a word."""
    number, _, unit = text.partition(" ")
    try:
        return float(number) * {"": 1, "MiB": MIB, "MB": 1_000_000}[unit]
    except ValueError:
        words: dict[str, bool | str] = {"true": True, "false": False, '""': ""}
        return words.get(text, text)


def test_the_page_names_settings_and_defaults_as_they_are() -> None:
    known = {field.name: field.default for field in msgspec.structs.fields(AgentSettings)}
    rows = re.findall(
        r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| ([^|]+) \|",
        PAGE.read_text("utf-8").split("## What happens to an update")[0],
        re.MULTILINE,
    )
    told = {
        name.strip("`"): _value(value)
        for names, values in rows
        if not names.startswith("`identity")
        for name, value in zip(names.split(", "), values.strip().split(", "), strict=True)
    }
    assert len(told) >= 14
    assert told == {name: known[name] for name in told}
