"""Uploads made to do harm: each function writes one into a folder and says how it is to be converted.

`CRAFTED` lists them by name; what differs from run to run is drawn from the generator that each is given.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.converters.crash_models import answering_nan, crashing_at_load, too_hungry
from tests.converters.graphs import classifier, model_of, samples, save


@dataclass(frozen=True)
class Upload:
    """What is converted. source: file or folder; data: side files by kind; options: as in a job's request."""

    source: Path
    data: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    profile: str = "generic-x86_64-ort"


Maker = Callable[[Path, random.Random], Upload]
OUTSIDE = "outside"
"""A folder beside the upload that nothing may read or write; `secret` in it is what paths climb to."""


def _onnx(make: Callable[[random.Random], onnx.ModelProto]) -> Maker:
    return lambda folder, draw: Upload(save(make(draw), folder))


def _cyclic(draw: random.Random) -> onnx.ModelProto:
    size = draw.randint(2, 40)
    nodes = [helper.make_node("Add", [f"v{i}", "x"], [f"v{(i + 1) % size}"], name=f"n{i}") for i in range(size)]
    return model_of([*nodes, helper.make_node("Relu", ["v0"], ["y"])], {}, {"x": [1, 4]}, {"y": [1, 4]})


def _deep(folder: Path, draw: random.Random) -> Upload:
    """`If` inside `If`: more than the converter takes, more than the parser takes, far more than the stack takes."""
    data = b""
    for _ in range(draw.choice([17, 40, 5000])):
        # GraphProto.node (1) holds NodeProto.op_type (4) and .attribute (5), which holds AttributeProto.g (6).
        data = _field(1, _field(4, b"If") + _field(5, _field(1, b"then_branch") + b"\xa0\x01\x05" + _field(6, data)))
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x08" + _field(7, data) + _field(8, b"\x10\x11"))
    return Upload(path)


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    length, size = len(data), bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + data


def _huge_input(draw: random.Random) -> onnx.ModelProto:
    size = draw.choice([2**31 - 1, 2**40, 2**62, -5])
    return model_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": [1, size]}, {"y": [1, size]})


def _huge_tensor(draw: random.Random) -> onnx.ModelProto:
    model = classifier()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2 ** draw.randint(20, 62), 2 ** draw.randint(10, 62)])
    return model


def _short_tensor(draw: random.Random) -> onnx.ModelProto:
    model = classifier()
    tensor = model.graph.initializer[draw.randrange(4)]
    tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data))]
    return model


def _wrong_shapes(draw: random.Random) -> onnx.ModelProto:
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = draw.choice([1, 15, 17, 4096])
    return model


def _many_nodes(_: random.Random) -> onnx.ModelProto:
    names = ["x", *[f"v{i}" for i in range(60_000)]]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in zip(names, [*names[1:], "y"], strict=True)]
    return model_of(nodes, {}, {"x": [1, 4]}, {"y": [1, 4]})


def _doubling_fold(draw: random.Random) -> onnx.ModelProto:
    """A few bytes that fold into gigabytes."""
    tensors = {"n": np.array([draw.choice([2**28, 2**30, 2**34])], np.int64)}
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["z"]), helper.make_node("ReduceSum", ["z"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]  # fmt: skip
    return model_of(nodes, tensors, {"x": [1, 4]}, {"y": [1, 4]})


def _recursive_function(_: random.Random) -> onnx.ModelProto:
    model = model_of([helper.make_node("F", ["x"], ["y"], domain="own")], {}, {"x": [1, 4]}, {"y": [1, 4]})
    model.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, opsets))
    return model


def _doubling_functions(_: random.Random) -> onnx.ModelProto:
    """Forty functions, each calling the next twice: 2⁴⁰ nodes when inlined."""
    model = model_of([helper.make_node("F0", ["x"], ["y"], domain="own")], {}, {"x": [1, 4]}, {"y": [1, 4]})
    model.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    for index in range(40):
        call = {"domain": "own"} if index < 39 else {}
        name = f"F{index + 1}" if index < 39 else "Relu"
        body = [helper.make_node(name, ["a"], ["m"], **call), helper.make_node(name, ["m"], ["b"], **call)]
        model.functions.append(helper.make_function("own", f"F{index}", ["a"], ["b"], body, opsets))
    return model


def _odd_versions(draw: random.Random) -> onnx.ModelProto:
    model = classifier()
    model.ir_version = draw.choice([0, 3, 99, 2**40])
    model.opset_import[0].version = draw.choice([0, 1, 28, 9999, -3])
    return model


def _sequence_input(_: random.Random) -> onnx.ModelProto:
    model = classifier()
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    return model


