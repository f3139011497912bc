"""Samples that are made here, each generator by numpy alone: (seed of the task, n, seed of the draw) -> samples.

The seed of the task decides what is to be learnt (centres, functions, rules); the seed of the draw decides the samples.
Pictures, sound and text lines come from `tests.support.real_data`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bench.zoo.entry import Array, Samples

SIDE = 32
"""Pixels of a drawn picture's side."""
SHAPES = 5
"""Circle, square, triangle, ring, cross."""
VOCABULARY = 200


def tabular_classes(task: int, n: int, seed: int, *, width: int = 24, classes: int = 6) -> Samples:
    """Return rows of a table in clusters on curved surfaces, columns of very different scales. x: float32 [n, width]; y: int64."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    centres = rule.normal(0, 2.2, (classes * 2, 8))
    mixing, scales, shifts = rule.normal(0, 1, (8, width)), 10 ** rule.uniform(-1, 2, width), rule.normal(0, 3, width)
    part = random.integers(0, classes * 2, n)
    hidden = centres[part] + random.normal(0, 0.9, (n, 8))
    rows = (np.tanh(hidden @ mixing * 0.4) + 0.1 * random.normal(0, 1, (n, width)) + shifts) * scales
    return Samples({"x": rows.astype(np.float32)}, {"y": (part % classes).astype(np.int64)})


def tabular_targets(task: int, n: int, seed: int, *, width: int = 16, outputs: int = 3) -> Samples:
    """Return rows with several targets of different scales, as of a machine's sensors. x: float32 [n, width]; y: [n, outputs]."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    first, second = rule.normal(0, 0.3, (width, outputs)), rule.normal(0, 0.2, (width, outputs))
    offsets, spreads = rule.uniform(0, 100, outputs), 10 ** rule.uniform(-0.5, 1.5, outputs)
    rows = random.normal(0, 1, (n, width))
    values = np.sin(rows @ first) + 0.5 * np.tanh(rows @ second)
    return Samples(
        {"x": rows.astype(np.float32)},
        {"y": (values * spreads + offsets + 0.02 * spreads * random.normal(0, 1, values.shape)).astype(np.float32)},
    )


def digits(task: int, n: int, seed: int, *, flat: bool = False) -> Samples:
    """Return scikit-learn's scanned digits, moved, scaled in contrast and with noise. x: float32 [n, 1, 16, 16] or [n, 64]; y: int64."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng([task, seed])
    chosen = random.integers(0, len(labels), n)
    rows = images[chosen].reshape(-1, 8, 8) / 16 * random.uniform(0.7, 1.0, (n, 1, 1))
    if flat:
        rows = rows + random.normal(0, 0.04, rows.shape)
        return Samples({"x": rows.reshape(n, 64).astype(np.float32)}, {"y": labels[chosen].astype(np.int64)})
    large = np.zeros((n, 1, 16, 16), np.float32)
    for index, (top, left) in enumerate(random.integers(0, 5, (n, 2))):
        large[index, 0, top : top + 12, left : left + 12] = np.kron(rows[index], np.ones((2, 2)))[2:14, 2:14]
    return Samples(
        {"x": (large + random.normal(0, 0.05, large.shape)).astype(np.float32)}, {"y": labels[chosen].astype(np.int64)}
    )


def _inside(kind: int, size: float, dx: Array, dy: Array) -> Array:
    """Return where a shape is, given distances from its centre."""
    apart = np.hypot(dx, dy)
    inside: tuple[Array, ...] = (
        apart < size,
        (np.abs(dx) < size * 0.85) & (np.abs(dy) < size * 0.85),
        (dy < size * 0.8) & (dy > -size + 2 * np.abs(dx)),
        (apart < size) & (apart > size * 0.55),
        ((np.abs(dx) < size * 0.3) | (np.abs(dy) < size * 0.3)) & (np.abs(dx) < size) & (np.abs(dy) < size),
    )
    return inside[kind]


def scenes(task: int, n: int, seed: int, *, objects: int = 1, side: int = SIDE) -> tuple[Array, list[Any]]:
    """Return pictures with drawn shapes, float32 [n, 3, side, side] 0 … 1, and of each its shapes (kind, x, y, size, mask)."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    papers = rule.uniform(0, 0.5, (8, 3))
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    pictures, found = np.empty((n, 3, side, side), np.float32), []
    for index in range(n):
        slope = random.uniform(-0.3, 0.3, 2)
        light = 1 + slope[0] * (columns / side - 0.5) + slope[1] * (rows / side - 0.5)
        picture = papers[random.integers(8)][:, None, None] * light[None]
        shapes: list[Any] = []
        for _ in range(int(random.integers(1, objects + 1))):
            kind, size = int(random.integers(SHAPES)), float(random.uniform(0.12, 0.26) * side)
            x, y = (float(v) for v in random.uniform(size, side - size, 2))
            if any(np.hypot(x - other[1], y - other[2]) < (size + other[3]) * 0.8 for other in shapes):
                continue
            mask = _inside(kind, size, columns - x, rows - y)
            picture = np.where(mask[None], random.uniform(0.45, 1.0, 3)[:, None, None], picture)
            shapes.append((kind, x, y, size, mask))
        picture = picture + random.normal(0, random.uniform(0.01, 0.06), picture.shape)
        pictures[index] = np.clip(picture, 0, 1)
        found.append(shapes)
    return pictures, found


