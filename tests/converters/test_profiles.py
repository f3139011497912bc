"""The built-in hardware profiles and how one is chosen for a device."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import edgefleet_profiles
from edgefleet_profiles.evidence_gaps import findings
from edgefleet_profiles.match import DeviceFacts, fits, most_specific_of, python_fits
from edgefleet_profiles.pages import files
from edgefleet_profiles.profile import ProfileError, profile_from_dict, profile_to_dict
from edgefleet_profiles.yaml_lines import line_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"

NAMES = {
    *(f"generic-{arch}-{rest}" for arch in ("x86_64", "aarch64") for rest in ("ort", "ort-small", "litert")),
    *(f"raspberry-pi-{board}-{runtime}" for board in ("zero-2-w", "3", "4", "5") for runtime in ("ort", "litert")),
    "raspberry-pi-armv7-tflite", "jetson-orin-ort", "coral-tflite-edgetpu", "imx8m-plus-litert", "rk3588-rknn",
    "hailo-8-hailort", "qualcomm-ort-qnn", "intel-ort-openvino", "cortex-m-tflm", "esp32-tflm",
}  # fmt: skip


def test_all_promised_profiles_are_there_and_read() -> None:
    assert set(edgefleet_profiles.names()) == NAMES
    for name in edgefleet_profiles.names():
        profile = edgefleet_profiles.load(name)
        assert profile.name == name
        assert profile_from_dict(profile_to_dict(profile)) == profile


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_fact_says_where_it_comes_from(name: str) -> None:
    profile = edgefleet_profiles.load(name)
    assert findings(profile) == []
    assert "runtime" in profile.evidence


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_of_another_machine_is_called_measured(name: str) -> None:
    measured = [fact for fact in edgefleet_profiles.load(name).evidence.values() if fact.kind == "measured"]
    for fact in measured:
        assert fact.measured_on.startswith(("x86_64 EPYC", "aarch64 under user-mode emulation"))
        assert not {"cpu", "thermal", "ram_mb", "storage_mb", "match.board"} & set(fact.covers)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_name_ends_with_the_runtime_and_the_formats_fit_it(name: str) -> None:
    profile = edgefleet_profiles.load(name)
    assert f"-{profile.runtime.name}" in name
    formats = {"ort": ["onnx"], "rknn": ["onnx"], "hailort": ["onnx", "tflite"]}
    # `ort` is made here, beside what a source may be.
    sources = [form for form in profile.formats_allowed if form != "ort"]
    assert sources == formats.get(profile.runtime.name, ["tflite"])
    assert profile.runtime.name == "ort" or sources == profile.formats_allowed


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_cannot_be_made_here_is_never_chosen_for_a_device_by_itself(name: str) -> None:
    profile = edgefleet_profiles.load(name)
    agents_words = {"ort", "litert", "tflite"}
    if profile.backend.mode != "serve" or profile.runtime.name not in agents_words:
        assert set(profile.match.runtimes) - agents_words
    if profile.backend.mode != "serve":
        assert profile.backend.reason
        assert profile.backend.next_step


def test_the_small_profiles_take_models_of_256_kib() -> None:
    for name in ("generic-x86_64-ort-small", "generic-aarch64-ort-small"):
        assert edgefleet_profiles.load(name).max_model_bytes == 262_144


def test_an_unknown_profile_lists_close_names() -> None:
    with pytest.raises(edgefleet_profiles.UnknownProfileError) as caught:
        edgefleet_profiles.load("generic-x86-ort")
    assert caught.value.code == "profile.unknown"
    assert "generic-x86_64-ort" in caught.value.close
    assert "generic-x86_64-ort" in caught.value.next_step


def test_an_unknown_profile_that_is_like_none_lists_all() -> None:
    with pytest.raises(edgefleet_profiles.UnknownProfileError, match="no hardware profile") as caught:
        edgefleet_profiles.load("../../etc/passwd")
    assert "raspberry-pi-4-ort" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not YAML"),
        ("- 1", "no mapping"),
        ("name: x", "title"),
        (
            "{name: x, title: t, arch: z80, runtime: {name: ort, version: '1'}, match: {}, formats_allowed: [onnx]}",
            "z80",
        ),
        ("{name: x, colour: red}", "colour"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_bad_profile_file_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=told) as caught:
        edgefleet_profiles.load_file(path)
    assert caught.value.code == "profile.bad"


def test_a_missing_profile_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read"):
        edgefleet_profiles.load_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"arch": "x86_64", "runtimes": ["ort"]}, "generic-x86_64-ort"),
        ({"arch": "x86_64", "board": "small", "runtimes": ["ort"]}, "generic-x86_64-ort-small"),
        ({"arch": "amd64", "runtimes": [{"name": "onnxruntime", "version": "1.32.0"}]}, "generic-x86_64-ort"),
        ({"arch": "x86_64", "runtimes": ["litert"]}, "generic-x86_64-litert"),
        ({"arch": "x86_64", "runtimes": ["litert", "ort", "tflite"]}, "generic-x86_64-ort"),
        ({"arch": "aarch64", "runtimes": ["litert"], "ram_mb": 400}, "generic-aarch64-litert"),
        ({"arch": "arm64", "board": "raspberry-pi-4", "ram_mb": 4096, "runtimes": ["ort"]}, "raspberry-pi-4-ort"),
        ({"arch": "aarch64", "board": "raspberry-pi-4", "ram_mb": 512, "runtimes": ["ort"]}, "generic-aarch64-ort"),
        (
            {"arch": "aarch64", "board": "raspberry-pi-4", "ram_mb": 4096, "runtimes": ["litert"]},
            "raspberry-pi-4-litert",
        ),
        ({"arch": "armv7l", "runtimes": ["tflite"], "unknown_key": 1}, "raspberry-pi-armv7-tflite"),
    ],
)
def test_the_most_specific_profile_wins(facts: dict[str, object], expected: str) -> None:
    assert edgefleet_profiles.most_specific(facts) == expected


def test_a_device_without_a_runtime_gets_no_profile_and_is_told_what_to_install() -> None:
    with pytest.raises(edgefleet_profiles.NoProfileFitsError) as caught:
        edgefleet_profiles.most_specific({"arch": "riscv64", "runtimes": []})
    assert "riscv64" in caught.value.message
    assert "set-profile" in caught.value.next_step


@given(
    arch=st.sampled_from(["x86_64", "aarch64", "armv7l", ""]),
    board=st.sampled_from(["", "small", "raspberry-pi-4", "other"]),
    ram_mb=st.integers(0, 16_384),
    runtimes=st.frozensets(st.sampled_from(["ort", "litert", "tflite"])),
    order=st.randoms(use_true_random=False),
)
def test_the_choice_fits_and_does_not_depend_on_the_order(
    arch: str, board: str, ram_mb: int, runtimes: frozenset[str], order: object
) -> None:
    profiles = [edgefleet_profiles.load(name) for name in edgefleet_profiles.names()]
    facts = DeviceFacts(arch, board, ram_mb, runtimes)
    best = most_specific_of(profiles, facts)
    order.shuffle(profiles)  # type: ignore[attr-defined]
    assert most_specific_of(profiles, facts) == best
    if best is None:
        assert not any(fits(profile, facts) for profile in profiles)
    else:
        assert fits(best, facts)


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4-ort"),
        ("Raspberry Pi 4", "raspberry-pi-4-ort"),
        ("Raspberry Pi 400 Rev 1.0", "generic-aarch64-ort"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5-ort"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberry-pi-3-ort"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2-w-ort"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-ort"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "generic-aarch64-ort"),
        ("", "generic-aarch64-ort"),
    ],
)
def test_the_name_that_firmware_gives_chooses_the_board(board: str, expected: str) -> None:
    facts = {"arch": "aarch64", "board": board, "ram_mb": 3_900, "runtimes": [{"name": "ort", "version": "1.32.0"}]}
    assert edgefleet_profiles.most_specific(facts) == expected


def test_a_board_with_an_old_glibc_gets_the_profile_whose_wheel_it_can_load() -> None:
    both = {"arch": "aarch64", "ram_mb": 3_900, "runtimes": ["ort", "litert"], "board": "Raspberry Pi 4 Model B"}
    assert edgefleet_profiles.most_specific(both | {"glibc": "2.36", "python": "3.11.2"}) == "raspberry-pi-4-ort"
    assert edgefleet_profiles.most_specific(both | {"glibc": "2.27", "python": "3.11.2"}) == "raspberry-pi-4-litert"
    assert edgefleet_profiles.most_specific(both | {"glibc": "2.36", "python": "3.10.4"}) == "raspberry-pi-4-litert"


@pytest.mark.parametrize(
    ("version", "wanted", "fitting"),
    [
        ("3.11.7", "", True),
        ("3.11.7", ">=3.11", True),
        ("3.10.12", ">=3.11", False),
        ("3.12.0", ">=3.11,<3.12", False),
        ("3.11.9", "<=3.11", True),
        ("3.11.9", ">3.11", False),
        ("3.11.9", "==3.11", True),
        ("3.11.9", "!=3.11", False),
        ("3.13.0rc1", ">=3.13", True),
    ],
)
def test_a_python_lies_in_a_range(version: str, wanted: str, fitting: bool) -> None:
    assert python_fits(version, wanted) is fitting


GOOD = """\
name: my-board-ort
title: My board
arch: aarch64
runtime: {name: ort, version: 1.32.0}
match: {}
formats_allowed: [onnx]
quant:
  mode: allowed
