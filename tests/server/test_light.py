"""What starts beside a server, or before one, imports only what it needs: each start of all of it costs some of a second more."""

import os
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


KEY_SERVICES = ("boto3", "botocore", "hvac", "pkcs11")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("edgefleet_server.process.conversion_worker", (*WEB, *FLEET, *KEY_SERVICES, "alembic")),
        ("edgefleet_server.main", (*KEY_SERVICES, *FLEET, "fastapi")),
        ("edgefleet_server.process.init", (*WEB, *FLEET, *KEY_SERVICES, "alembic")),
        ("edgefleet_server.process.lifecycle.server_lifecycle", (*KEY_SERVICES, "alembic")),
        (
            "edgefleet_server.process.secret_sealer",
            (*KEY_SERVICES, "uvicorn", "jinja2", "edgefleet_server.process.lifecycle"),
        ),
    ],
)
def test_a_process_starts_without(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [one for one in loaded if one in heavy or one.startswith(tuple(f"{name}." for name in heavy))] == []


_SIGNERS = """
import sys
from edgefleet_server.signing.keys import service_libraries
service_libraries.leave_out()
import edgefleet_server.signing.signer.question_handler, edgefleet_server.process.lifecycle.server_lifecycle
from datetime import UTC, datetime
from edgefleet_server.signing.keys.inventory import KeyAlgorithm, KeyRecord, KeySource, KeyState
from edgefleet_server.signing.keys.signer_uris import open_signer
from edgefleet_server.signing.errors import SignerUnavailableError
from pathlib import Path
loaded = lambda: [name for name in ("boto3", "hvac", "pkcs11") if name in sys.modules]
print(loaded())
for uri in ("hsm:01", "hv:digits/1", "awskms:alias/digits"):
    made = KeyState.ACTIVE, datetime.now(UTC), KeySource.GIVEN
    record = KeyRecord("0" * 64, "director", uri, KeyAlgorithm.ED25519, "0" * 64, *made)
    try:
        open_signer(record, Path(), lambda: b"1234").probe()
    except SignerUnavailableError as error:
        assert "not installed" not in error.message, error.message
    print(loaded())
"""


def test_the_libraries_of_key_services_are_loaded_with_the_first_key_there() -> None:
    away = {"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "t", "AWS_DEFAULT_REGION": "eu-west-1"}
    keys = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
    environment = {**os.environ, **away, **keys, "AWS_MAX_ATTEMPTS": "1", "PYKCS11LIB": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", _SIGNERS], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["[]", "['pkcs11']", "['hvac', 'pkcs11']", "['boto3', 'hvac', 'pkcs11']"]


def test_the_signing_process_imports_no_signer_by_itself() -> None:
    code = "import sys, edgefleet_server.signing.signer.signer_process; print('securesystemslib.signer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
