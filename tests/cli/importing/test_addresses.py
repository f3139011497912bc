"""Addresses of models: what each form means, what is refused, and that nothing secret is told on."""

from __future__ import annotations

import pytest

from edgefleet_cli.core.errors import NotYetError, UsageError
from edgefleet_cli.importing.addresses import DvcAddress, HttpAddress, MlflowAddress, S3Address, parse_address

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("mlflow:/digits@champion", MlflowAddress("digits", alias="champion")),
        ("models:/digits@champion", MlflowAddress("digits", alias="champion")),
        ("mlflow:digits@champion", MlflowAddress("digits", alias="champion")),
        ("models:/My Model/3", MlflowAddress("My Model", version="3")),
        ("mlflow:/My%20Model/12", MlflowAddress("My Model", version="12")),
        ("https://example.org/m/digits.onnx", HttpAddress("https://example.org/m/digits.onnx")),
        (f"https://example.org/d.onnx#sha256={DIGEST}", HttpAddress("https://example.org/d.onnx", DIGEST)),
        (f"http://example.org/d.onnx#sha256={DIGEST.upper()}", HttpAddress("http://example.org/d.onnx", DIGEST)),
        ("http://127.0.0.1:8000/d.onnx", HttpAddress("http://127.0.0.1:8000/d.onnx")),
        ("http://[::1]:8000/d.onnx", HttpAddress("http://[::1]:8000/d.onnx")),
        ("s3://models/digits/1/model.onnx", S3Address("models", "digits/1/model.onnx")),
        ("s3://models/digits/1/", S3Address("models", "digits/1/")),
        ("dvc:.@v1.2:models/digits.onnx", DvcAddress(".", "v1.2", "models/digits.onnx")),
        ("dvc:../repo:models", DvcAddress("../repo", "", "models")),
        ("dvc:https://git.example.org/m.git@v2:d.onnx", DvcAddress("https://git.example.org/m.git", "v2", "d.onnx")),
        ("dvc:git@git.example.org:team/m.git:d.onnx", DvcAddress("git@git.example.org:team/m.git", "", "d.onnx")),
        ("dvc:git@git.example.org:team/m.git@v2:d.onnx", DvcAddress("git@git.example.org:team/m.git", "v2", "d.onnx")),
    ],
)
def test_an_address_is_read(given: str, wanted: object) -> None:
    assert parse_address(given) == wanted


@pytest.mark.parametrize(
    "given", ["model.onnx", "./a:b.onnx", "/m/model.onnx", "file:///m/model.onnx", "C:model.onnx", "a folder"]
)
def test_what_lies_here_is_no_address(given: str) -> None:
    assert parse_address(given) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("models:/digits/Production", "stages"),
        ("models:/digits/latest", "stages"),
        ("mlflow:/digits", "NAME@ALIAS"),
        ("mlflow:/a/b@c", "NAME@ALIAS"),
        ("http://example.org/d.onnx", "changed on the way"),
        ("https://example.org/", "name of its file"),
        ("https://example.org/d.onnx#sha256=abc", "sha256"),
        ("https://example.org/d.onnx#md5=abc", "sha256"),
        ("s3://x", "BUCKET"),
        (f"s3://models/folder/#sha256={DIGEST}", "one file"),
        ("dvc:model.onnx", "REPO@REV:PATH"),
        ("dvc:repo:/etc/passwd", "REPO@REV:PATH"),
        ("dvc:--config@v1:m.onnx", "./"),
        ("dvc:repo@v1:--out=x", "./"),
    ],
)
def test_what_is_no_address_says_what_would_be(given: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(given)
    assert told in f"{caught.value.message} {caught.value.why} {caught.value.next_step}"


@pytest.mark.parametrize("given", ["hf://org/model", "gs://b/m.onnx", "azureml://x"])
def test_other_places_come_later(given: str) -> None:
    with pytest.raises(NotYetError):
        parse_address(given)


def test_what_is_told_of_an_address_holds_no_secret() -> None:
    signed = parse_address("https://ana:word@example.org:8443/m/d.onnx?X-Amz-Signature=secret")
    assert str(signed) == "https://example.org:8443/m/d.onnx"
    assert "word" not in str(parse_address("dvc:https://ana:word@git.example.org/m.git@v1:d.onnx"))


def test_the_name_of_a_registered_model_becomes_one_of_ours() -> None:
    assert MlflowAddress("My Model (v2)", alias="a").release_name == "my-model-v2"
    assert MlflowAddress("Ωmega", alias="a").release_name == "mega"
    assert MlflowAddress("***", alias="a").release_name == "model"
