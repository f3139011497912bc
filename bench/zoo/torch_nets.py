"""Trains one net of the zoo and writes it as ONNX; run by the Python of the tool environment `torch`, imported by nothing.

    python torch_nets.py NAME SEED DATA.npz OUT.onnx

DATA holds the inputs and `y` or `y.NAME`, which `samples.py` made. Widths are drawn from the seed, so another half has other
nets. Half of the nets go through torch.export, half through the tracing exporter: both are what people have.
"""

import io
import itertools
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SHAPES, VOCABULARY = 5, 200


@dataclass
class Plan:
    """How a net is trained. loss: (answers, truth, inputs) -> a number. through: `export` or `trace`."""

    net: nn.Module
    loss: Any
    outputs: tuple[str, ...]
    steps: int = 300
    rate: float = 2e-3
    batch: int = 64
    through: str = "trace"
    open_batch: bool = True


class Scale(nn.Module):
    """(x - mean) / spread of each column, or back."""

    def __init__(self, rows: Tensor, *, back: bool = False) -> None:
        super().__init__()
        spread, mean = torch.std_mean(rows, 0)
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread.clamp(min=1e-6))
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return x * self.spread + self.mean if self.back else (x - self.mean) / self.spread


def dense(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(widths):
        layers += [nn.Linear(one, other), act()]
    return nn.Sequential(*layers[:-1])


def conv(
    one: int, other: int, size: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(one, other, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(other), act()
    )


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Any:
        return self.function(*x)


def inverted(one: int, other: int, stride: int, act: type[nn.Module]) -> nn.Module:
    wide = one * 4
    block = nn.Sequential(
        conv(one, wide, 1, act=act), conv(wide, wide, 3, stride, groups=wide, act=act),
        nn.Conv2d(wide, other, 1, bias=False), nn.BatchNorm2d(other),
    )  # fmt: skip
    return Residual(block) if stride == 1 and one == other else block


def mobilenet(width: int, act: type[nn.Module]) -> nn.Sequential:
    w = width
    return nn.Sequential(
        conv(3, w, 3, 2, act=act), inverted(w, w, 1, act), inverted(w, 2 * w, 2, act), inverted(2 * w, 2 * w, 1, act),
        inverted(2 * w, 4 * w, 2, act), inverted(4 * w, 4 * w, 1, act), inverted(4 * w, 4 * w, 1, act),
    )  # fmt: skip


def pooled(body: nn.Module, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 4, 1),
            nn.SiLU(),
            nn.Conv2d(width // 4, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class UNet(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, w), conv(w, 2 * w), conv(2 * w, 4 * w)
        self.d = conv(4 * w, 4 * w)
        self.up1, self.up2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.e, self.f, self.out = conv(4 * w, 2 * w), conv(2 * w, w), nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(functional.max_pool2d(a, 2))
        c = self.d(self.c(functional.max_pool2d(b, 2)))
        e = self.e(torch.cat([self.up1(c), b], 1))
        return torch.sigmoid(self.out(self.f(torch.cat([self.up2(e), a], 1))))


class Detector(nn.Module):
    """One answer a cell of a 4 x 4 grid: [n, 16, 4 + classes], boxes in pixels and scores in one tensor."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.body = mobilenet(w, nn.ReLU6)
        self.head = nn.Sequential(conv(4 * w, 4 * w), nn.Conv2d(4 * w, 4 + SHAPES, 1))
        cells = (torch.arange(4.0) + 0.5) * 8
        self.register_buffer("centres", torch.stack([cells.repeat(4), cells.repeat_interleave(4)], -1)[None])

    def forward(self, x: Tensor) -> Tensor:
        raw = self.head(self.body(x)).flatten(2).transpose(1, 2)
        centre = self.centres + 8 * torch.tanh(raw[..., :2])
        return torch.cat([centre, 12 * torch.exp(0.5 * torch.tanh(raw[..., 2:4])), torch.sigmoid(raw[..., 4:])], -1)


class TwoOutputs(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.inner(x)
        return both[..., :4], both[..., 4:]


class Attention(nn.Module):
    """A pre-norm block of attention and two dense layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            part.reshape(n, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(self.n1(x)).chunk(3, -1)
        )
        scores = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
        if keep is not None:
            scores = scores + (1 - keep[:, None, None, :].to(scores.dtype)) * -1e4
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))
        return x + self.mlp(self.n2(x))


class Vit(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.blocks = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, SHAPES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Bert(nn.Module):
    """Token ids, 0 = end. each: scores for each token, else for the sentence."""

    def __init__(self, width: int, depth: int, classes: int, steps: int, *, each: bool) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(1, steps, width) * 0.02)
        self.blocks = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.norm, self.head, self.each = nn.LayerNorm(width), nn.Linear(width, classes), each

    def forward(self, tokens: Tensor) -> Tensor:
        keep = (tokens != 0).float()
        x = self.words(tokens) + self.place
        for block in self.blocks:
            x = block(x, keep)
        x = self.norm(x)
        return self.head(x if self.each else (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1))


class Tagger(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 48)
        self.lstm = nn.LSTM(48, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(tokens))[0])


