"""Entries whose source is a float `.tflite` file, made of other entries' nets by our own compiler, in float32 or float16."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Literal

from bench._comparison_files import Ask, by_edgefleet
from bench.real_models import Case
from bench.zoo.entry import Entry
from bench.zoo.families import FAMILIES
from bench.zoo.trained import TRAINED

_NETS = ("mobilenet-shapes", "mlp-three-targets", "tcn-activity", "unet-mask", "sklearn-mlp", "resnet-digits")


def _compiled(of: Entry, precision: Literal["fp32", "fp16"], seed: int, folder: Path) -> Path:
    """Make the entry's net, and of it a TFLite file. Raises Failed when our compiler refuses it."""
    source = of.make(seed, folder)
    parts = [of.draw(seed, count, seed + at).as_data(labelled=of.labelled) for at, count in ((2, 60), (3, 60))]
    case = Case(source, (parts[0], parts[1], parts[1]), None, lambda *_: {}, lambda _: True, "")
    with tempfile.TemporaryDirectory() as place:
        made = by_edgefleet(Ask(case, source, Path(), Path(place)), "generic-x86_64-litert", precision)
    source.unlink()
    out = folder / "model.tflite"
    out.write_bytes(made.data)
    return out


def _entries() -> tuple[Entry, ...]:
    found = {entry.name: entry for entry in (*TRAINED, *FAMILIES)}
    precisions: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
    return tuple(
        dataclasses.replace(
            found[name], name=f"{name}-{precision}.tflite", kind=f"float{precision[2:]} .tflite",
            source=f"{found[name].source}, compiled by edgefleet", make=functools.partial(_compiled, found[name], precision),
        )
        for name in _NETS
        for precision in precisions
        if (name, precision) not in {("sklearn-mlp", "fp32"), ("resnet-digits", "fp32")}
    )  # fmt: skip


COMPILED: tuple[Entry, ...] = _entries()
