"""Starts `oidc-provider`, and signs in at it as a browser would. `python -m` this module installs it.

It is installed when it is first needed, from the lock file with its hashes, and once into `EDGEFLEET_TEST_CACHE` (or a folder in the
system's temporary folder).
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.support.real_models import cache_folder

_HERE = Path(__file__).parent
_FORM = re.compile(r'<form[^>]* action="([^"]+)"')
MIN_NODE = 20
"""Debian 12 has 18, where `oidc-provider` does not start."""
CLIENT = "edgefleet"
SECRET = "of the client, at the issuer"


def installed() -> Path | None:
    """Return the folder with `oidc-provider`, installed now if it is not; None without npm and a Node.js that runs it, or offline."""
    digest = sha256((_HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"oidc-provider-{digest}"
    if _node_version() < MIN_NODE or shutil.which("npm") is None:
        return None
    if (folder / "installed").is_file():
        return folder
    with tempfile.TemporaryDirectory(dir=cache_folder()) as made:  # two processes of tests may install at the same time
        new = Path(made) / "new"
        new.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_HERE / name, new / name)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(command, cwd=new, capture_output=True, text=True, timeout=300, check=True)
        except subprocess.SubprocessError as error:
            print(f"{error}: {str(getattr(error, 'stderr', ''))[-500:]}", file=sys.stderr)
            return None
        (new / "installed").touch()
        with suppress(OSError):  # another process was first
            new.rename(folder)
    return folder


def _node_version() -> int:
    """Return the major version of Node.js, 0 without it."""
    if shutil.which("node") is None:
        return 0
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.match(r"v(\d+)\.", said)
    return int(found[1]) if found else 0


@dataclass
class RealIssuer:
    """A running issuer. url: what it calls itself."""

    url: str

    def know(self, people: Mapping[str, Mapping[str, Any]]) -> None:
        """Let these people sign in, each with the claims of their ID token."""
        httpx.put(f"{self.url}/test/people", json=people).raise_for_status()

    def answer_for(self, address: str, login: str, browser: httpx.Client | None = None) -> str:
        """Sign in at the issuer, with any password; return the address that it leads the browser back to, which is not opened."""
        with nullcontext(browser) if browser is not None else httpx.Client() as client:
            for _ in range(12):
                answer = client.get(address)
                form = _FORM.search(answer.text) if answer.status_code == 200 else None
                if form is not None:
                    fields = {"prompt": "login", "login": login, "password": "any"}
                    answer = client.post(urljoin(address, form[1]), data=fields)
                assert answer.status_code in (302, 303), answer.text
                address = urljoin(address, answer.headers["location"])
                if not address.startswith(self.url):
                    return address
        raise AssertionError("the issuer leads in a circle")

    def sign_out(self, browser: httpx.Client) -> None:
        """Sign a browser out at the issuer, which tells its clients."""
        page = browser.get(f"{self.url}/session/end")
        xsrf = re.search(r'name="xsrf" value="([^"]+)"', page.text)
        assert xsrf is not None, page.text
        done = browser.post(f"{self.url}/session/end/confirm", data={"xsrf": xsrf[1], "logout": "yes"})
        assert done.status_code in (302, 303), done.text


@contextmanager
def real_issuer(redirects: Sequence[str], logout: str = "http://127.0.0.1:9/") -> Iterator[RealIssuer]:
    """Run an issuer that leads back to these addresses only, and says at `logout` who signed out. Skips where it cannot be installed."""
    folder = installed()
    if folder is None:
        pytest.skip(
            f"oidc-provider is not installed: it needs Node.js {MIN_NODE} or newer and npm (Debian 13: nodejs npm), and npm's registry once"
        )
    script = folder / "issuer.mjs"
    shutil.copy(_HERE / "issuer.mjs", script)
    given = json.dumps({"client": CLIENT, "secret": SECRET, "redirects": list(redirects), "logout": logout})
    command = ["node", str(script), given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), "the issuer did not start"
            yield RealIssuer(url)
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(0 if installed() else "oidc-provider could not be installed")
