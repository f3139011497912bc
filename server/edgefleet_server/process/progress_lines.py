"""Progress of a command of the server as lines of JSON, which `edgectl` shows as a bar."""

import json
import sys
import time
from typing import Final

EVERY_S: Final = 0.1


class ProgressLines:
    """Writes progress as lines, ten a second at most, and the first and last of each stage."""

    def __init__(self) -> None:
        """Begin without a stage."""
        self._stage, self._at = "", 0.0

    def __call__(self, stage: str, done: int, total: int, words: str) -> None:
        """Write where a stage is."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._at < EVERY_S:
            return
        self._stage, self._at = stage, now
        line = {"stage": stage, "pct": 100.0 if total <= 0 else min(100.0, 100.0 * done / total), "message": words}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
