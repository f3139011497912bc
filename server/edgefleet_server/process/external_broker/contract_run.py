"""`edgectl server check broker`: runs the broker contract against any broker, with throw-away certificates of the server's device CA.

    python -m edgefleet_server.process.external_broker.contract_run --data DIR --url mqtts://HOST:PORT [--ca FILE] [--only NAME ...]

Prints one line of JSON a check as it is made, `{"check", …}`, and a last one, `{"fit", …}`. The certificates are valid for an hour and
are revoked at the end where the server's own list knows them. Exit codes: 0 fit, 3 something that is needed is missing, 1 not checked.
"""

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_tenant
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.worker_container import build_signing
from edgefleet_server.db.database import Database
from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, parse_broker_url
from edgefleet_server.gateway.broker_contract.catalogue import CHECKS
from edgefleet_server.gateway.broker_contract.contract_runner import run_all
from edgefleet_server.gateway.broker_contract.model import Finding, is_fit
from edgefleet_server.gateway.broker_contract.stand import Stand
from edgefleet_server.gateway.mqtt import LinkIdentity
from edgefleet_server.process.init import report_error
from edgefleet_server.settings import ServerSettings, load_settings
from edgefleet_server.signing.authority import DeviceAuthority, new_p256_key, private_pem
from edgefleet_server.signing.client_identities import BriefIdentity
from edgefleet_server.signing.keys.outside_certificates import CHECK_LIFE
from edgefleet_server.signing.service import SigningService

UNFIT: Final = 3


class ThrowAwayIssuer:
    """Certificates for an hour, in a folder that is deleted afterwards (satisfies `Issuer`)."""

    def __init__(self, signing: SigningService, folder: Path, clock: SystemClock, *, is_served: bool) -> None:
        """Wire the parts. is_served: a server runs that hands the broker its list of revoked certificates."""
        self._signing = signing
        self._folder = folder
        self._clock = clock
        self._is_served = is_served
        self._made: set[str] = set()

    def account(self, name: str) -> LinkIdentity:
        """Issue a client certificate."""
        self._made.add(name)
        return self._written(self._signing.outside.for_account(name, CHECK_LIFE), "")

    def expired(self, name: str) -> LinkIdentity:
        """Issue one that has ended."""
        return self._written(self._signing.outside.expired(name), "expired-")

    def listener(self, name: str) -> LinkIdentity:
        """Issue one for servers."""
        return self._written(self._signing.outside.for_listener([name]), "listener-")

    def stranger(self, name: str) -> LinkIdentity:
        """Issue one of a CA that is made for it."""
        authority, key = DeviceAuthority(self._folder / "stranger"), new_p256_key()
        (self._folder / "stranger").mkdir(exist_ok=True)
        authority.create(self._clock.now())
        issued = authority.issue_client(key.public_key(), name, self._clock.now(), CHECK_LIFE)
        return self._written(BriefIdentity(name, issued.pem, private_pem(key)), "stranger-")

    def revoke(self, name: str) -> str:
        """Revoke it; the running server hands the broker its list."""
        if not self._is_served:
            return "no server runs on this data folder that could hand the broker a list"
        self._signing.outside.revoke([name])
        return ""

    def end(self) -> None:
        """Revoke every client certificate that was issued."""
        self._signing.outside.revoke(sorted(self._made))

    def _written(self, brief: BriefIdentity, prefix: str) -> LinkIdentity:
        cert, key = self._folder / f"{prefix}{brief.name}.crt", self._folder / f"{prefix}{brief.name}.key"
        key.touch(mode=0o600)
        key.write_bytes(brief.key)
        cert.write_bytes(brief.cert)
        return LinkIdentity(brief.name, cert, key)


def check(settings: ServerSettings, given: argparse.Namespace) -> bool:
    """Run the checks and print their findings; return whether the broker is fit. Raises EdgefleetError."""
    unknown = set(given.only) - {one.name for one in CHECKS}
    if unknown:
        names = ", ".join(one.name for one in CHECKS)
        raise BrokerSettingError(f"no check is named {min(unknown)!r}", next_step=f"name one of {names}")
    host, port = parse_broker_url(given.url)
    clock, db = SystemClock(), Database(settings.database)
    findings: list[Finding] = []
    try:
        db.ping()
        signing = build_signing(settings, db, clock)
        endpoint = BrokerEndpoint(BrokerKind.EXTERNAL, host, port, "5", given.ca or signing.ca_file)
        with tempfile.TemporaryDirectory(prefix="edgefleet-check-") as folder:
            is_served = any(settings.run_dir.glob("*.json"))
            issuer = ThrowAwayIssuer(signing, Path(folder), clock, is_served=is_served)
            stand = Stand(endpoint, issuer, parse_tenant(settings.tenant), secrets.token_hex(3))
            stand.server().disconnect()  # a broker that cannot be reached at all is no finding but an error
            try:
                for finding in run_all(stand, given.only):
                    findings.append(finding)
                    _say(_document(finding))
            finally:
                issuer.end()
    finally:
        db.dispose()
    _say({"fit": is_fit(findings), "missing": [one.check.name for one in findings if one.is_missing]})
    return is_fit(findings)


def _document(finding: Finding) -> dict[str, Any]:
    one = finding.check
    return {
        "check": one.name,
        "need": one.need.value,
        "outcome": finding.outcome.value,
        "found": finding.found,
        "why": one.why,
        "remedy": one.remedy,
        "took_s": round(finding.took_s, 2),
    }


def _say(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run `server check broker`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server check broker", description="Check a broker.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--only", action="append", default=[])
    given = parser.parse_args(arguments)
    try:
        return 0 if check(load_settings(given.data.absolute()), given) else UNFIT
    except (EdgefleetError, OSError) as error:
        known = (
            error if isinstance(error, EdgefleetError) else BrokerSettingError(f"the broker cannot be checked: {error}")
        )
        report_error(known)
        return 1


if __name__ == "__main__":
    sys.exit(main())
