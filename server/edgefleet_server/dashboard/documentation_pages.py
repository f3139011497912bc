"""The documentation under `/help`, as `./dev docs` packs it (ADR 0110): static pages, open to everyone like the sign-in page.

Releases bring the archive in their wheel. Where it is missing, `/help` says how to get it.
"""

import hashlib
import mimetypes
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from edgefleet_server.dashboard.core import render
from edgefleet_server.dashboard.core.layout import Shell

_INSIDE: Final = Path(__file__).with_name("help.tar.xz")
ARCHIVE: Final = _INSIDE if _INSIDE.is_file() else Path(__file__).parents[3] / "build" / _INSIDE.name
"""In a wheel it lies in the package, in a clone in `build/`."""


@dataclass(frozen=True, slots=True)
class Site:
    """An unpacked site. files: by their path, `index.html` at the top. digest: of the archive, as every file's ETag."""

    files: dict[str, bytes]
    digest: str


def site_of(archive: Path) -> Site | None:
    """Return what an archive holds, None where there is none. It stays in memory once someone opened it (8 MB)."""
    try:
        changed = archive.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _unpacked(archive, changed)


@lru_cache(maxsize=1)
def _unpacked(archive: Path, _changed_ns: int) -> Site:
    files = {}
    with tarfile.open(archive, "r:xz") as packed:
        for member in packed:
            content = packed.extractfile(member) if member.isfile() else None
            if content is not None:
                files[member.name] = content.read()
    return Site(files, hashlib.sha256(archive.read_bytes()).hexdigest()[:32])


def add_pages(router: APIRouter, _shell: Shell) -> None:
    """Add the pages."""

    @router.get("/help", operation_id="find_help")
    def find_help() -> Response:
        """Lead to the first page: the addresses in it begin at its folder."""
        return RedirectResponse("/help/", 308, headers=dict(render.HEADERS))

    @router.get("/help/{path:path}", operation_id="show_help")
    def show_help(request: Request, path: str) -> Response:
        """Show a file of the site."""
        site = site_of(ARCHIVE)
        name = f"{path}index.html" if not path or path.endswith("/") else path
        if site is None or name not in site.files:
            return render.render(
                "help.html", 404 if path or site else 200, page=path.removesuffix(".html"), is_built=bool(site)
            )
        headers = {**render.HEADERS, "etag": f'"{site.digest}"', "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(site.files[name], media_type=media_type, headers=headers)