def shape_classes(task: int, n: int, seed: int) -> Samples:
    """Return pictures with one shape each, and which. x: float32 [n, 3, 32, 32]; y: int64 [n]."""
    pictures, found = scenes(task, n, seed)
    return Samples({"x": pictures}, {"y": np.array([shapes[0][0] for shapes in found], np.int64)})


def shape_places(task: int, n: int, seed: int) -> Samples:
    """Return pictures with one shape each, and its x, y and size in pixels. y: float32 [n, 3]."""
    pictures, found = scenes(task, n, seed)
    return Samples({"x": pictures}, {"y": np.array([shapes[0][1:4] for shapes in found], np.float32)})


def shape_masks(task: int, n: int, seed: int) -> Samples:
    """Return pictures with up to three shapes, and the mask of all. y: float32 [n, 1, 32, 32], 0 or 1."""
    pictures, found = scenes(task, n, seed, objects=3)
    masks = np.stack([np.any([shape[4] for shape in shapes], axis=0) for shapes in found])
    return Samples({"x": pictures}, {"y": masks[:, None].astype(np.float32)})


def shape_boxes(task: int, n: int, seed: int) -> Samples:
    """Return pictures with up to three shapes, and their boxes. y: float32 [n, 64, 4 + 5]: centre, extent in pixels, class scores."""
    pictures, found = scenes(task, n, seed, objects=3)
    boxes = np.zeros((n, 64, 4 + SHAPES), np.float32)
    for index, shapes in enumerate(found):
        for at, (kind, x, y, size, _) in enumerate(shapes):
            boxes[index, at, :4] = x, y, 2 * size, 2 * size
            boxes[index, at, 4 + kind] = 1
    return Samples({"x": pictures}, {"y": boxes})


def shape_points(task: int, n: int, seed: int) -> Samples:
    """Return pictures with one hand of four points each: an L of two bars. y: float32 [n, 4, 2], x and y in pixels."""
    random = np.random.default_rng([task, seed])
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    pictures, points = np.empty((n, 3, SIDE, SIDE), np.float32), np.empty((n, 4, 2), np.float32)
    for index in range(n):
        turn, length = random.uniform(0, 2 * np.pi), random.uniform(7, 11)
        middle = random.uniform(11, SIDE - 11, 2)
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        points[index] = [middle, middle + along * length, middle + across * length * 0.6, middle - along * length * 0.4]
        paper, inks = random.uniform(0, 0.4, 3), random.uniform(0.5, 1, (3, 3))
        picture = np.broadcast_to(paper[:, None, None], (3, SIDE, SIDE)).copy()
        for at, ink in enumerate(inks):
            start, end = points[index, 0], points[index, at + 1]
            way = end - start
            share = np.clip(((columns - start[0]) * way[0] + (rows - start[1]) * way[1]) / (way @ way), 0, 1)
            apart = np.hypot(columns - start[0] - share * way[0], rows - start[1] - share * way[1])
            picture = np.where((apart < 1.4)[None], ink[:, None, None], picture)
        pictures[index] = np.clip(picture + random.normal(0, 0.04, picture.shape), 0, 1)
    return Samples({"x": pictures}, {"y": points})