"""

GOOD_KEYS: dict[str, object] = yaml.safe_load(GOOD)


@pytest.mark.parametrize(
    ("change", "key", "line"),
    [
        (("mode: allowed", "mode: alowed"), "quant.mode", 8),
        (("mode: allowed", "mood: allowed"), "quant.mood", 8),
        (("arch: aarch64", "arch: z80"), "arch", 3),
        (("[onnx]", "[tflite]"), "formats_allowed", 6),
        (("match: {}", "match: {min_ram_mb: -1}"), "match.min_ram_mb", 5),
        (("match: {}", "match: {min_ram_mb: 9}\nram_mb: 8"), "match.min_ram_mb", 5),
        (("title: My board", "title: My board\nfree_ram_budget_mb: 900\nram_mb: 512"), "free_ram_budget_mb", 3),
        (("title: My board", "title: My board\npython: 3.11 or so"), "python", 3),
        (("title: My board", "title: My board\nglibc_min: new"), "glibc_min", 3),
        (("title: My board", "title: My board\noperator_set: tflite-2.14.0"), "operator_set", 3),
        (("title: My board", "title: My board\nmax_arena_bytes: 5"), "max_arena_bytes", 3),
        (("title: My board", "title: My board\ndelegates: [tensorrt]"), "delegates", 3),
        (("version: 1.32.0}", "version: 1.32.0, wheel_tag: manylinux_2_28_x86_64}"), "runtime.wheel_tag", 4),
        (("version: 1.32.0}", "version: 1.32.0, wheel_tag: manylinux_2_28_aarch64}"), "glibc_min", None),
        (("match: {}", "match: {}\nbackend: {mode: prepare}"), "backend.mode", 6),
        (("match: {}", "match: {}\nbackend: {mode: refuse, name: a, reason: b, next_step: c}"), "backend.kind", 6),
        (("name: ort", "name: rknn"), "backend.mode", None),
        (("name: my-board-ort", "name: My Board"), "name", 1),
    ],
)
def test_a_wrong_file_names_key_and_line(change: tuple[str, str], key: str, line: int | None) -> None:
    edgefleet_profiles.parse(GOOD, origin="good.yaml")
    with pytest.raises(ProfileError) as caught:
        edgefleet_profiles.parse(GOOD.replace(*change), origin="board.yaml")
    assert caught.value.key == key
    assert (f"board.yaml, line {line}:" if line else "board.yaml:") in caught.value.message


def test_an_unknown_list_of_operators_names_a_close_one() -> None:
    text = GOOD.replace("name: ort", "name: litert").replace("[onnx]", "[tflite]") + "operator_set: tflite-2.14\n"
    with pytest.raises(ProfileError, match="line 9") as caught:
        edgefleet_profiles.parse(text, origin="board.yaml")
    assert "tflite-2.14.0" in caught.value.next_step


def test_a_file_of_an_older_edgefleet_is_read_and_its_retired_keys_are_found() -> None:
    raw = {"board": "small", "custom_ops": False}
    text = GOOD + "board: small\ncustom_ops: false\n"
    profile = edgefleet_profiles.parse(text, origin="old.yaml")
    assert [finding.key for finding in findings(profile, raw)][:2] == ["board", "custom_ops"]
    assert line_of(text, "custom_ops") == 10


@pytest.mark.parametrize("name", sorted(files()))
def test_the_written_pages_are_current(name: str) -> None:
    remedy = "run `python -m edgefleet_profiles.pages docs/reference`"
    assert (DOCS / name).read_text(encoding="utf-8") == files()[name], remedy


def test_no_page_is_left_of_a_profile_that_is_gone() -> None:
    assert {f"profiles/{path.name}" for path in (DOCS / "profiles").iterdir()} == set(files()) - {"profile.schema.json"}


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    key=st.sampled_from([*GOOD_KEYS, "evidence", "tflite_op_allowlist", "thermal", "backend", "ram_mb"]), value=_TREES
)
def test_any_value_of_any_key_is_a_profile_or_a_told_error(key: str, value: object) -> None:
    data = GOOD_KEYS | {key: value}
    with contextlib.suppress(ProfileError):
        profile = profile_from_dict(data)
        assert profile_from_dict(json.loads(json.dumps(profile_to_dict(profile)))) == profile


@given(st.text(alphabet=":-{}[]&*!?|>'\"%@`#, \n\tab1.~", max_size=60))
def test_any_text_is_a_profile_or_a_told_error(text: str) -> None:
    with pytest.raises(ProfileError):
        edgefleet_profiles.parse(text, origin="board.yaml")
    line_of(text, "quant.mode")
