"""`python -m tests.sim.write_golden`: write the transcripts of all stories anew. Read the difference before you keep it."""

from __future__ import annotations

from edgefleet_sim.stories import STORIES, transcript
from tests.sim.test_sim import GOLDEN


def main() -> None:
    """Write one file a story."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in STORIES:
        (GOLDEN / f"{name}.txt").write_text(transcript(name), encoding="utf-8")


if __name__ == "__main__":
    main()
