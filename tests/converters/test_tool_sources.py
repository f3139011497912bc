"""PyTorch and Keras files through their real tool environments, which are made once and kept in the tests' cache."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefleet_profiles
from edgefleet_converters import errors
from edgefleet_converters.importers.encoder_decoder.greedy_search import answers_of
from edgefleet_converters.importers.encoder_decoder.writer_parts import rules_of
from edgefleet_converters.pipeline import convert
from edgefleet_converters.report import ConversionReport
from edgefleet_converters.request import ConversionRequest, DataFiles, Options
from edgefleet_converters.tools.environment import Environment
from edgefleet_converters.tools.manage import install
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.port import load
from tests.support.real_models import cache_folder

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1800)]

TORCH = """
import sys, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.dense = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(144, 10)
    def forward(self, image):
        return torch.softmax(self.dense(torch.relu(self.conv(image)).flatten(1)), 1)
folder = sys.argv[1]
torch.manual_seed(0)
net = Net().eval()
example = (torch.randn(2, 1, 8, 8),)
program = torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.export.save(program, folder + "/model.pt2")
torch.save(net.state_dict(), folder + "/weights.pt")
torch.jit.save(torch.jit.trace(net, example[0]), folder + "/script.pt")
x = torch.randn(16, 1, 8, 8)
import numpy
numpy.savez(folder + "/wanted.npz", x=x.numpy(), y=net(x).detach().numpy())
"""
EVIL = """
import io, os, sys, torch, zipfile
class Evil:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1] + "/owned",)
folder = sys.argv[1]
with zipfile.ZipFile(folder + "/model.pt2") as old, zipfile.ZipFile(folder + "/evil.pt2", "w") as new:
    for name in old.namelist():
        data = old.read(name)
        if "sample_inputs" in name:
            buffer = io.BytesIO()
            torch.save((Evil(),), buffer)
            data = buffer.getvalue()
        new.writestr(name, data)
"""
HUGGING_FACE = """
import json, numpy, os, sys, torch, transformers
folder = sys.argv[1]
torch.manual_seed(0)
small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
bert = transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=40, **small)).eval()
bert.save_pretrained(folder + "/bert")
os.mkdir(folder + "/bert/1_Pooling")
kind = "sentence_transformers.models."
json.dump([{"type": kind + "Transformer"}, {"type": kind + "Pooling"}, {"type": kind + "Normalize"}],
          open(folder + "/bert/modules.json", "w"))
json.dump({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}, open(folder + "/bert/1_Pooling/config.json", "w"))
ids = torch.randint(2, 50, (5, 7))
mask = torch.ones_like(ids)
mask[3:, 4:] = 0
with torch.no_grad():
    states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    pooled = torch.nn.functional.normalize(pooled, dim=1)
numpy.savez(folder + "/bert.npz", input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids), y=pooled)
vit = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, num_labels=3, **small)).eval()
vit.save_pretrained(folder + "/vit")
x = torch.randn(5, 3, 16, 16)
with torch.no_grad():
    numpy.savez(folder + "/vit.npz", pixel_values=x, y=vit(x).logits)
config = json.load(open(folder + "/bert/config.json"))
for name, change in {
    "code": {"auto_map": {"AutoModel": "own.Evil"}}, "odd": {"architectures": ["Evil"]},
    "lacking": {"num_hidden_layers": 2}, "decoder": {"is_decoder": True},
}.items():
    bert.save_pretrained(folder + "/" + name)
    json.dump(config | change, open(folder + "/" + name + "/config.json", "w"))
    open(folder + "/" + name + "/own.py", "w").write("import os; os.mkdir(" + repr(folder + "/owned") + ")")
"""
WRITERS = """
import json, numpy, sys, torch, transformers
folder = sys.argv[1]
torch.manual_seed(1)
heads = {part + name: value for part in ("encoder_", "decoder_") for name, value in
         {"layers": 1, "attention_heads": 2, "ffn_dim": 64}.items()}
