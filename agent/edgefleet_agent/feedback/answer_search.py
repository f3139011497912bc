"""Answers of the prediction log by their trace ids, in steps: the log is some megabytes, and agentd has other things to do."""

from collections.abc import Collection, Iterator
from pathlib import Path

from edgefleet_agent.captures.prediction_log import blocks_of, log_files
from edgefleet_agent.feedback.label_counts import Answer

Key = tuple[str, str]
"""Model and trace id."""


class AnswerSearch:
    """Looks for answers, the newest file first; of several with one id the newest is found. oldest_s: the first one remembered."""

    def __init__(self, folder: Path, wanted: Collection[Key]) -> None:
        """Look for nothing yet: `steps` does."""
        self._folder = folder
        self._wanted = frozenset(wanted)
        self.found: dict[Key, Answer] = {}
        self.oldest_s = 0

    def steps(self) -> Iterator[None]:
        """Yield after each block of the log. An unreadable file is as none."""
        left = set(self._wanted)
        models = {model for model, _ in left}
        files = log_files(self._folder)
        for path in reversed(files):
            if not left:
                break
            here: dict[Key, Answer] = {}
            try:
                data = path.read_bytes()
            except OSError:
                continue
            first_ms = 0
            for block in blocks_of(data):
                first_ms = first_ms or block.t0_ms
                if block.model in models:
                    for row in block.rows:
                        key = block.model, row.trace_id
                        if key in left:
                            at_ms = block.t0_ms + row.after_ms
                            here[key] = Answer(block.version, block.sha256, block.lane, row.top, row.score, at_ms)
                yield
            self.oldest_s = first_ms // 1_000 or self.oldest_s
            self.found |= here
            left -= here.keys()
