"""Builds the documentation site: `./dev docs [DIR]`. Sphinx with Furo makes it of the pages in `docs/` (ADR 0110).

Strict: a link between pages that leads nowhere fails the build. What comes out needs no network, and no exception from a strict content
security policy (`docs_policy`). It is packed into one archive, which the server shows under `/help`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import lzma
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.metadata import files
from pathlib import Path
from typing import Any

from tests.house.docs_policy import externalise
from tests.house.tree import ROOT

ARCHIVE = Path("build/help.tar.xz")
"""The packed site: the wheel takes it along, and the server of a clone shows it."""
FOLDER = Path("build/help")
LEFT_OUT = (".map", ".inv", ".buildinfo", ".doctrees", "_sources")
"""Endings of what Sphinx writes and no reader needs."""
TOKENS = ROOT / "server/edgefleet_server/dashboard/static/tokens.css"
POLISH = {
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    '<aside class="toc-drawer': '<aside aria-label="Parts of this page" class="toc-drawer',
    '<div id="search-results">': '<h1>Search</h1><div id="search-results">',
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper ': '<div tabindex="0" class="table-wrapper ',
    '<th class="head"><p></p></th>': '<td class="head"></td>',
}
"""What replaces what in the theme's pages."""
COLOURS = {
    "color-brand-primary": "brand", "color-brand-content": "accent", "color-brand-visited": "accent", "color-background-primary": "card",
    "color-background-secondary": "bg", "color-foreground-primary": "text", "color-foreground-secondary": "muted",
    "color-foreground-muted": "muted", "color-background-border": "line",
}  # fmt: skip
"""Colours of the theme by the tokens of our pages."""


def colours(scheme: int) -> dict[str, str]:
    """Return the theme's colours, light (0) or dark (1)."""
    pairs = dict(re.findall(r"--([\w-]+): light-dark\((#\w+, #\w+)\)", TOKENS.read_text("utf-8")))
    return {name: pairs[token].split(", ")[scheme] for name, token in COLOURS.items()}


def polish(site: Path) -> None:
    """Mend what axe-core finds in the theme: names of landmarks, boxes that scroll; and a link that is a script."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        for old, new in POLISH.items():
            text = text.replace(old, new)
        page.write_text(text, "utf-8")
    script = site / "_static" / "sphinx_highlight.js"
    script.write_text(script.read_text("utf-8").replace("javascript:SphinxHighlight.hideSearchWords()", ""), "utf-8")


def settings(version: str) -> dict[str, Any]:
    """Return the settings of Sphinx."""
    return {
        "project": "edgefleet",
        "version": version,
        "release": version,
        "html_title": f"edgefleet {version}",
        "language": "en",
        "extensions": ["myst_parser", "tests.house.docs_nodes"],
        "exclude_patterns": ["**/template.md", "_site"],
        "smartquotes": False,
        "myst_heading_anchors": 6,
        "html_theme": "furo",
        "html_theme_options": {
            "light_css_variables": colours(0),
            "dark_css_variables": colours(1),
            "top_of_page_buttons": [],
        },
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "html_show_copyright": False,
        "html_search_scorer": str(ROOT / "docs" / "_site" / "scorer.js"),
        "html_use_index": False,
        "html_domain_indices": False,
        # decisions, notes and pages of packages and boards are reached by their lists, not by the navigation
        "suppress_warnings": ["toc.not_included", "myst.header", "misc.highlighting_failure"],
    }


class BuildError(Exception):
    """Sphinx refused: what it said."""


def build(root: Path, to: Path) -> int:
    """Build the site of a tree into a folder, which is made again. Return the number of its pages. Raises BuildError."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    shutil.rmtree(to, ignore_errors=True)
    warnings = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, docutils_namespace():
        app = Sphinx(
            srcdir=root / "docs", confdir=None, outdir=to, doctreedir=scratch, buildername="html", confoverrides=settings(version_of(root)),
            status=None, warning=warnings, freshenv=True,
        )  # fmt: skip
        app.build(force_all=True)
    logging.getLogger("sphinx").handlers.clear()
    if warnings.getvalue():
        raise BuildError(warnings.getvalue())
    for path in sorted(to.rglob("*")):
        if path.name.endswith(LEFT_OUT):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    add_licences(to)
    polish(to)
    externalise(to)
    return len(list(to.rglob("*.html")))


def pack(site: Path, archive: Path) -> int:
    """Write a built site as an archive: the same site gives the same bytes. Return its size in bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(archive, "wb", preset=9) as file, tarfile.open(fileobj=file, mode="w") as packed:
        for path in sorted(one for one in site.rglob("*") if one.is_file()):
            member = tarfile.TarInfo(path.relative_to(site).as_posix())
            member.size = path.stat().st_size
            with path.open("rb") as content:
                packed.addfile(member, content)
    return archive.stat().st_size


def publish(site: Path, to: Path, version: str) -> list[str]:
    """Add a built site to a folder with those of all versions, for a web server. Return the versions, newest first.

    Each version has its folder with `pages.json`; `versions.json` names all, and their pages offer them (`docs/_site/versions.js`).
    """
    place = to / version
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(site, place)
    shutil.copy(ROOT / "docs" / "_site" / "versions.js", place / "_static" / "versions.js")
    pages = sorted(place.rglob("*.html"))
    (place / "pages.json").write_text(json.dumps([page.relative_to(place).as_posix() for page in pages]) + "\n")
    for page in pages:
        up = os.path.relpath(place, page.parent)
        script = f'<script src="{up}/_static/versions.js" data-versions="{up}/../versions.json" defer></script></head>'
        page.write_text(page.read_text("utf-8").replace("</head>", script, 1), "utf-8")
    found = sorted((one.parent.name for one in to.glob("*/searchindex.js")), key=_order, reverse=True)
    (to / "versions.json").write_text(json.dumps(found) + "\n")
    (to / "index.html").write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={found[0]}/">\n')
    return found


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.replace("-", ".").split(".")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site, pack it for the server, and add it to a folder of versions where one is named. Return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev docs", description="Build the documentation site.")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="folder of all versions, for a web server; this one is added"
    )
    chosen = parser.parse_args(arguments)
    try:
        pages = build(ROOT, ROOT / FOLDER)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    size = pack(ROOT / FOLDER, ROOT / ARCHIVE)
    print(f"{pages} pages in {FOLDER}; {ARCHIVE}: {size / 1e6:.1f} MB, shown by the server under /help")
    if chosen.folder is not None:
        print(f"{chosen.folder}: {', '.join(publish(ROOT / FOLDER, chosen.folder, version_of(ROOT)))}")
    return 0


def add_licences(site: Path) -> None:
    """Add the licences of the theme and of the search, whose files the site brings along."""
    for name in ("furo", "sphinx"):
        (licence,) = (one for one in files(name) or () if one.name.startswith("LICENSE") and ".dist-info" in str(one))
        (site / "_static" / f"{name}.LICENSE.txt").write_text(licence.read_text(), "utf-8")


def soak(n: int, seed: int) -> dict[str, Any]:
    """Build all pages n times; `seed` chooses nothing."""
    del seed
    with tempfile.TemporaryDirectory() as folder:
        digests = set()
        for _ in range(n):
            pages = build(ROOT, Path(folder) / "site")
            pack(Path(folder) / "site", Path(folder) / "archive")
            digests.add(hashlib.sha256((Path(folder) / "archive").read_bytes()).hexdigest())
    return {"ok": len(digests) == 1, "pages": pages}


def version_of(root: Path) -> str:
    """Return the version of a tree."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


if __name__ == "__main__":
    sys.exit(main())
