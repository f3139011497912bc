"""Makes a built site fit `default-src 'self'`: what stands inline in its pages goes into files next to them.

Themes write short scripts, styles and `style` attributes into each page, and pictures as `data:` into style sheets. A policy that allows
them by name (hashes) must be made again for each build, and cannot name attributes at all. Files need no exception, on any server.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from pathlib import Path

ASSETS = "_static/own"
SHEET = "attributes.css"
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_STYLED = re.compile(r'<(\w[^<>]*?)\sstyle="([^"]*)"([^<>]*)>')
_CLASS = re.compile(r'\sclass="([^"]*)"')
_DATA = re.compile(r"""url\((["']?)data:image/svg\+xml[^,]*,(.*?)\1\)""")
_INLINE = re.compile(
    r"""<script>|<script [^>]*(?<!src)>(?=[^<])|<style|<\w[^<>]*\s(?:style|on[a-z]+)=["']|javascript:"""
)


def externalise(site: Path) -> None:
    """Move everything inline of a built site into files. The same site gives the same bytes."""
    own = site / ASSETS
    own.mkdir(parents=True, exist_ok=True)
    rules: dict[str, str] = {}
    for page in sorted(site.rglob("*.html")):
        page.write_text(_moved(page.read_text("utf-8"), page, site, rules), "utf-8")
    (own / SHEET).write_text("".join(f".{name} {{ {rule} }}\n" for name, rule in sorted(rules.items())))
    for sheet in sorted(site.rglob("*.css")):
        sheet.write_text(_without_data(sheet.read_text("utf-8"), sheet, site), "utf-8")


def _without_data(text: str, sheet: Path, site: Path) -> str:
    return _DATA.sub(lambda found: f"url({_picture(found[2], sheet, site)})", text)


def _moved(text: str, page: Path, site: Path, rules: dict[str, str]) -> str:
    def link(content: str, ending: str) -> str:
        return _relative(_kept(content, ending, site), page)

    def styled(found: re.Match[str]) -> str:
        before, style, after = found.groups()
        name = f"s-{_digest(style)}"
        rules[name] = style.strip().rstrip(";")
        tag = f"{before}{after}".rstrip("/ ")
        is_classed = _CLASS.search(tag) is not None
        tag = _CLASS.sub(rf' class="\1 {name}"', tag, count=1) if is_classed else f'{tag} class="{name}"'
        return f"<{tag}{'/' if after.endswith('/') else ''}>"

    text = _SCRIPT.sub(lambda found: f'<script src="{link(found[1], "js")}"></script>', text)
    text = _STYLE.sub(lambda found: f'<link rel="stylesheet" href="{link(found[1], "css")}">', text)
    text = _STYLED.sub(styled, text)
    sheet = f'<link rel="stylesheet" href="{_relative(site / ASSETS / SHEET, page)}">'
    return text.replace("</head>", f"{sheet}</head>", 1)


def _picture(data: str, sheet: Path, site: Path) -> str:
    return _relative(_kept(urllib.parse.unquote(data), "svg", site), sheet)


def _kept(content: str, ending: str, site: Path) -> Path:
    file = site / ASSETS / f"{_digest(content)}.{ending}"
    file.write_text(content, "utf-8")
    return file


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _relative(file: Path, page: Path) -> str:
    return os.path.relpath(file, page.parent)


def inline_parts(text: str) -> list[str]:
    """Return what of a page a policy without 'unsafe-inline' refuses, as the beginnings of it."""
    return [text[found.start() :][:80] for found in _INLINE.finditer(text)]
