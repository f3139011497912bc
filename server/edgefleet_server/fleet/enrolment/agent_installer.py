"""How a machine gets the agent from this server: the line to type, the script that it runs, and the page about them.

Trust: the line is made for an operator, over the API, and carries the SHA-256 of the CA's certificate. It fetches that certificate
without verification, compares it, and verifies all that follows against it. The script is fetched so, and names the SHA-256 of what it
installs. The page names no pin: who reads it has verified nothing yet.
Source: docs/how-to/enrol-a-device.md.
"""

import shlex
from pathlib import Path
from typing import Final

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.fleet.enrolment.agent_packages import ADD, AgentPackage, AgentPackages, PackageKind
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.signing.service import SigningService

SCRIPT: Final = "install.sh"


class NoAgentPackageError(EdgefleetError):
    """The server has no such package of the agent."""

    code = "agent.package_not_found"


class AgentInstaller:
    """Hands out the agent. Thread-safe; calls block."""

    def __init__(self, packages: AgentPackages, addresses: ServerAddresses, signing: SigningService) -> None:
        """Wire the parts."""
        self._packages = packages
        self._addresses = addresses
        self._signing = signing

    def line(self) -> str | None:
        """Return what to type on a machine, which reads a claim token from standard input; None without a wheel."""
        if self._packages.find(PackageKind.WHEEL) is None:
            return None
        return install_line(self._addresses.device_url, sha256_hex(self._signing.ca_pem()))

    def script(self) -> bytes:
        """Return the installer. Raises NoAgentPackageError."""
        wheel, deb = (self._packages.find(kind) for kind in (PackageKind.WHEEL, PackageKind.DEB))
        if wheel is None:
            raise NoAgentPackageError("this server has no package of the agent yet", next_step=ADD)
        return install_script(self._addresses.device_url, self._signing.ca_pem().decode(), wheel, deb).encode()

    def package(self, name: str) -> AgentPackage:
        """Return a package by its file name. Raises NoAgentPackageError."""
        found = next((package for package in self._packages.all() if package.name == name), None)
        if found is None:
            raise NoAgentPackageError(f"this server has no package {name[:80]!r} of the agent", next_step=ADD)
        return found

    def data(self, package: AgentPackage) -> bytes:
        """Return the bytes of a package, their digest checked. Raises AgentPackageDamagedError, BlobStoreError."""
        return self._packages.read(package)

    def page(self) -> str:
        """Return what there is, for people, as plain text."""
        found = self._packages.all()
        rows = [f"  {package.name}  {package.length} bytes\n    sha256 {package.sha256}" for package in found]
        how = (
            ["It has:", "", *rows, "", "`edgectl device enroll` prints the line that installs it: the line checks this server's",
             f"CA first, then runs {SCRIPT}. Do not copy a line from a page that you have not verified."]
            if found
            else ["It has no package yet.", "", ADD]
        )  # fmt: skip
        return "\n".join(["This server hands out edgefleet's agent to machines that become its devices.", *how, ""])


def install_line(url: str, ca_sha256: str) -> str:
    """Return the line for a server at `url` whose CA certificate (PEM, as it is served) has this digest."""
    ca, script = (shlex.quote(f"{url}/{path}") for path in ("device/v1/ca", f"agent/{SCRIPT}"))  # a host may be [IPv6]
    steps = (
        f"curl -qfsSko ca.pem {ca}",
        f"echo '{ca_sha256}  ca.pem' | sha256sum -c",
        f"curl -qfsSo {SCRIPT} --cacert ca.pem {script}",
        f"sh {SCRIPT}",
    )
    # -q comes first: an `insecure` in somebody's .curlrc would undo --cacert
    # not `cd "$(mktemp -d)"`: without a folder that stays where others may write, and overwrites what is there
    return f'(dir="$(mktemp -d)" && cd "$dir" && {" && ".join(steps)})'


def install_script(url: str, ca_pem: str, wheel: AgentPackage, deb: AgentPackage | None) -> str:
    """Return the script of deploy/ with what it installs in front."""
    facts = {
        "url": url,
        "ca": ca_pem.strip(),
        "wheel": wheel.name,
        "wheel_sha256": wheel.sha256,
        "deb": deb.name if deb else "",
        "deb_sha256": deb.sha256 if deb else "",
        "unit": _deployed("edge-agent.service"),
    }
    first, _, body = _deployed("install-agent.sh").partition("\n")
    return "\n".join([first, *(f"{name}={shlex.quote(value)}" for name, value in facts.items()), body])


def _deployed(name: str) -> str:
    """Return a file of deploy/: in the wheel it lies here."""
    here = Path(__file__)
    inside = here.with_name(name)
    return (inside if inside.is_file() else here.parents[4] / "deploy" / name).read_text("utf-8")
