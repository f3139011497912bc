"""How a browser likes its pages: light or dark, times in UTC or its own zone. Kept in cookies that only our pages read.

Nothing of the fleet depends on them, so a link may set them: `GET /preferences?theme=dark&zone=local&next=/models`.
"""

from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.responses import Response

THEMES: Final = ("auto", "light", "dark")
ZONES: Final = ("utc", "local")
THEME_COOKIE: Final = "edgefleet_theme"
ZONE_COOKIE: Final = "edgefleet_zone"
KEPT_S: Final = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Preferences:
    """theme: one of THEMES; zone: one of ZONES. The browser's own zone is known to the browser alone, so a script writes its times."""

    theme: str = "auto"
    zone: str = "utc"


def preferences_of(request: Request) -> Preferences:
    """Return what a browser prefers; what it sends otherwise is as if it had sent nothing."""
    theme, zone = (request.cookies.get(name, "") for name in (THEME_COOKIE, ZONE_COOKIE))
    return Preferences(theme if theme in THEMES else "auto", zone if zone in ZONES else "utc")


def remember(answer: Response, *, theme: str, zone: str, secure: bool) -> None:
    """Set the cookies of what was chosen; what was not chosen, or cannot be, stays as it is."""
    for name, value, known in ((THEME_COOKIE, theme, THEMES), (ZONE_COOKIE, zone, ZONES)):
        if value in known:
            answer.set_cookie(name, value, max_age=KEPT_S, httponly=True, samesite="strict", secure=secure, path="/")
