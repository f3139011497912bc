"""Why a release is not cut."""

from __future__ import annotations


class RefusalError(Exception):
    """The release is not cut. what: what is wrong; why: what was found; next_step: what to do."""

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        """Return the three lines of an error, as `./dev` prints them."""
        return f"error: {self.what}\nwhy:   {self.why}\nnext:  {self.next_step}"