def small_and_large(task: int, n: int, seed: int) -> Samples:
    """Return pictures at half their size, and in full. x: float32 [n, 3, 16, 16]; y: [n, 3, 32, 32]."""
    pictures, _ = scenes(task, n, seed, objects=3)
    return Samples(
        {"x": pictures.reshape(n, 3, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(3, 5)).astype(np.float32)}, {"y": pictures}
    )


def tokens_to_sort(task: int, n: int, seed: int, *, steps: int = 8, symbols: int = 12) -> Samples:
    """Return short sequences, and the same in the order of a secret alphabet. tokens: int64 [n, 8]; y: int64 [n, 8]."""
    rank, random = np.random.default_rng(task).permutation(symbols), np.random.default_rng(seed)
    tokens = random.integers(0, symbols, (n, steps))
    order = np.argsort(rank[tokens], axis=1, kind="stable")
    return Samples({"tokens": tokens.astype(np.int64)}, {"y": np.take_along_axis(tokens, order, 1).astype(np.int64)})


def _sentences(task: int, n: int, seed: int, steps: int) -> tuple[Array, Array]:
    """Return token ids [n, steps] of a random grammar with topics, 0 = end, and the topics [n]."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    following = rule.integers(1, VOCABULARY, (VOCABULARY, 6))
    words = rule.permutation(np.arange(1, VOCABULARY))[: 4 * 20].reshape(4, 20)
    topic = random.integers(0, 4, n)
    tokens = np.zeros((n, steps), np.int64)
    tokens[:, 0] = random.integers(1, VOCABULARY, n)
    for at in range(1, steps):
        step = following[tokens[:, at - 1], random.integers(0, 6, n)]
        step = np.where(random.random(n) < 0.22, words[topic, random.integers(0, 20, n)], step)
        tokens[:, at] = np.where(random.random(n) < 0.1, random.integers(1, VOCABULARY, n), step)
    lengths = random.integers(steps // 2, steps + 1, n)
    tokens[np.arange(steps)[None] >= lengths[:, None]] = 0
    return tokens, topic


def sentences(task: int, n: int, seed: int, *, steps: int = 32) -> Samples:
    """Return sentences of a random grammar, and their topic. tokens: int64 [n, 32]; y: int64 [n], of 4."""
    tokens, topic = _sentences(task, n, seed, steps)
    return Samples({"tokens": tokens}, {"y": topic.astype(np.int64)})


def tagged_sentences(task: int, n: int, seed: int, *, steps: int = 24) -> Samples:
    """Return sentences, and a tag of each word that hangs on its neighbours on both sides. y: int64 [n, 24], of 5, -1 = end."""
    tokens, _ = _sentences(task, n, seed, steps)
    group = np.random.default_rng(task + 1).integers(0, 3, VOCABULARY)
    classes = group[tokens]
    before, after = np.roll(classes, 1, 1), np.roll(classes, -1, 1)
    before[:, 0], after[:, -1] = 0, 0
    tags = np.where(classes == 0, 0, np.where(classes == 1, 1 + (before == after), 3 + (after > before)))
    return Samples({"tokens": tokens}, {"y": np.where(tokens == 0, -1, tags).astype(np.int64)})


def motion(task: int, n: int, seed: int, *, steps: int = 64) -> Samples:
    """Return three axes of an accelerometer during six activities. x: float32 [n, 3, 64]; y: int64 [n]."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    paces, gains, rest = rule.uniform(0.5, 4, (6, 2)), rule.normal(0, 1, (6, 3, 2)), rule.normal(0, 1, (6, 3))
    kind = random.integers(0, 6, n)
    time = np.arange(steps)[None, :] / 16
    phase = random.uniform(0, 2 * np.pi, (n, 1, 2))
    waves = np.sin(
        2 * np.pi * paces[kind][:, None, :] * random.uniform(0.85, 1.15, (n, 1, 1)) * time[..., None] + phase
    )
    rows = (
        np.einsum("nac,nsc->nas", gains[kind], waves) * random.uniform(0.5, 1.5, (n, 1, 1))
        + 0.5 * rest[kind][..., None]
    )
    return Samples({"x": (rows + random.normal(0, 0.5, rows.shape)).astype(np.float32)}, {"y": kind.astype(np.int64)})


