"""The libraries of tokens and key services, which securesystemslib imports all at once: a process loads those of its own keys.

With the extras `hsm`, `vault` and `awskms` they are more than half of the processor time that the start of a signing process takes, and
a server with keys in files needs none.
"""

import importlib
import sys
from typing import Final

_LIBRARIES: Final = {"awskms": "boto3", "hv": "hvac", "hsm": "pkcs11"}
"""By the scheme of the URIs that need them."""
_left_out: set[str] = set()
"""Schemes whose signer was imported without its library."""


def leave_out() -> None:
    """Import securesystemslib without these libraries. Does nothing in a process that has imported it already."""
    if "securesystemslib.signer" in sys.modules:
        return
    kept_away = [name for name in _LIBRARIES.values() if name not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_away))  # type: ignore[arg-type]  # None: no import
    try:
        importlib.import_module("securesystemslib.signer")
    finally:
        for name in kept_away:
            del sys.modules[name]
    _left_out.update(scheme for scheme, name in _LIBRARIES.items() if name in kept_away)


def load(scheme: str) -> None:
    """Give the signer of a scheme its library, where it was left out and is installed."""
    if scheme not in _left_out:
        return
    known = importlib.import_module("securesystemslib.signer").SIGNER_FOR_URI_SCHEME
    again = importlib.reload(sys.modules[known[scheme].__module__])
    known[scheme] = getattr(again, known[scheme].__name__)
    _left_out.discard(scheme)
