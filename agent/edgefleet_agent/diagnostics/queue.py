"""`edge-agent queue`: what waits for the server, by class. Opens the outbox read-only: the running agent is not disturbed."""

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgefleet_agent.connection.outbox import Kind
from edgefleet_agent.core.text_table import sheet, size


def queue(path: Path) -> dict[str, Any]:
    """Return `{"messages", "bytes", "dropped", "file_bytes", "classes": [{"class", "messages", "bytes"}], "error"}`.

    bytes: of payloads. error: "" or why the file cannot be read; the counts are 0 then.
    """
    classes: list[dict[str, Any]] = []
    dropped, error = 0, ""
    if path.exists():
        try:
            db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2.0)
            try:
                rows = db.execute(
                    "SELECT kind, COUNT(*), SUM(LENGTH(payload)) FROM message GROUP BY kind ORDER BY kind"
                )
                classes = [{"class": _word(k), "messages": n, "bytes": count} for k, n, count in rows.fetchall()]
                found = db.execute("SELECT value FROM count WHERE name = 'dropped'").fetchone()
                dropped = int(found[0]) if found else 0
            finally:
                db.close()
        except sqlite3.Error as problem:
            error = str(problem)
    return {
        "messages": sum(row["messages"] for row in classes),
        "bytes": sum(row["bytes"] for row in classes),
        "dropped": dropped,
        "file_bytes": sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")),
        "classes": classes,
        "error": error,
    }


def queue_text(found: dict[str, Any]) -> str:
    """Return the same as a table."""
    if found["error"]:
        return f"the queue cannot be read: {found['error']}"
    rows = [(row["class"], row["messages"], size(row["bytes"])) for row in found["classes"]]
    rows.append(("all", found["messages"], size(found["bytes"])))
    table = sheet(("class", "messages", "bytes"), rows, right=("messages", "bytes"))
    return f"{table}\n{found['dropped']} ever dropped; {size(found['file_bytes'])} on the disk"


def _word(kind: int) -> str:
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return f"class {kind}"