def _bad_sparse(draw: random.Random) -> onnx.ModelProto:
    model = classifier()
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([draw.choice([-1, 2**40]), 3], np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    return model


def _external(folder: Path, draw: random.Random) -> Upload:
    """External data that climbs, is absolute, is a link, a device or another file's bytes."""
    model = classifier()
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    (folder / "link").symlink_to(folder.parent / OUTSIDE / "secret")
    (folder / "up").symlink_to(folder.parent / OUTSIDE)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = draw.choice(
        [f"../{OUTSIDE}/secret", str(folder.parent / OUTSIDE / "secret"), "link", "up/secret", "/dev/zero", "/etc/passwd",
         "weights.bin/x", ".", "", "a\0b", "x" * 5000, "./../upload/../outside/secret"]
    )  # fmt: skip
    for key, value in (
        ("location", location),
        ("offset", draw.choice(["0", "-1", "9" * 30, "0x10"])),
        ("length", "2048"),
    ):
        tensor.external_data.add(key=key, value=value)
    save(model, folder)
    return Upload(folder)


class _Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def _pickle(folder: Path, draw: random.Random) -> Upload:
    outside = folder.parent / OUTSIDE
    command = draw.choice([f"touch {outside}/owned", f"rm -rf {outside}", f"echo owned > {folder}/owned"])
    path = folder / draw.choice(["model.pkl", "model.joblib", "model.onnx"])
    path.write_bytes(pickle.dumps(_Evil(command)))
    return Upload(path, options={"allow_pickle": draw.random() < 0.7})


def skops_file(path: Path) -> Path:
    """Write a small trained pipeline as a skops file."""
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).standard_normal((60, 4))
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, x[:, 0] > 0), path)
    return path


def _skops_schema(change: Callable[[Any, random.Random], Any]) -> Maker:
    """A skops file whose schema is changed."""

    def make(folder: Path, draw: random.Random) -> Upload:
        source = skops_file(folder / "good.skops")
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(folder / "model.skops", "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == "schema.json":
                    changed = change(json.loads(data), draw)
                    data = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
                new.writestr(name, data)
        source.unlink()
        return Upload(folder / "model.skops")

    return make


def _evil_type(schema: Any, draw: random.Random) -> Any:
    module, name = draw.choice(
        [("os", "system"), ("builtins", "exec"), ("subprocess", "Popen"), ("sklearn.base", "clone")]
    )
    schema["__module__"], schema["__class__"] = module, name
    schema["__loader__"] = draw.choice(
        ["ObjectNode", "FunctionNode", "TypeNode", "MethodNode", "PartialNode", "NoNode", 7]
    )
    return schema


def _deep_schema(schema: Any, draw: random.Random) -> bytes:
    depth = draw.choice([500, 5000, 100_000])
    return b'{"content":' * depth + json.dumps(schema).encode() + b"}" * depth


def _zip(names: Callable[[random.Random], list[tuple[str, bytes, int]]], file: str) -> Maker:
    """A zip with members of any name. Each: name, bytes, UNIX mode."""

    def make(folder: Path, draw: random.Random) -> Upload:
        path = folder / file
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data, mode in names(draw):
                info = zipfile.ZipInfo(name)
                info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        return Upload(path)

    return make


def _slip(draw: random.Random) -> list[tuple[str, bytes, int]]:
    evil = draw.choice([f"../{OUTSIDE}/owned", "/tmp/ef-owned", "a/../../../owned", "..\\owned", "C:/owned"])
    return [("schema.json", b"{}", 0o100644), ("m/archive_format", b"pt2", 0o100644), (evil, b"owned", 0o100644)]


def _link_member(_: random.Random) -> list[tuple[str, bytes, int]]:
    return [
        ("config.json", b"{}", 0o100644),
        ("metadata.json", b"{}", 0o100644),
        ("w", b"/etc/passwd", stat.S_IFLNK | 0o777),
    ]


def _bomb(_: random.Random) -> list[tuple[str, bytes, int]]:
    return [("schema.json", b"{}", 0o100644), ("0.npy", bytes(80 * 1024**2), 0o100644)]


def _many_members(_: random.Random) -> list[tuple[str, bytes, int]]:
    return [(f"m/data/{index}", b"", 0o100644) for index in range(25_000)]


def _fake(kind: str) -> Callable[[random.Random], list[tuple[str, bytes, int]]]:
    files = {
        "pt2": ["m/archive_format", "m/data.pkl"],
        "keras": ["config.json", "metadata.json"],
        "ts": ["m/code/x.py"],
    }
    return lambda draw: [(name, draw.randbytes(64), 0o100644) for name in files[kind]]


def _mlflow(folder: Path, draw: random.Random) -> Upload:
    save(classifier(), folder, "m.onnx")
    nested = "&a0 [x]\n" + "".join(f"k{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    text = draw.choice(
        [
            f"flavors: {{onnx: {{data: ../{OUTSIDE}/secret}}}}", "flavors: {onnx: {data: /etc/passwd}}",
            "flavors: {onnx: {data: ''}}", "flavors: {onnx: {data: [m.onnx]}}", "flavors: {onnx: m.onnx}", "flavors: 7", "",
            "flavors: {python_function: {loader_module: evil}}", "!!python/object/apply:os.system ['touch owned']",
            "flavors: {onnx: {data: " + "9" * 5000 + "}}", "k0: " + nested + "flavors: {onnx: {data: *a39}}",
            "[" * 20_000, "{? " * 5000, "flavors: {onnx: {data: 'm.onnx\\0'}}", "a: 2001-99-99", "? [a]\n: b\nflavors: 1",
            "flavors: &f {onnx: {data: *f}}", "# " * 200_000, "flavors: {onnx: {data: m.onnx}}",
        ]
    )  # fmt: skip
    (folder / "MLmodel").write_text(text, encoding="utf-8")
    return Upload(folder)


def _odd_mlmodel(folder: Path, draw: random.Random) -> Upload:
    save(classifier(), folder, "m.onnx")
    way = draw.choice(["fifo", "link", "folder", "bytes"])
    path = folder / "MLmodel"
    if way == "fifo":
        os.mkfifo(path)
    elif way == "link":
        path.symlink_to(folder.parent / OUTSIDE / "secret")
    elif way == "folder":
        path.mkdir()
    else:
        path.write_bytes(draw.randbytes(400))
    return Upload(folder)


def _linked_folder(folder: Path, draw: random.Random) -> Upload:
    """A Hugging Face folder whose model lies elsewhere."""
    target = folder.parent / OUTSIDE
    if draw.random() < 0.5:
        (folder / "onnx").symlink_to(target)
    else:
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").symlink_to(target / "model.onnx")
    return Upload(folder)


def npy(header: str, data: bytes = b"") -> bytes:
    """Return an .npy file with any header text."""
    padded = (header + "\n").encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def _data(folder: Path, draw: random.Random) -> Upload:
    """A sound model with sample data that is not."""
    path = folder / "data.npz"
    big = 2 ** draw.randint(30, 62)
    header = draw.choice(
        [f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({big}, 16), }}", "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
         "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 16), }", "__import__('os').system('touch owned')", "{" * 3000,
         "{'descr': [('a', '<f4', (999999, 999999))], 'fortran_order': False, 'shape': (2,), }", "{'descr': '<f4'}", "x" * 60_000]
    )  # fmt: skip
    good = io.BytesIO()
    np.save(good, np.zeros((12, 16), np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(header, bytes(64)))
        archive.writestr(draw.choice(["y.npy", "../y.npy", "z", "x.npy"]), good.getvalue())
    return Upload(save(classifier(), folder), {draw.choice(["calibration", "eval", "golden"]): str(path)})


def _data_bomb(folder: Path, _: random.Random) -> Upload:
    """An archive whose directory announces four gigabytes."""
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "x.npy", npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**24}, 64), }}", bytes(10_000))
        )
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = b"\x00\x00\x00\xf0"
    path.write_bytes(data)
    return Upload(save(classifier(), folder), {"calibration": str(path)})


