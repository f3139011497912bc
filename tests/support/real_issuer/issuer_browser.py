"""A browser that signs in at a server by an issuer."""

import re
from html import unescape
from typing import Final

import httpx
from fastapi.testclient import TestClient

from edgefleet_server.access.errors import LoginRefusedError
from edgefleet_server.access.model import Principal
from tests.support.real_issuer.issuer_process import RealIssuer
from tests.support.servers import ApiHouse

HOME: Final = "http://127.0.0.1:8080"
_ONWARD = re.compile(r'http-equiv="refresh" content="0; url=([^"]+)"')


class Browser:
    """A browser of its own."""

    def __init__(self, house: ApiHouse) -> None:
        self.pages = TestClient(house.app, base_url=HOME, follow_redirects=False)

    def leave(self, provider: str = "corp", to: str = "/") -> str:
        """Push the button; return where the page leads."""
        answer = self.pages.post(
            f"/login/with/{provider}", data={"next": to}, headers={"sec-fetch-site": "same-origin"}
        )
        assert answer.status_code == 200, answer.text
        return unescape(found(answer.text))

    def arrive(self, address: str) -> httpx.Response:
        """Open the address that the issuer led back to."""
        answer: httpx.Response = self.pages.get(address.removeprefix(HOME), headers={"sec-fetch-site": "cross-site"})
        return answer

    def sign_in(self, issuer: RealIssuer, login: str = "u-1", provider: str = "corp", to: str = "/") -> httpx.Response:
        """Sign in, out and back."""
        return self.arrive(issuer.answer_for(self.leave(provider, to), login))

    def me(self, house: ApiHouse) -> Principal | None:
        """Return who is signed in."""
        cookie = self.pages.cookies.get("edgefleet_session")
        try:
            return house.parts.access.logins.session_of(cookie or "").principal
        except LoginRefusedError:
            return None


def found(page: str) -> str:
    """Return where a page leads on by itself."""
    onward = _ONWARD.search(page)
    assert onward is not None, page
    return onward[1]