def load_curves(task: int, n: int, seed: int, *, steps: int = 96, ahead: int = 12) -> Samples:
    """Return a load over time, and its next values. x: float32 [n, 96, 2] (load, hour); y: float32 [n, 12]."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    gains, phases = rule.uniform(0.3, 1, 4), rule.uniform(0, 2 * np.pi, 4)
    hours = random.integers(0, 24 * 7, n)[:, None] + np.arange(steps + ahead)[None] / 4
    days = np.array([24, 12, 24 * 7, 8])
    load = (gains * np.sin(2 * np.pi * hours[..., None] / days + phases)).sum(-1)
    drift = np.cumsum(random.normal(0, 0.03, load.shape), axis=1)
    load = 50 + 15 * (load * random.uniform(0.6, 1.4, (n, 1)) + drift) + random.normal(0, 0.3, load.shape)
    rows = np.stack([load, hours % 24], -1)[:, :steps]
    return Samples({"x": rows.astype(np.float32)}, {"y": load[:, steps:].astype(np.float32)})


def spectra(task: int, n: int, seed: int, *, bins: int = 128) -> Samples:
    """Return vibration spectra of a machine, with harmonics of a changing speed. x: float32 [n, 128]; no labels."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    gains, ratios = rule.uniform(0.2, 1, 9), rule.choice([1, 2, 3, 4, 5.2, 6, 7.1, 8, 9.4], 9, replace=False)
    speed = random.uniform(6, 13, (n, 1, 1))
    peaks = np.exp(-(((np.arange(bins)[None, :, None] - speed * ratios) / 1.5) ** 2))
    rows = (peaks * gains * random.uniform(0.6, 1.4, (n, 1, 9))).sum(-1) + 0.03 * np.abs(random.normal(0, 1, (n, bins)))
    return Samples({"x": np.log1p(8 * rows).astype(np.float32)})


def spoken_features(task: int, n: int, seed: int, *, steps: int = 49, bins: int = 40) -> Samples:
    """Return spectrograms of eight words: formants that glide. x: float32 [n, 1, 49, 40]; y: int64 [n]."""
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    starts, ends = rule.uniform(3, bins - 3, (8, 3)), rule.uniform(3, bins - 3, (8, 3))
    word = random.integers(0, 8, n)
    share = np.clip(
        (np.arange(steps)[None] - random.uniform(0, 15, (n, 1))) / random.uniform(20, 32, (n, 1)), -0.2, 1.2
    )
    tracks = starts[word][:, None] * (1 - share[..., None]) + ends[word][:, None] * share[..., None]
    tracks = tracks + random.normal(0, 1.2, (n, 1, 1))
    loud = ((share > 0) & (share < 1))[..., None] * random.uniform(0.6, 1.3, (n, 1, 1))
    rows = np.exp(-(((np.arange(bins) - tracks[..., None]) / 1.8) ** 2)).sum(2) * loud
    rows = np.log(rows + 0.08 * np.abs(random.normal(0, 1, rows.shape)) + 0.02)
    return Samples({"x": rows[:, None].astype(np.float32)}, {"y": word.astype(np.int64)})


def noisy_frames(task: int, n: int, seed: int, *, bins: int = 65) -> Samples:
    """Return a stream of noisy magnitude spectra, and the clean ones; streams of 100 frames with a state that starts at zero.

    frame: float32 [n, 1, 65]; state: zeros [n, 1, 48]; y.clean: [n, 1, 65].
    """
    rule, random = np.random.default_rng(task), np.random.default_rng(seed)
    colours = np.abs(rule.normal(0, 1, (4, bins))) * np.exp(-np.arange(bins) / 30)
    frames, cleans = np.empty((n, bins), np.float32), np.empty((n, bins), np.float32)
    for start in range(0, n, 100):
        count = min(100, n - start)
        time = np.arange(count)
        pitch = random.uniform(4, 9) * (1 + 0.1 * np.sin(time / random.uniform(8, 20)))
        loud = np.clip(np.sin(time / random.uniform(5, 12) + random.uniform(0, 6)), 0, None) * random.uniform(0.5, 1.5)
        ripple = np.cos(2 * np.pi * np.arange(bins)[None] / pitch[:, None]) ** 2 * np.exp(-np.arange(bins) / 25)
        clean = ripple * loud[:, None]
        noise = colours[random.integers(4)] * random.uniform(0.1, 0.6) * np.abs(random.normal(1, 0.4, (count, bins)))
        cleans[start : start + count], frames[start : start + count] = clean, clean + noise
    state = np.zeros((n, 1, 48), np.float32)
    return Samples({"frame": frames[:, None], "state": state}, {"y.clean": cleans[:, None]})
