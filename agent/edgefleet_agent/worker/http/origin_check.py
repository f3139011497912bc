"""Who may use the loopback port: programs of this machine, not web pages that a browser of this machine shows.

A page can send a POST to 127.0.0.1 (then it names itself in `Origin`), and can have its own host name resolve to 127.0.0.1 so
that it may read answers too (then that name is in `Host`). Neither is let in. The unix socket is out of reach of pages.
"""

import re
from collections.abc import Iterable

_PORT = rb"(:[0-9]{1,5})?"
_LOCALHOST = rb"([A-Za-z0-9-]+\.)*localhost"
_HOST = re.compile(rb"([0-9.]+|\[[0-9A-Fa-f:.]+\]|" + _LOCALHOST + rb")" + _PORT)
_ORIGIN = re.compile(rb"https?://(127\.[0-9.]+|\[::1\]|" + _LOCALHOST + rb")" + _PORT)


def refusal_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return why a request that came over TCP is refused, or None. headers: names in lower case."""
    for name, value in headers:
        if name == b"host" and not _HOST.fullmatch(value):
            return "This port answers to an address or to localhost, not to another host name; or use the unix socket."
        if name == b"origin" and not _ORIGIN.fullmatch(value):
            return "This port does not answer web pages of other origins."
    return None