def _wild_values(folder: Path, draw: random.Random) -> Upload:
    x = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32) * np.float32(
        10.0 ** draw.randint(-38, 38)
    )
    return Upload(save(classifier(), folder), {"eval": samples(folder, x=x)})


CRAFTED: dict[str, Maker] = {
    "cyclic": _onnx(_cyclic), "deep": _deep, "huge-input": _onnx(_huge_input), "huge-tensor": _onnx(_huge_tensor),
    "short-tensor": _onnx(_short_tensor), "wrong-shapes": _onnx(_wrong_shapes), "many-nodes": _onnx(_many_nodes),
    "doubling-fold": _onnx(_doubling_fold), "recursive-function": _onnx(_recursive_function),
    "doubling-functions": _onnx(_doubling_functions), "odd-versions": _onnx(_odd_versions),
    "sequence-input": _onnx(_sequence_input), "bad-sparse": _onnx(_bad_sparse), "crashing": _onnx(lambda _: crashing_at_load()),
    "nan": _onnx(lambda _: answering_nan()), "hungry": _onnx(lambda _: too_hungry()), "external": _external, "pickle": _pickle,
    "skops-type": _skops_schema(_evil_type), "skops-deep": _skops_schema(_deep_schema), "zip-slip": _zip(_slip, "model.skops"),
    "zip-link": _zip(_link_member, "model.keras"), "zip-bomb": _zip(_bomb, "model.skops"),
    "zip-members": _zip(_many_members, "model.pt2"), "fake-pt2": _zip(_fake("pt2"), "model.pt2"),
    "fake-keras": _zip(_fake("keras"), "model.keras"), "torchscript": _zip(_fake("ts"), "model.pt2"), "mlflow": _mlflow,
    "odd-mlmodel": _odd_mlmodel, "linked-folder": _linked_folder, "data": _data, "data-bomb": _data_bomb,
    "wild-values": _wild_values,
}  # fmt: skip
