"""Train both releases of the digits example and write every file that belongs to them.

    python train.py [--out DIR]

- 1.0.0: 300 images, 20 epochs, nothing else. 1.1.0: all 900 training images, shifted and dimmed at random, 60 epochs.
- Writes `digits-<version>.onnx`, `data/*.npz`, `samples/*.png`, `labels.txt` and `metrics.json`.
- Same seed, same machine, same versions → the same weights. Another processor may differ in the last bits, so the committed
  files are what the tests judge; `metrics.json` says what was measured on them with onnxruntime.
Needs the packages of `requirements.txt`. `hazy.py`, `make_bad.py` and `measure.py` follow, in this order.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from graph import NAMES, digits_model
from PIL import Image
from split import SPLIT_SEED, Part, load_parts
from torch import nn


@dataclass(frozen=True)
class Plan:
    """How one release is trained."""

    version: str
    images: int
    epochs: int
    augment: bool
    seed: int


PLANS = (
    Plan("1.0.0", images=300, epochs=20, augment=False, seed=100),
    Plan("1.1.0", images=900, epochs=60, augment=True, seed=110),
)


class Net(nn.Module):
    """The network of `graph.py`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(1024, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, 10]` of `image` `[N, 1, 8, 8]`."""
        x = torch.relu(self.conv1(image))
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = nn.functional.dropout(torch.relu(self.fc1(x.flatten(1))), 0.3, self.training)
        return self.fc2(x)


def shifted(image: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return the batch with each image moved by -1..1 pixel both ways and its ink dimmed to 75-100 %."""
    padded = nn.functional.pad(image, (1, 1, 1, 1))
    out = torch.empty_like(image)
    for i in range(len(image)):
        dy, dx = (int(v) for v in torch.randint(0, 3, (2,), generator=rng))
        out[i] = padded[i, :, dy : dy + 8, dx : dx + 8]
    return out * (0.75 + 0.25 * torch.rand((len(image), 1, 1, 1), generator=rng))


def train(part: Part, plan: Plan) -> dict[str, npt.NDArray[np.float32]]:
    """Return the trained weights by name."""
    torch.manual_seed(plan.seed)
    rng = torch.Generator().manual_seed(plan.seed)
    net, loss_of = Net(), nn.CrossEntropyLoss(label_smoothing=0.05)
    image, y = torch.from_numpy(part.image[: plan.images]), torch.from_numpy(part.y[: plan.images])
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.epochs)
    for _ in range(plan.epochs):
        for rows in torch.randperm(len(image), generator=rng).split(50):
            batch = shifted(image[rows], rng) if plan.augment else image[rows]
            optimiser.zero_grad()
            loss_of(net(batch), y[rows]).backward()
            optimiser.step()
        schedule.step()
    return {name: tensor.detach().numpy() for name, tensor in net.state_dict().items() if name in NAMES}


def logits_of(model: onnx.ModelProto, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what onnxruntime answers, float32 `[n, 10]`."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


def accuracy(model: onnx.ModelProto, part: Part) -> float:
    """Return the share of right answers, 0..1."""
    return float((logits_of(model, part.image).argmax(1) == part.y).mean())


def write_data(out: Path, parts: dict[str, Part]) -> None:
    """Write the data files, the labels and one PNG a digit (the first of each in `device`)."""
    for name in ("calibration", "eval", "device"):
        part = parts[name]
        labels = {} if name == "calibration" else {"y": part.y}
        np.savez_compressed(out / "data" / f"{name}.npz", image=part.image, **labels)
    known = np.concatenate([parts[name].image for name in ("train", "calibration", "eval")])
    np.savez_compressed(out / "data" / "reference.npz", image=known)
    (out / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    device = parts["device"]
    for digit in range(10):
        first = int(np.flatnonzero(device.y == digit)[0])
        grey = np.rint(device.image[first, 0] * 255).astype(np.uint8)
        Image.fromarray(grey).save(out / "samples" / f"{digit}.png", optimize=True)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    for folder in ("data", "samples"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the order of additions, and so the weights, does not depend on the number of cores
    torch.use_deterministic_algorithms(True)
    parts = load_parts()
    write_data(out, parts)
    metrics: dict[str, object] = {
        "split_seed": SPLIT_SEED,
        "sizes": {name: len(part.y) for name, part in parts.items()},
    }
    for plan in PLANS:
        model = digits_model(train(parts["train"], plan), plan.version)
        path = out / f"digits-{plan.version}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        scores = {name: round(accuracy(model, parts[name]), 4) for name in ("eval", "device")}
        metrics[plan.version] = {
            "accuracy": scores,
            "bytes": path.stat().st_size,
            "images": plan.images,
            "epochs": plan.epochs,
        }
        print(plan.version, metrics[plan.version])
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
