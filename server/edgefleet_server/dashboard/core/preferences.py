"""How a browser likes its pages: light or dark, times in UTC or its own zone. Kept in cookies that only our pages read.

Nothing of the fleet depends on them, so a link may set them: `GET /preferences?theme=dark&zone=local&density=compact&next=/models`.
"""

from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.responses import Response

THEMES: Final = ("auto", "light", "dark")
ZONES: Final = ("utc", "local")
DENSITIES: Final = ("comfortable", "compact")
THEME_COOKIE: Final = "edgefleet_theme"
ZONE_COOKIE: Final = "edgefleet_zone"
DENSITY_COOKIE: Final = "edgefleet_density"
KEPT_S: Final = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Preferences:
    """theme: one of THEMES; zone: one of ZONES; density: one of DENSITIES.

    The browser's own zone is known to the browser alone, so a script writes its times.
    """

    theme: str = "auto"
    zone: str = "utc"
    density: str = "comfortable"


def preferences_of(request: Request) -> Preferences:
    """Return what a browser prefers; what it sends otherwise is as if it had sent nothing."""
    theme, zone, density = (request.cookies.get(name, "") for name in (THEME_COOKIE, ZONE_COOKIE, DENSITY_COOKIE))
    return Preferences(
        theme if theme in THEMES else THEMES[0],
        zone if zone in ZONES else ZONES[0],
        density if density in DENSITIES else DENSITIES[0],
    )


def remember(answer: Response, chosen: Preferences, *, secure: bool) -> None:
    """Set the cookies of what was chosen; what was not chosen (""), or cannot be, stays as it is."""
    for name, value, known in (
        (THEME_COOKIE, chosen.theme, THEMES),
        (ZONE_COOKIE, chosen.zone, ZONES),
        (DENSITY_COOKIE, chosen.density, DENSITIES),
    ):
        if value in known:
            answer.set_cookie(name, value, max_age=KEPT_S, httponly=True, samesite="strict", secure=secure, path="/")