class Sorter(nn.Module):
    """A GRU that reads, and a GRU cell that writes eight steps, each fed with the last answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.read = nn.Embedding(12, 32), nn.GRU(32, width, batch_first=True)
        self.write, self.head, self.start = (
            nn.GRUCell(12 + width, width),
            nn.Linear(width, 12),
            nn.Parameter(torch.zeros(1, 12)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        states, last = self.read(self.words(tokens))
        state = last[0]
        said, rows = self.start.expand(tokens.shape[0], -1), []
        for _ in range(8):
            weight = (states @ state[:, :, None]).softmax(1)
            state = self.write(torch.cat([said, (weight * states).sum(1)], -1), state)
            scores = self.head(state)
            said = scores.softmax(-1)
            rows.append(scores)
        return torch.stack(rows, 1)


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, width: int, outputs: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.cell, self.head, self.last = cell, nn.Linear(width, outputs), last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.cell(x)[0][:, -1]))


class Denoiser(nn.Module):
    """One frame and the state in; the clean frame and the next state out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.cell = nn.Linear(65, width), nn.GRUCell(width, 48)
        self.after = nn.Sequential(nn.Linear(48 + width, width), nn.ReLU(), nn.Linear(width, 65), nn.Sigmoid())

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.before(torch.log1p(8 * frame[:, 0])))
        state = self.cell(x, state[:, 0])
        return (frame[:, 0] * self.after(torch.cat([x, state], -1)))[:, None], state[:, None]


class Tcn(nn.Module):
    def __init__(self, inputs: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, width, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**i) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            x = x + torch.relu(norm(block(functional.pad(x, (2 ** (i + 1), 0)))))
        return self.head(x.mean(-1))


class Unit(nn.Module):
    """An embedding of length one; classes only while training."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body, self.centres = body, nn.Parameter(torch.randn(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.body(x), dim=-1)


class Bounded(nn.Module):
    """Class scores and a size from one body."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.one, self.other = nn.Linear(width, SHAPES), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.body(x)
        return self.one(both).softmax(-1), 16 + 8 * self.other(both)


def cross(answer: Tensor, y: Tensor, _x: Any) -> Tensor:
    return functional.cross_entropy(answer.flatten(0, -2), y.flatten(), ignore_index=-1)


