"""Writes the secrets of a trial, each once: `make_secrets.py FOLDER`. A folder is the volume of the service that may read it."""

import secrets
import sys
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a file that all users of its volume may read, unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.chmod(0o444)
    fresh.replace(path)


folder = Path(sys.argv[1])
if not (folder / "database/url").exists():  # written last
    password = secrets.token_urlsafe(24)
    write(folder / "database/password", password)
    write(folder / "database/url", f"postgresql+psycopg://edgefleet:{password}@postgres/edgefleet")
if not (folder / "grafana/password").exists():
    write(folder / "grafana/password", secrets.token_urlsafe(24))