sound = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
    vocab_size=90, num_mel_bins=8, d_model=32, max_source_positions=20, max_target_positions=24, init_std=0.4, suppress_tokens=[],
    begin_suppress_tokens=[], decoder_start_token_id=4, eos_token_id=1, pad_token_id=1, bos_token_id=1, **heads)).eval()
with torch.no_grad():  # else each token is followed by itself: the table of words is also the last layer
    for name, weight in sound.named_parameters():
        weight *= 6 if "layers" in name and "_proj" in name else 1
settings = sound.generation_config
settings._from_model_config = False
settings.lang_to_id = {"<|" + str(token) + "|>": token for token in range(5, 15)}
settings.no_timestamps_token_id, settings.suppress_tokens, settings.begin_suppress_tokens = 89, list(range(20, 60)), [1, 2]
settings.eos_token_id, settings.max_length = [1, *range(60, 70)], 20
sound.save_pretrained(folder + "/sound")
text = transformers.T5ForConditionalGeneration(transformers.T5Config(
    vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, initializer_factor=3.0, decoder_start_token_id=0,
    pad_token_id=0, eos_token_id=1)).eval()
text.generation_config.eos_token_id, text.generation_config.max_new_tokens, text.generation_config.num_beams = [1, *range(40, 50)], 9, 3
text.save_pretrained(folder + "/text")
json.dump({"model_max_length": 16}, open(folder + "/text/tokenizer_config.json", "w"))
ids = torch.randint(2, 60, (6, 7))
mask = torch.ones_like(ids)
mask[3:, 5:] = 0
for name, model, inputs in (
    ("sound", sound, {"input_features": torch.randn(6, 8, 40)}), ("text", text, {"input_ids": ids, "attention_mask": mask}),
):
    with torch.no_grad():
        tokens = model.generate(**inputs, num_beams=1, do_sample=False)
    numpy.savez(folder + "/" + name + ".npz", y=tokens, **inputs)
"""
KERAS = """
import sys, keras, numpy
folder = sys.argv[1]
keras.utils.set_random_seed(0)
net = keras.Sequential([
    keras.layers.Input((8, 8, 1), name="image"), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(),
    keras.layers.Dense(10, activation="softmax"),
])
net.save(folder + "/model.keras")
x = numpy.random.default_rng(0).standard_normal((16, 8, 8, 1)).astype("float32")
numpy.savez(folder + "/wanted.npz", x=x, y=numpy.asarray(net(x)))
keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda v: v * 2)]).save(folder + "/lambda.keras")
"""


def environment(name: str) -> Environment:
    """Return a tool's environment, made when it is not in the cache (1 to 2 GB)."""
    return install(cache_folder() / "tools", name)


def made(name: str, program: str, folder: Path) -> None:
    """Run a program with a tool's Python; it writes model files into `folder`."""
    python = str(environment(name).python)
    subprocess.run([python, "-I", "-c", program, str(folder)], check=True, capture_output=True, timeout=300)


def converted(source: Path, out: Path, **options: Any) -> ConversionReport:
    request = ConversionRequest(
        model="m", version="1", source=source, profiles=(edgefleet_profiles.load("generic-x86_64-ort"),), data=DataFiles(),
        options=Options(precision="fp32"), out_dir=out, tools_dir=cache_folder() / "tools",
    )  # fmt: skip
    return convert(replace(request, options=Options(precision="fp32", **options)), lambda _event: None)


def answers_as_wanted(report: ConversionReport, folder: Path) -> None:
    """Hold the bundle's answers against those that the framework itself gave when the file was made."""
    assert not report.refused, report.refused
    bundle = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes()))
    runtime = load("ort", bundle.read("model.onnx"))
    with np.load(folder / "wanted.npz") as wanted:
        got = next(iter(runtime.run({runtime.inputs[0].name: wanted["x"]}).values()))
        assert np.abs(got - wanted["y"]).max() < 1e-5


