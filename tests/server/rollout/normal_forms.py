"""The normal form of every spec that the repository holds: `python -m tests.server.rollout.normal_forms` writes them.

A stored rollout keeps its spec in normal form, so a spec must not get another one by a change of the reader. The file is written
again only when specs are added, or a field is; read the difference before you keep it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from edgefleet_server.rollout.spec.parser import dump_document, parse_spec
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from tests.house.pages import blocks, pages
from tests.house.tree import ROOT
from tests.server.rollout.corpus import accepted

FILE = Path(__file__).parent / "corpus" / "normal_forms.jsonl"


def committed() -> Iterator[tuple[str, Any]]:
    """Yield the specs of the corpus, of the strategies, of `examples/` and of blocks in pages, each with a name."""
    for case in accepted():
        yield f"corpus {case.name}", case.document
    for name in STRATEGIES:
        yield f"strategy {name}", {"release": "digits@1.1.0", "selector": "", "strategy": name}
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        yield from _specs(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    for page in pages():
        for block in blocks(page):
            if block.language == "yaml":
                yield from _specs(f"{page}", block.text)


def _specs(name: str, text: str) -> Iterator[tuple[str, Any]]:
    for number, document in enumerate(yaml.safe_load_all(text), 1):
        spec = document.get("spec", document) if isinstance(document, dict) else None
        if isinstance(spec, dict) and {"release", "selector"} <= spec.keys():
            yield f"{name} ({number})", document


def lines() -> list[str]:
    """Return the lines of the file: one a spec."""
    return [f"{json.dumps([name, dump_document(parse_spec(document))])}\n" for name, document in committed()]


if __name__ == "__main__":
    FILE.write_text("".join(lines()), encoding="utf-8")
