"""The work of one inference, as the bundle's manifest keeps it. Counts only: nothing here was measured with a clock.

`macs` holds multiply-adds by kind of operator and of number (`conv.float`, `matmul.int8`), `products` how many operators they are
of, by the same keys. `integers` holds what integers make slower: values that are rounded on each run (`round`), looked up in a table
(`lookup`), go through a softmax (`softmax`), and multiply-adds of two activations (`product`). `weight_bytes` are read once a run
each time an operator reads them, `activation_bytes` are read or written, `largest_bytes` is what one operator holds of both kinds
of activation at a time.
"""

from dataclasses import dataclass, field
from typing import Any, Final

INTEGERS: Final = frozenset({"int2", "int4", "uint4", "int8", "uint8", "int16", "uint16"})


@dataclass
class Work:
    """Sums over operators."""

    nodes: int = 0
    macs: dict[str, int] = field(default_factory=dict)
    products: dict[str, int] = field(default_factory=dict)
    integers: dict[str, int] = field(default_factory=dict)
    weight_bytes: int = 0
    activation_bytes: int = 0
    largest_bytes: int = 0

    def add(self, *, weights: int, read: int, written: int) -> None:
        """Count one operator. weights, read, written: bytes."""
        self.nodes += 1
        self.weight_bytes += weights
        self.activation_bytes += read + written
        self.largest_bytes = max(self.largest_bytes, read + written)

    def add_macs(self, kind: str, count: int, *, is_integer: bool) -> None:
        """Count multiply-adds. kind: conv, depthwise, matmul or recurrent."""
        if count > 0:
            key = f"{kind}.{'int8' if is_integer else 'float'}"
            self.macs[key] = self.macs.get(key, 0) + count
            self.products[key] = self.products.get(key, 0) + 1

    def add_integers(self, kind: str, count: int) -> None:
        """Count values or multiply-adds. kind: round, lookup, softmax or product."""
        if count > 0:
            self.integers[kind] = self.integers.get(kind, 0) + count

    def add_rounds(self, each: "Work", rounds: int) -> None:
        """Count a loop. each: what one round does."""
        self.nodes += each.nodes
        self.weight_bytes += rounds * each.weight_bytes
        self.activation_bytes += rounds * each.activation_bytes
        self.largest_bytes = max(self.largest_bytes, each.largest_bytes)
        for mine, theirs in ((self.macs, each.macs), (self.products, each.products), (self.integers, each.integers)):
            for key, count in theirs.items():
                if rounds:
                    mine[key] = mine.get(key, 0) + rounds * count

    def facts(self) -> dict[str, Any]:
        """Return plain data with sorted keys."""
        return {
            "nodes": self.nodes, "macs": dict(sorted(self.macs.items())), "products": dict(sorted(self.products.items())),
            "integers": dict(sorted(self.integers.items())), "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes, "largest_bytes": self.largest_bytes,
        }  # fmt: skip
