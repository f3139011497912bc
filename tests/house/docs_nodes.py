"""What the documentation site makes of the pages as they stand: the Sphinx extension of `docs_site`.

The pages are written to be read in a clone. The site adds three things to them:
- its navigation is `docs/index.md`: each heading is a caption, each link below it an entry. Sphinx would resolve its own once a page;
- a picture with a dark twin (`overview.png`, `overview-dark.png`) is shown in the colours of the page;
- a link to a file of the clone that is no page of the site becomes the name of the file. The file must be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

_ENTRY = re.compile(r"\]\(([\w/.-]+)\.md\)")
_BEFORE_ITS_COLLECTORS, _AFTER_THE_THEME = 100, 900


def setup(app: Sphinx) -> dict[str, bool]:
    """Add what the pages need. Sphinx calls this."""
    app.add_search_language(KnownWords)
    app.connect("doctree-read", _change, priority=_BEFORE_ITS_COLLECTORS)
    app.connect("html-page-context", _place, priority=_AFTER_THE_THEME)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class KnownWords(SearchEnglish):
    """English words for the search. Sphinx finds the stem of each word once a page, which takes a sixth of a build: most are on many."""

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__(options)
        self._known = cache(super().stem)

    def stem(self, word: str) -> str:
        """Return the stem of a word."""
        return self._known(word)


def navigation(index: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the captions of the navigation with their pages: "Learn" of `## Learn: tutorials`, and what is linked below it."""
    seen: set[str] = set()
    for part in index.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        pages = list(dict.fromkeys(page for page in _ENTRY.findall(text) if page not in seen))
        seen.update(pages)
        yield title.partition(":")[0], pages


def _place(app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: nodes.document | None) -> None:
    """Give a page the navigation, and the pages before and after it."""
    titles, link = app.env.titles, app.builder.get_relative_uri
    text, order = [], ["index"]
    for caption, pages in navigation((Path(app.srcdir) / "index.md").read_text("utf-8")):
        known = [one for one in pages if one in titles]
        order += known
        text.append(f'<p class="caption"><span class="caption-text">{escape(caption)}</span></p><ul>')
        for one in known:
            current = " current current-page" if one == page else ""
            title = escape(titles[one].astext())
            text.append(
                f'<li class="toctree-l1{current}"><a class="reference internal" href="{link(page, one)}">{title}</a></li>'
            )
        text.append("</ul>")
    context["furo_navigation_tree"] = "".join(text)
    if page in order:
        at = order.index(page)
        for name, other in (("prev", at - 1), ("next", at + 1)):
            if 0 <= other < len(order):
                context[name] = {"link": link(page, order[other]), "title": escape(titles[order[other]].astext())}


def _change(app: Sphinx, doctree: nodes.document) -> None:
    docs, page = Path(app.srcdir), app.env.docname
    for link in [*doctree.findall(download_reference), *doctree.findall(pending_xref)]:
        target = link["reftarget"].partition("#")[0]
        if link.get("refdomain") == "doc":  # a Markdown file, seen from docs/ and without its ending
            place, is_page = docs / f"{target}.md", target in app.env.found_docs
        else:  # any other file, seen from its page; those in docs/ are offered
            place = (docs / page).parent / target
            is_page = isinstance(link, download_reference) and place.resolve().is_relative_to(docs.resolve())
        if target and not is_page and place.exists():
            link.replace_self(nodes.inline("", "", *link.children, classes=["source-file"]))
    for image in list(doctree.findall(nodes.image)):
        light = Path(image["uri"])
        dark = light.with_name(f"{light.stem}-dark{light.suffix}")
        if (docs / page).parent.joinpath(dark).is_file():
            twin = deepcopy(image)
            twin["uri"] = str(dark)
            image["classes"].append("only-light")
            twin["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, twin)
