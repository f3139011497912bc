"""Make `data/hazy.npz`: the images of `data/device.npz`, every fifth behind a veil of haze. For devices only.

    python hazy.py [--out DIR]

- Haze adds light and hides some: `pixel × (1 - veil) + veil`, with the light of the haze at full brightness. The veils run
  through `VEILS`, so no pixel of a hazy image is darker than 4 % and none of the others has a darkest pixel above 0.
- Arrays as in `device.npz`: `image` float32 `[300, 1, 8, 8]` in 0..1, `y` int64 `[300]`, in the same order; any ten images in a
  row hold two hazy ones. No chance is involved: the same file comes out everywhere.
Needs numpy and `data/device.npz`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

EVERY = 5
VEILS = (0.04, 0.06, 0.08, 0.10, 0.12, 0.14)


def hazy(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the images `[n, 1, 8, 8]` with the last of every five veiled."""
    out = image.copy()
    for turn, row in enumerate(range(EVERY - 1, len(image), EVERY)):
        veil = np.float32(VEILS[turn % len(VEILS)])
        out[row] = image[row] * (np.float32(1) - veil) + veil
    return out


def main() -> None:
    """Write the file."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here / "data")
    out = parser.parse_args().out
    with np.load(here / "data" / "device.npz", allow_pickle=False) as device:
        np.savez_compressed(out / "hazy.npz", image=hazy(device["image"]), y=device["y"])


if __name__ == "__main__":
    main()