def test_an_exported_program_answers_as_pytorch_did(tmp_path: Path) -> None:
    made("torch", TORCH, tmp_path)
    report = converted(tmp_path / "model.pt2", tmp_path / "out")
    answers_as_wanted(report, tmp_path)
    imported = report.source["imported"]
    assert imported["tool"] == "torch"
    assert imported["compared"]["samples"] == 2
    assert report.source["inputs"][0]["name"] == "image"
    fixed = converted(tmp_path / "model.pt2", tmp_path / "fixed", shapes={"image": [1, 1, 8, 8]})
    assert fixed.source["inputs"][0]["shape"] == [1, 1, 8, 8]
    for name, told in (("weights.pt", "weights without the model"), ("script.pt", "TorchScript")):
        with pytest.raises(errors.NotAModelError, match=told):
            converted(tmp_path / name, tmp_path / "out")


def test_a_pickle_inside_an_exported_program_is_not_run(tmp_path: Path) -> None:
    made("torch", TORCH, tmp_path)
    made("torch", EVIL, tmp_path)
    with pytest.raises(errors.ToolFailedError) as caught:
        converted(tmp_path / "evil.pt2", tmp_path / "out")
    assert "weights_only" in caught.value.message.lower() or "unpickl" in caught.value.message.lower()
    assert not (tmp_path / "owned").exists()


def test_hugging_face_folders_with_safetensors_answer_as_transformers_did_and_others_are_refused(
    tmp_path: Path,
) -> None:
    made("torch", HUGGING_FACE, tmp_path)
    for name, output in (("bert", "sentence_embedding"), ("vit", "logits")):
        report = converted(tmp_path / name, tmp_path / f"out-{name}")
        assert not report.refused, report.refused
        assert report.source["imported"]["compared"]["samples"] == 3
        bundle = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes()))
        runtime = load("ort", bundle.read("model.onnx"))
        with np.load(tmp_path / f"{name}.npz") as wanted:
            got = runtime.run({spec.name: wanted[spec.name] for spec in runtime.inputs})
            assert list(got) == [output]
            assert np.abs(got[output] - wanted["y"]).max() < 1e-5
    refusals = {"code": "auto_map", "odd": "architecture 'Evil'", "lacking": "does not fit", "decoder": "decoder alone"}
    for name, told in refusals.items():
        with pytest.raises(errors.ToolFailedError, match=told):
            converted(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["sound", "text"])
def test_an_encoder_decoder_writes_the_tokens_that_transformers_writes(name: str, tmp_path: Path) -> None:
    made("torch", WRITERS, tmp_path)
    (tmp_path / name / "tokenizer_config.json").write_text(
        '{"model_max_length": 12}'
    )  # without data it says how long a text is
    report = converted(tmp_path / name, tmp_path / "out")
    assert not report.refused, report.refused
    imported = report.source["imported"]
    assert imported["compared"] == {"samples": 3, "agreeing": 3, "largest_ratio": 0.0}
    beams = "the folder asks for a search with 3 beams; the loop takes the best token of each step"
    assert imported["decoding"].get("notes") == (beams if name == "text" else None)
    bundle = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes()))
    runtime = load("ort", bundle.read("model.onnx"))
    rules = rules_of(tmp_path / name)
    assert rules is not None
    with np.load(tmp_path / f"{name}.npz") as wanted:
        tokens = runtime.run({spec.name: wanted[spec.name] for spec in runtime.inputs})["tokens"].tolist()
        assert tokens == answers_of(rules, wanted["y"].tolist())
    assert len({tuple(row) for row in tokens}) > 3


def test_a_keras_model_answers_as_keras_did_and_its_code_is_not_loaded(tmp_path: Path) -> None:
    made("tensorflow", KERAS, tmp_path)
    report = converted(tmp_path / "model.keras", tmp_path / "out")
    answers_as_wanted(report, tmp_path)
    assert report.source["imported"]["tool"] == "tensorflow"
    with pytest.raises(errors.ToolFailedError, match="Lambda"):
        converted(tmp_path / "lambda.keras", tmp_path / "out")
