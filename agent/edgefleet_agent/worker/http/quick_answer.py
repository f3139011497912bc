"""The answer to a known infer request, before it is an answer of HTTP or of shared memory. Needs no numpy."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class QuickAnswer(NamedTuple):
    """An answer. document: its JSON; tensors: what is binary behind it, in its order: bytes, or arrays in the order of the wire."""

    trace_id: str
    document: bytes
    tensors: Sequence[Any]

    def raw(self) -> list[bytes]:
        """Return the JSON and the tensors as bytes."""
        return [self.document, *[one if isinstance(one, bytes) else one.tobytes() for one in self.tensors]]
