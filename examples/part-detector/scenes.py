"""The data of the example: what a mono camera over a conveyor sees. Drawn, not photographed.

Rules:
- A picture of 96 × 96 grey values shows one to four parts: washers, nuts and bolts, 16 to 27 pixels long, turned at random, apart.
- Parts are bright metal with a dark edge and a shadow. The belt has ribs, the light falls off to one side, the sensor adds noise.
- The change: another belt, of a lighter grey, and a lamp that is weaker and comes from the other side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIDE = 96
LABELS = ("washer", "nut", "bolt")
FINE = 4
"""Pictures are drawn so much larger, and made smaller: smooth edges."""
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Light:
    """How the belt looks. belt: its grey, 0 to 255; metal: that of parts; lamp: brightness of all; falloff: how much darker one side is."""

    belt: float
    metal: float
    lamp: float
    falloff: float


OLD = Light(belt=70, metal=195, lamp=1.0, falloff=0.15)
NEW = Light(belt=115, metal=205, lamp=0.8, falloff=-0.3)


@dataclass(frozen=True)
class Scenes:
    """Pictures. image: float32 `[n, 1, 96, 96]` in 0..1; boxes: of each picture `[k, 5]`: class, x_min, y_min, x_max, y_max in pixels."""

    image: npt.NDArray[np.float32]
    boxes: list[Boxes]


def scenes(n: int, light: Light, seed: int) -> Scenes:
    """Return n pictures; the same on every call."""
    rng = np.random.default_rng(seed)
    made = [_scene(rng, light) for _ in range(n)]
    return Scenes(np.stack([one for one, _ in made])[:, None], [boxes for _, boxes in made])


def _scene(rng: np.random.Generator, light: Light) -> tuple[npt.NDArray[np.float32], Boxes]:
    covered, edge, boxes = _parts(rng)
    shadow = np.roll(covered, (2, 2), axis=(0, 1)) * (1 - covered)
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    ribs = 6 * np.sin(2 * np.pi * (y + rng.uniform(0, 12)) / 12)
    belt = light.belt * rng.uniform(0.9, 1.1) + ribs
    metal = light.metal * rng.uniform(0.9, 1.1)
    grey = belt * (1 - covered) + metal * covered - 60 * edge - 0.35 * belt * shadow
    lit = grey * light.lamp * rng.uniform(0.92, 1.08) * (1 - light.falloff * (x / SIDE - 0.5))
    seen = np.clip(np.round(lit + rng.normal(0, 1.5, lit.shape)), 0, 255)
    return (seen / np.float32(255)).astype(np.float32), boxes


def _parts(rng: np.random.Generator) -> tuple[Boxes, Boxes, Boxes]:
    """Return how much of each pixel parts cover, and their edges, `[96, 96]`, and the boxes `[k, 5]`."""
    mask = Image.new("L", (SIDE * FINE, SIDE * FINE))
    edge = mask.copy()
    found: list[tuple[float, ...]] = []
    wanted = int(rng.integers(1, 5))
    for _ in range(40):
        if len(found) == wanted:
            break
        kind = int(rng.integers(0, 3))
        size = rng.uniform(16, 26) if kind < 2 else rng.uniform(21, 27)
        angle = rng.uniform(0, 2 * np.pi)
        at = rng.uniform(size / 2 + 1, SIDE - size / 2 - 1, 2)
        outline, hole = _part(kind, size)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = [shape @ turn + at for shape in outline]
        whole = np.concatenate(corners)
        box = (*whole.min(axis=0), *whole.max(axis=0))
        if any(box[0] < b[3] + 2 and b[1] < box[2] + 2 and box[1] < b[4] + 2 and b[2] < box[3] + 2 for b in found):
            continue
        for shape in corners:
            ImageDraw.Draw(mask).polygon([tuple(one) for one in shape * FINE], fill=255)
            ImageDraw.Draw(edge).line(
                [tuple(one) for one in np.concatenate([shape, shape[:1]]) * FINE], fill=255, width=FINE
            )
        if hole:
            inside = [
                tuple(np.array([-hole, -hole]) * FINE + at * FINE),
                tuple(np.array([hole, hole]) * FINE + at * FINE),
            ]
            ImageDraw.Draw(mask).ellipse(inside, fill=0)
        found.append((float(kind), *box))
    covered, edges = (np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255 for one in (mask, edge))
    return covered, edges, np.array(found)


def _part(kind: int, size: float) -> tuple[list[Boxes], float]:
    """Return the outlines of a part around 0, in pixels, and the radius of its hole."""
    around = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    half = size / 2
    if kind == 0:
        return [half * np.stack([np.cos(around), np.sin(around)], axis=1)], 0.55 * half
    if kind == 1:
        six = np.linspace(0, 2 * np.pi, 6, endpoint=False)
        return [half * np.stack([np.cos(six), np.sin(six)], axis=1)], 0.42 * half
    head = np.array(
        [[-half, -0.45 * half], [-0.45 * half, -0.45 * half], [-0.45 * half, 0.45 * half], [-half, 0.45 * half]]
    )
    shaft = np.array(
        [[-0.45 * half, -0.22 * half], [half, -0.22 * half], [half, 0.22 * half], [-0.45 * half, 0.22 * half]]
    )
    return [head, shaft], 0.0
