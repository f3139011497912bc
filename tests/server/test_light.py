"""What starts beside a server, or before one, imports only what it needs: each start of all of it costs some of a second more."""

import subprocess
import sys

import pytest

WEB = ("fastapi", "starlette", "uvicorn", "jinja2", "edgefleet_server.web.pagination")
FLEET = (
    "edgefleet_server.events",
    "edgefleet_server.fleet",
    "edgefleet_server.rollout",
    "edgefleet_server.webhook",
    "edgefleet_server.alerting",
)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("edgefleet_server.process.conversion_worker", (*WEB, *FLEET, "alembic")),
        ("edgefleet_server.process.init", (*WEB, *FLEET, "alembic")),
        ("edgefleet_server.process.lifecycle", ("alembic",)),
    ],
)
def test_a_process_starts_without(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [one for one in loaded if one in heavy or one.startswith(tuple(f"{name}." for name in heavy))] == []
