"""QR codes as SVG made by the server: nothing is loaded, no script is needed, and the page's policy allows it.

White behind black in both colour schemes, because scanners expect dark on light.
"""

import segno
from markupsafe import Markup

MAX_CHARS = 1_200


def qr(text: str, title: str = "QR code") -> Markup:
    """Return a text as an inline SVG that scales with its box, "" when it is longer than a code that can be scanned well."""
    if len(text) > MAX_CHARS:
        return Markup("")
    made = segno.make(text, micro=False, error="l", boost_error=False)
    drawn = made.svg_inline(omitsize=True, svgclass="qr", lineclass=None, dark="#000", light="#fff", title=title)
    return Markup(drawn)  # noqa: S704 - segno draws squares, and escapes the title
