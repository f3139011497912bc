"""Asks a child process to send a message by Apprise, or to look at a URL. Blocks; thread-safe."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.contact_points.errors import BadContactError, ContactUnavailableError
from edgefleet_server.alerting.contact_points.model import Message
from edgefleet_server.outbound.http_post import Posted

CHILD: Final = "edgefleet_server.alerting.contact_points.apprise_child"
START_S: Final = 10.0
"""What the child may take to start, on top of what it may take to send."""
TAKEN: Final = 200
"""What stands in the delivery log for a message that the service took: Apprise says no more than yes or no."""
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Looked:
    """A URL and what it is. shown: without secrets."""

    url: str = field(repr=False)
    shown: str
    service: str


class AppriseClient:
    """Sends by Apprise. networks: private ones that may be called; folder: whose files the child may not open."""

    def __init__(self, networks: Sequence[str], folder: Path, clock: Clock) -> None:
        """Wire the parts."""
        self._fixed = {"networks": list(networks), "folder": str(folder.absolute())}
        self._clock = clock

    def look(self, url: str) -> Looked:
        """Return what a URL is. Raises BadContactError, ContactUnavailableError."""
        answer = self._ask({"url": url}, START_S)
        if not answer["ok"]:
            raise BadContactError(
                f"this contact point cannot be used: {answer['error']}",
                next_step=answer.get("next")
                or "write a URL as on https://github.com/caronc/apprise/wiki, for example mailtos://USER:PASSWORD@HOST?to=ops@example.org",
            )
        return Looked(url, answer["shown"], answer["service"])

    def send(self, url: str, message: Message, kind: str, timeout_s: float) -> Posted:
        """Send a message. kind: info, success, warning or failure. Raises ContactUnavailableError."""
        start_s = self._clock.monotonic_s()
        asked = {"url": url, "subject": message.subject, "text": message.text, "kind": kind}
        answer = self._ask(asked, timeout_s)
        if not answer["ok"]:
            raise ContactUnavailableError(
                answer["error"], next_step="correct the contact point, or see that its service runs"
            )
        return Posted(TAKEN, "", "", max(0.0, self._clock.monotonic_s() - start_s))

    def _ask(self, asked: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", CHILD],
                input=json.dumps({**self._fixed, **asked}),
                capture_output=True,
                text=True,
                timeout=START_S + timeout_s,
                env=environment,
                check=False,
            )
            answer: dict[str, Any] = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return {"ok": False, "error": f"no answer within {timeout_s:g} s"}
        except ValueError:
            return {"ok": False, "error": "the process that sends by Apprise ended without an answer"}
        if answer.get("missing"):
            raise ContactUnavailableError(
                answer["error"], next_step="install it there: pip install 'edgefleet[alerts]'"
            )
        return answer
