"""Makes the sounds: a fan for one second at 16 kHz, well or with one of three faults, as a microphone in a hall hears it.

`python sounds.py` writes `data/`, int16 as a microphone gives it: the same on every run. Needs numpy alone.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
RATE = 16_000
"""Samples a second, and of a window."""
LABELS = ("good", "bearing", "imbalance", "cavitation")
FULL = 32_768.0
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A hall and its microphone. low, high: Hz between which the microphone hears well; hum, noise: levels next to a fan of 1.

    echo_s: how long the hall rings. turns: revolutions a second of its fans, at rest and at full load.
    """

    low: float
    high: float
    hum: float
    noise: float
    echo_s: float
    turns: tuple[float, float]


HALLS = {
    "old": Place(low=25, high=7500, hum=0.02, noise=0.10, echo_s=0.02, turns=(23, 30)),
    "new": Place(low=40, high=4000, hum=0.15, noise=0.25, echo_s=0.06, turns=(23, 30)),
}
_HZ = np.fft.rfftfreq(RATE, 1 / RATE)
_AT = np.arange(RATE) / RATE


@dataclass(frozen=True)
class Sounds:
    """Windows of one part. x: int16 `[n, 16000]`; y: class of each, int64 `[n]`."""

    x: npt.NDArray[np.int16]
    y: npt.NDArray[np.int64]

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """What the model takes: float32 `[n, 16000]`, full scale = 1."""
        return (self.x / np.float32(FULL)).astype(np.float32)


def sounds(hall: str, count: int, seed: int) -> Sounds:
    """Return `count` windows of a hall, as many of each class, in mixed order."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(count) % len(LABELS))
    made = np.empty((count, RATE), np.int16)
    for row, one in zip(made, label, strict=True):
        heard = _heard(_fan(LABELS[one], HALLS[hall], rng), HALLS[hall], rng)
        row[:] = np.rint(np.clip(heard, -1, 1 - 1 / FULL) * FULL)
    return Sounds(made, label.astype(np.int64))


def _fan(state: str, place: Place, rng: np.random.Generator) -> Array:
    """Return the sound at the machine. Every fan turns, has seven blades and moves air; a fault adds its own."""
    turns = rng.uniform(*place.turns)
    angle = 2 * np.pi * turns * _AT + rng.uniform(0, 2 * np.pi)
    turn = np.sin(angle)
    sound = 0.05 * turn + np.fft.irfft(0.4 * _noise(rng, 1 / np.sqrt(1 + (_HZ / 400) ** 2)), RATE)
    for order in (1, 2, 3):
        sound += 0.25 / order * np.sin(7 * order * angle + rng.uniform(0, 2 * np.pi))
    fault = rng.uniform(0.35, 1.2)
    if state == "imbalance":
        sound *= 1 + 0.7 * fault * turn
        sound += fault * turn + 0.5 * fault * np.sin(2 * angle)
    elif state == "bearing":
        sound += 1.8 * fault * _knocks(turns, rng)
    elif state == "cavitation":
        bursts = np.repeat(rng.uniform(0, 1, 50) ** 2, RATE // 50)
        sound += 0.9 * fault * bursts * np.fft.irfft(_noise(rng, (_HZ > 1200) * np.exp(-_HZ / 5000)), RATE)
    return np.asarray(sound)


def _knocks(turns: float, rng: np.random.Generator) -> Array:
    """Return what a ball makes that rolls over a pit 3.57 times a turn: short rings of the housing."""
    at = np.cumsum(rng.normal(1, 0.01, 200) / (3.57 * turns))
    ring = np.sin(2 * np.pi * rng.uniform(1700, 2300) * _AT[:160]) * np.exp(-_AT[:160] / 0.002)
    made = np.zeros(RATE + len(ring))
    for start in (at[at < 1] * RATE).astype(int):
        made[start : start + len(ring)] += rng.uniform(0.6, 1.4) * ring
    return made[:RATE]


def _noise(rng: np.random.Generator, shape: Array) -> npt.NDArray[np.complex128]:
    """Return the spectrum of noise of spread 1. shape: amplitude at each frequency of `_HZ`."""
    parts = rng.standard_normal((2, len(_HZ)))
    return np.asarray((parts[0] + 1j * parts[1]) * shape * (RATE / 2 / np.sqrt((shape**2).sum())))


def _heard(sound: Array, place: Place, rng: np.random.Generator) -> Array:
    """Return what the microphone gives: the hall rings, others make noise, the microphone hears some frequencies better."""
    length = int(place.echo_s * RATE)
    echo = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 4)) * 0.15
    echo[0] = 1
    spectrum = np.fft.rfft(sound) * np.fft.rfft(echo, RATE)
    spectrum += place.noise * rng.uniform(0.5, 1.5) * _noise(rng, 1 / np.sqrt(1 + (_HZ / 900) ** 2))
    for hz, level in ((50, 1), (150, 0.5)):  # of the mains
        spectrum[hz] += place.hum * level * RATE / 2 * np.exp(1j * rng.uniform(0, 6))
    spectrum /= np.sqrt((1 + (place.low / np.maximum(_HZ, 1)) ** 4) * (1 + (_HZ / place.high) ** 4))
    return np.asarray(np.fft.irfft(spectrum, RATE)) * 0.12 * rng.uniform(0.7, 1.4)


PARTS = {
    "trained": ("old", 600, 1),
    "calibration": ("old", 120, 2),
    "eval": ("old", 200, 3),
    "moved": ("new", 200, 4),
    "held": ("new", 200, 5),
}
"""Part -> hall, windows, seed. `moved` is what devices capture in the new hall; `held` is from there, too, and never trained on."""


def part(name: str) -> Sounds:
    """Return one of `PARTS`."""
    return sounds(*PARTS[name])


def write_wave(path: Path, x: npt.NDArray[np.int16]) -> None:
    """Write int16 `[samples]` as a WAV file, mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(x.astype("<i2").tobytes())


def main() -> None:
    """Write the data that `edgectl publish` takes."""
    (HERE / "data").mkdir(exist_ok=True)
    for name in ("calibration", "eval"):
        made = part(name)
        np.savez(HERE / "data" / f"{name}.npz", raw=made.x, **({"y": made.y} if name == "eval" else {}))


if __name__ == "__main__":
    main()
