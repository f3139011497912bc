"""Links of the pages that lead outside: each is asked once. One that cannot be reached is a named skip, never a pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.house.pages import links, pages

pytestmark = [pytest.mark.network, pytest.mark.slow]

TIMEOUT_S = 20.0
GONE = (404, 410)
"""An address that wants a login, is busy or does not like programs exists all the same."""


def outside() -> dict[str, list[str]]:
    """Return every https or http target of a link, with the pages that have it."""
    found: dict[str, list[str]] = {}
    for page in pages():
        if page == Path("README.md") or page.parts[0] == "docs":
            for link in links(page):
                if link.startswith(("https://", "http://")):
                    found.setdefault(link, []).append(str(page))
    return found


def asked(link: str) -> int | str:
    """Return the status of an address, or why nobody answered; asked twice before nobody did."""
    trouble = ""
    for _ in range(2):
        try:
            with httpx.stream("GET", link, follow_redirects=True, timeout=TIMEOUT_S) as answer:
                return answer.status_code
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            trouble = f"{type(error).__name__}: {error}"
    return trouble


@pytest.fixture(scope="module")
def answers() -> dict[str, int | str]:
    """What each link answered."""
    all_links = sorted(outside())
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(all_links, pool.map(asked, all_links), strict=True))


@pytest.mark.parametrize("link", sorted(outside()))
def test_a_link_that_leads_outside_is_not_dead(link: str, answers: dict[str, int | str]) -> None:
    told = answers[link]
    if isinstance(told, str):  # this machine's network, or theirs: it says nothing of the page
        pytest.skip(f"{link} cannot be reached from here: {told}")
    assert told not in GONE, f"{outside()[link]}: {link}: {told}"


def test_sources_are_links_with_their_scheme() -> None:
    assert len(outside()) > 10
    assert [link for link in outside() if link.startswith("http://")] == []
