"""The table of the zoo: every entry, by name."""

from __future__ import annotations

from bench.zoo.entry import Entry
from bench.zoo.families import FAMILIES
from bench.zoo.packages import PACKAGED
from bench.zoo.tflite_sources import COMPILED
from bench.zoo.trained import TRAINED

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*FAMILIES, *TRAINED, *COMPILED, *PACKAGED)}
"""At least 40 models of at least 12 kinds."""
