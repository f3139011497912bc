"""The process that sends one message by Apprise, or looks at a URL: JSON on stdin, one line of JSON on stdout.

Apprise speaks to a hundred services, each in its own way, so no check of a URL could say where all of them connect to. Here the process
itself is held to the policy (`outbound.address_policy`): an audit hook sees every connection, also after a redirect or a second look-up
of the name, and refuses what the server must not call. It also starts no process and opens no file of the data folder.
"""

import ipaddress
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.outbound.address_policy import Network, Target, addresses_of, parse_networks

NOT_INSTALLED: Final = "Apprise is not installed where the server runs"
_PROCESSES: Final = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.spawn"}
)
_LOCAL: Final = frozenset({"syslog", "dbus", "kde", "qt", "glib", "gnome", "macosx", "windows"})
"""Services of the machine that the server runs on: nobody there reads them."""
_LONG: Final = 16


class _Guard:
    """Refuses what the policy does not allow; `refused` says the first thing that it refused."""

    def __init__(self, networks: Sequence[Network], folder: str) -> None:
        self._networks = networks
        self._folder = folder
        self.is_plain = False
        self.refused = ""

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto"):
            self._check(args[-1])
        elif event in _PROCESSES:
            self._refuse("this service starts a program")
        elif event == "open" and self._folder and isinstance(args[0], str) and args[0].startswith(self._folder):
            self._refuse("this service opens a file of the server")

    def _check(self, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            self._refuse("this service does not use the network")
        try:
            scheme = "http" if self.is_plain else "https"
            addresses_of(Target(scheme, host, int(address[1]), "/"), self._networks, lambda _host, _port: [host])
        except EdgefleetError as error:
            self._refuse(error.message)

    def _refuse(self, why: str) -> None:
        self.refused = self.refused or why
        raise PermissionError(why)


class _Said(logging.Handler):
    """Keeps what Apprise says went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> int:
    """Do what stdin asks for. Returns the exit code."""
    asked: dict[str, Any] = json.load(sys.stdin)
    try:
        answer = _done(asked)
    except ImportError:
        answer = {"ok": False, "error": NOT_INSTALLED, "missing": True}
    except Exception as error:  # noqa: BLE001  # a plugin may raise anything; the parent needs an answer
        answer = {"ok": False, "error": f"{type(error).__name__} in Apprise"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _done(asked: Mapping[str, Any]) -> dict[str, Any]:
    import apprise

    said = _Said()
    logger = logging.getLogger("apprise")
    logger.addHandler(said)
    logger.propagate = False
    guard = _Guard(parse_networks(asked["networks"]), asked["folder"])
    one = apprise.Apprise.instantiate(asked["url"], suppress_exceptions=True)
    if one is None:
        return {"ok": False, "error": "Apprise knows no service of this URL, or a part of it is missing", "bad": True}
    if asked["url"].partition("://")[0].lower() in _LOCAL:
        return {
            "ok": False,
            "error": "this service is one of the server's own machine, where nobody reads it",
            "bad": True,
        }
    guard.is_plain = _is_plain(one)
    if "text" not in asked:
        return _looked_at(one, guard)
    import certifi  # noqa: F401  # its file is read before the guard holds

    sys.addaudithook(guard)
    is_sent = bool(
        one.notify(body=asked["text"], title=asked["subject"], body_format="text", notify_type=asked["kind"])
    )
    if is_sent:
        return {"ok": True, "error": ""}
    return {
        "ok": False,
        "error": _scrubbed(guard.refused or (said.lines or ["the service did not take it"])[-1], asked["url"]),
    }


def _is_plain(one: Any) -> bool:
    """Return whether a service that the URL names the host of is spoken to without encryption."""
    return not one.secure and _names_host(one)


def _names_host(one: Any) -> bool:
    if getattr(one, "mode", "") == "cloud":
        return False
    return hasattr(one, "smtp_host") or any("{host}" in str(each) for each in one.templates)


def _looked_at(one: Any, guard: _Guard) -> dict[str, Any]:
    host = str(getattr(one, "smtp_host", "") or one.host or "") if _names_host(one) else ""
    if host:
        try:
            scheme = "http" if guard.is_plain else "https"
            addresses_of(Target(scheme, host, int(one.port or 0), "/"), guard._networks)
        except EdgefleetError as error:
            return {"ok": False, "error": error.message, "next": error.next_step, "bad": True}
    shown = str(one.url(privacy=True)).partition("?")[0]
    shown = re.sub(rf"[^/:@?.\s]{{{_LONG},}}", lambda found: f"{found[0][0]}...{found[0][-1]}", shown)
    return {"ok": True, "error": "", "shown": shown[:200], "service": str(one.service_name)[:60]}


def _scrubbed(text: str, url: str) -> str:
    """Return what went wrong without parts of the URL that may be secret."""
    for part in sorted({*re.split(r"[/:@?&=,]", url)}, key=len, reverse=True):
        if len(part) >= 6 and part not in ("mailto", "mailtos"):
            text = text.replace(part, "****")
    return text[:500]


if __name__ == "__main__":
    sys.exit(main())
