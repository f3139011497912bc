"""Gives the agent of a trial a claim, and Prometheus a token that sees fleet and models: each once, readable by its user only."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

AGENT, PROMETHEUS = 10001, 65534
"""Users of the images."""
SERVER = "http://server:8080"
ADMIN = Path("/var/lib/edgefleet-server/admin.token")
TRIES, PAUSE_S = 150, 2.0


def is_ready() -> bool:
    """Say whether the server answers that it is ready."""
    try:
        with urllib.request.urlopen(f"{SERVER}/readyz", timeout=10):  # noqa: S310  # our own address
            return ADMIN.exists()
    except OSError:
        return False


def edgectl(*arguments: str) -> str:
    """Run a command as the first administrator, and return what it prints."""
    environment = {**os.environ, "EDGECTL_SERVER": SERVER, "EDGECTL_TOKEN": ADMIN.read_text("ascii").strip()}
    done = subprocess.run(["edgectl", *arguments], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return done.stdout


def give(made: Path, place: Path, user: int) -> None:
    """Hand a file over to the user of an image, whole or not at all."""
    made.chmod(0o600)
    os.chown(made, user, 0)
    made.replace(place)


for _ in range(TRIES):
    if is_ready():
        break
    time.sleep(PAUSE_S)
else:
    sys.exit("the server does not become ready: docker compose logs server")
claim = Path("/claims/claim")
if not claim.exists():
    edgectl("device", "enroll", "--name", "trial", "--label", "site=here", "--out", "/claims/new")
    (made,) = Path("/claims/new").glob("*.token")
    give(made, claim, AGENT)
token = Path("/prometheus/token")
if not token.exists():
    fresh = token.with_suffix(".new")
    if '"prometheus"' not in edgectl("person", "list", "-o", "json"):
        edgectl("person", "add", "prometheus", "--kind", "service")
    fresh.write_text(edgectl("token", "create", "--name", "prometheus", "--role", "viewer", "--never"))
    give(fresh, token, PROMETHEUS)
