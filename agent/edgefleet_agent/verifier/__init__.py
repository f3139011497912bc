"""The short-lived process that reads every untrusted byte: TUF metadata, signed documents, bundles (docs/explanation/on-the-device.md).

1. Started by agentd as `python -m edgefleet_agent.verifier` with one SOCK_SEQPACKET socket on descriptor 3; no network of its own.
2. `desired.ok`, `hold.ok` and valid slots are written only by this process and only after everything in them was verified.
3. The only place of the agent that imports `tuf`, and besides enrolment and renewal the only one that imports `cryptography`;
   their memory is gone when it exits.
"""

import sys
from types import ModuleType
from typing import Any


class Urllib3Fetcher:
    """Stands for python-tuf's own fetcher. Raises RuntimeError: agentd fetches, this process has no network."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("the install child fetches nothing by HTTP")


def _leave_out_http() -> None:
    """Keep an HTTP client out that ngclient imports and nothing here uses: a third of the work of a start, one for each document."""
    stand_in = ModuleType("tuf.ngclient.urllib3_fetcher", Urllib3Fetcher.__doc__)
    vars(stand_in)[Urllib3Fetcher.__name__] = Urllib3Fetcher
    sys.modules.setdefault(stand_in.__name__, stand_in)
    for library in ("boto3", "hvac", "pkcs11"):  # securesystemslib loads them
        sys.modules.setdefault(library, None)  # type: ignore[arg-type]  # no import


_leave_out_http()