def boxes_loss(answer: Tensor | tuple[Tensor, Tensor], y: Tensor, _x: Any) -> Tensor:
    """Each cell's score is that of the shape whose centre it holds; its box is held to that shape's."""
    both = torch.cat(answer, -1) if isinstance(answer, tuple) else answer
    real = y[..., 4:].sum(-1) > 0
    cell = ((y[..., 1] // 8).clamp(0, 3) * 4 + (y[..., 0] // 8).clamp(0, 3)).long()
    wanted = torch.zeros_like(both[..., 4:])
    row, at = torch.nonzero(real, as_tuple=True)
    wanted[row, cell[row, at]] = y[row, at, 4:]
    scores = functional.binary_cross_entropy(both[..., 4:], wanted, weight=1 + 8 * wanted, reduction="sum") / len(y)
    return scores + (both[row, cell[row, at], :4] - y[row, at, :4]).abs().mean() * 0.5


def heat_loss(answer: Tensor, y: Tensor, _x: Any) -> Tensor:
    grid = (torch.arange(16.0) + 0.5) * 2
    apart = (grid[None, None, None] - y[..., 0, None, None]) ** 2 + (
        grid[None, None, :, None] - y[..., 1, None, None]
    ) ** 2
    return ((answer - torch.exp(-apart / 8)) ** 2).mean() * 50


def plan(name: str, x: dict[str, Tensor], y: Tensor | None, w: int) -> Plan:  # noqa: PLR0911, PLR0912
    """Return the net of a name. w: 0, 1 or 2, drawn from the seed: how wide it is."""
    first = next(iter(x.values()))
    if name == "mlp-table":
        return Plan(
            nn.Sequential(Scale(first), dense(24, 128 + 64 * w, 128, 6)), cross, ("scores",), 500, through="export"
        )
    if name == "mlp-three-targets":
        scale = Scale(y)
        net = nn.Sequential(Scale(first), dense(16, 128 + 32 * w, 128, 3, act=nn.SiLU), Scale(y, back=True))
        return Plan(net, lambda a, t, _: ((a - t) / scale.spread).abs().mean(), ("targets",), 900, through="export")
    if name == "resnet-digits":
        c = 16 + 8 * w
        body = nn.Sequential(
            conv(1, c), Residual(nn.Sequential(conv(c, c), conv(c, c))), conv(c, 2 * c, 3, 2),
            Residual(nn.Sequential(conv(2 * c, 2 * c), conv(2 * c, 2 * c))),
        )  # fmt: skip
        return Plan(pooled(body, 2 * c, 10), cross, ("scores",), 400, through="export")
    if name == "mobilenet-shapes":
        c = 16 + 4 * w
        return Plan(pooled(mobilenet(c, nn.ReLU6), 4 * c, SHAPES), cross, ("scores",), 260, through="export")
    if name == "efficient-shapes":
        c = 16 + 4 * w
        net = pooled(
            nn.Sequential(mobilenet(c, nn.SiLU), Squeeze(4 * c), conv(4 * c, 4 * c, 1, act=nn.Hardswish)), 4 * c, SHAPES
        )
        return Plan(
            nn.Sequential(net, nn.Softmax(-1)),
            lambda a, t, _: functional.nll_loss((a + 1e-9).log(), t),
            ("scores",),
            260,
        )
    if name == "vit-shapes":
        return Plan(Vit(64 + 32 * w, 4), cross, ("scores",), 500, 1e-3, through="export")
    if name == "places-regressor":
        c = 12 + 4 * w
        net = nn.Sequential(
            mobilenet(c, nn.ReLU), nn.Conv2d(4 * c, 16, 1), nn.Flatten(), dense(256, 64, 3), Scale(y, back=True)
        )
        return Plan(net, lambda a, t, _: (a - t).abs().mean(), ("places",), 300)
    if name == "unet-mask":
        return Plan(UNet(12 + 4 * w), lambda a, t, _: functional.binary_cross_entropy(a, t), ("mask",), 130, batch=24)
    if name == "detector-one-tensor":
        return Plan(Detector(16 + 4 * w), boxes_loss, ("objects",), 420, batch=32)
    if name == "detector-two-tensors":
        return Plan(TwoOutputs(Detector(16 + 4 * w)), boxes_loss, ("boxes", "scores"), 420, batch=32, through="export")
    if name == "points-coordinates":
        c = 16 + 4 * w
        net = nn.Sequential(
            mobilenet(c, nn.ReLU),
            nn.Conv2d(4 * c, 24, 1),
            nn.Flatten(),
            dense(384, 96, 8),
            Lambda(lambda a: 16 + 8 * a.reshape(-1, 4, 2)),
        )
        return Plan(net, lambda a, t, _: (a - t).abs().mean(), ("points",), 500)
    if name == "points-heatmaps":
        c = 24 + 8 * w
        net = nn.Sequential(
            conv(3, c, 5, 2), conv(c, c, 3, 2), Residual(nn.Sequential(conv(c, c), conv(c, c))), conv(c, c),
            nn.Upsample(scale_factor=2, mode="bilinear"), conv(c, c), nn.Conv2d(c, 4, 1),
        )  # fmt: skip
        return Plan(net, heat_loss, ("heatmaps",), 300, batch=32)
    if name == "two-heads":
        c = 16 + 4 * w

        def both(a: Any, t: Tensor, _: Any) -> Tensor:
            return functional.nll_loss((a[0] + 1e-9).log(), t[:, 0].long()) + (a[1] - t[:, 1:]).abs().mean() * 0.1

        return Plan(Bounded(mobilenet(c, nn.ReLU6), 4 * c), both, ("scores", "places"), 350)
    if name == "super-resolution":
        c = 24 + 8 * w
        net = nn.Sequential(
            conv(3, c, 5),
            Residual(nn.Sequential(conv(c, c), conv(c, c))),
            nn.Conv2d(c, 12, 3, 1, 1),
            nn.PixelShuffle(2),
        )
        return Plan(net, lambda a, t, _: (a - t).abs().mean(), ("picture",), 160, batch=24)
    if name == "gru-sorter":
        return Plan(Sorter(96 + 32 * w), cross, ("scores",), 400, 4e-3)
    if name == "bilstm-tagger":
        return Plan(Tagger(96 + 32 * w), cross, ("tags",), 250, 4e-3)
    if name == "bert-topics":
        return Plan(Bert(64 + 32 * w, 3, 4, 32, each=False), cross, ("scores",), 250, 1e-3, through="export")
    if name == "bert-tags":
        return Plan(Bert(64 + 32 * w, 3, 5, 24, each=True), cross, ("tags",), 350, 1e-3, through="export")
    if name == "gru-activity":
        width = 96 + 32 * w
        net = nn.Sequential(
            Lambda(lambda a: a.transpose(1, 2)), Recurrent(nn.GRU(3, width, batch_first=True), width, 6)
        )
        return Plan(net, cross, ("scores",), 250, 4e-3)
    if name == "tcn-activity":
        return Plan(Tcn(3, 48 + 16 * w, 5, 6), cross, ("scores",), 350, through="export")
    if name == "lstm-load":
        width = 96 + 32 * w
        net = nn.Sequential(
            Scale(first.reshape(-1, 2)),
            Recurrent(nn.LSTM(2, width, 1, batch_first=True), width, 12, Scale(y, back=True)),
        )
        return Plan(net, lambda a, t, _: (a - t).abs().mean(), ("ahead",), 300, 4e-3)
    if name == "dense-load":
        net = nn.Sequential(
            Lambda(lambda a: a[..., 0]), Scale(first[..., 0]), dense(96, 192 + 64 * w, 192, 12), Scale(y, back=True)
        )
        return Plan(net, lambda a, t, _: (a - t).abs().mean(), ("ahead",), 500)
    if name == "autoencoder":
        net = dense(128, 96 + 32 * w, 12, 96 + 32 * w, 128)
        return Plan(net, lambda a, _t, xs: ((a - xs["x"]) ** 2).mean(), ("again",), 700, through="export")
    if name == "embedder":
        c = 16 + 4 * w
        net = Unit(pooled(mobilenet(c, nn.ReLU6), 4 * c, 64), 64, SHAPES)
        return Plan(
            net,
            lambda a, t, _: functional.cross_entropy(12 * a @ functional.normalize(net.centres, dim=-1).T, t),
            ("embedding",),
            260,
        )
    if name == "spotter":
        c = 32 + 8 * w
        body = nn.Sequential(
            conv(1, c, 5, 2), *[nn.Sequential(conv(c, c, 3, groups=c), conv(c, c, 1)) for _ in range(4)]
        )
        return Plan(
            nn.Sequential(pooled(body, c, 8), nn.Softmax(-1)),
            lambda a, t, _: functional.nll_loss((a + 1e-9).log(), t),
            ("words",),
            250,
        )
    if name == "denoiser":
        return Plan(Denoiser(96 + 32 * w), None, ("clean", "next_state"), 400, 3e-3)
    raise SystemExit(f"there is no net {name!r}")


def train(made: Plan, x: dict[str, Tensor], y: Tensor | None) -> float:
    """Train; return the last loss."""
    optimiser = torch.optim.Adam(made.net.parameters(), lr=made.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, made.rate * 2, total_steps=made.steps + 1)
    count, value = len(next(iter(x.values()))), torch.tensor(0.0)
    for _ in range(made.steps):
        rows = torch.randint(0, count, (min(made.batch, count),))
        part = {name: array[rows] for name, array in x.items()}
        value = made.loss(made.net(*part.values()), None if y is None else y[rows], part)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(made.net.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    return float(value)


def train_stream(made: Plan, x: dict[str, Tensor], y: Tensor) -> float:
    """Train a net with a state on streams of 100 frames, all streams at once."""
    frames, clean = x["frame"].reshape(-1, 100, 1, 65), y.reshape(-1, 100, 1, 65)
    optimiser, value = torch.optim.Adam(made.net.parameters(), lr=made.rate), torch.tensor(0.0)
    for step in range(made.steps // 5):
        state, value, start = torch.zeros(len(frames), 1, 48), torch.tensor(0.0), (step % 2) * 50
        for at in range(start, start + 50):
            answer, state = made.net(frames[:, at], state)
            value = value + (answer - clean[:, at]).abs().mean() / 50
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    return float(value)


def write(made: Plan, x: dict[str, Tensor], out: str) -> None:
    """Write the net as one ONNX file."""
    names = tuple(x)
    example = tuple(array[:2] for array in x.values())
    if made.through == "export":
        shapes = tuple({0: torch.export.Dim("batch", min=1)} for _ in names)
        program = torch.onnx.export(
            made.net, example, input_names=names, output_names=made.outputs, dynamic_shapes=shapes, dynamo=True, verbose=False,
        )  # fmt: skip
        program.save(out, external_data=False)
        return
    axes = {name: {0: "batch"} for name in (*names, *made.outputs)}
    buffer = io.BytesIO()
    torch.onnx.export(
        made.net, example, buffer, input_names=list(names), output_names=list(made.outputs), dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip
    with open(out, "wb") as file:  # noqa: PTH123
        file.write(buffer.getvalue())


def main() -> None:
    name, seed, data, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with np.load(data) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    x = {key: array for key, array in tensors.items() if key.split(".")[0] != "y"}
    y = next((array for key, array in tensors.items() if key.split(".")[0] == "y"), None)
    made = plan(name, x, y, int(np.random.default_rng(seed).integers(3)))
    value = train_stream(made, x, y) if name == "denoiser" else train(made, x, y)
    made.net.eval()
    write(made, x, out)
    print(f"{name}: loss {value:.4g}")


if __name__ == "__main__":
    main()
