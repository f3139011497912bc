"""Writes the secrets of a trial, each once: `make_secrets.py FOLDER`. A folder in it is the volume of the service that may read it.

Each file has mode 0600 and belongs to the user of that service. As another user than root (a test) all belong to that user.
"""

import json
import os
import secrets
import sys
from pathlib import Path

SERVER, POSTGRES, GRAFANA, S3 = 10001, 999, 472, 1000
"""Users of the images."""


def own(path: Path, user: int) -> None:
    """Give a file or folder to a user of an image."""
    if os.geteuid() == 0:
        os.chown(path, user, 0)


def write(path: Path, text: str, user: int) -> None:
    """Write a secret that only its reader may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    own(fresh, user)
    fresh.replace(path)


folder = Path(sys.argv[1])
# folders of their users, where the image brings none; the store has one in its volume, since Docker gives an empty one to the image's user
for name, reader in (("broker", SERVER), ("claims", SERVER), ("s3-data/store", S3)):
    (folder / name).mkdir(parents=True, exist_ok=True)
    own(folder / name, reader)

if not (folder / "server/database-url").exists():  # written last
    password = secrets.token_urlsafe(24)
    write(folder / "database/password", password, POSTGRES)
    write(folder / "server/database-url", f"postgresql+psycopg://edgefleet:{password}@postgres/edgefleet", SERVER)
if not (folder / "server/s3-secret").exists():
    key = secrets.token_urlsafe(24)
    allowed = ["Admin", "Read", "Write", "List"]
    identity = {"name": "edgefleet", "credentials": [{"accessKey": "edgefleet", "secretKey": key}], "actions": allowed}
    write(folder / "s3/s3.json", json.dumps({"identities": [identity]}), S3)
    write(folder / "server/s3-secret", key, SERVER)
if not (folder / "grafana/password").exists():
    write(folder / "grafana/password", secrets.token_urlsafe(24), GRAFANA)
