"""The built-in hardware profiles and how one is chosen for a device."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgefleet_profiles
from edgefleet_profiles.match import DeviceFacts, fits, most_specific_of
from edgefleet_protocol.profile import ProfileError, profile_from_dict, profile_to_dict

NAMES = {
    "generic-x86_64-ort", "generic-x86_64-ort-small", "generic-x86_64-litert", "generic-aarch64-ort",
    "generic-aarch64-ort-small", "generic-aarch64-litert", "raspberry-pi-4-ort", "raspberry-pi-4-litert",
    "raspberry-pi-armv7-tflite",
}  # fmt: skip


def test_all_promised_profiles_are_there_and_read() -> None:
    assert set(edgefleet_profiles.names()) == NAMES
    for name in edgefleet_profiles.names():
        profile = edgefleet_profiles.load(name)
        assert profile.name == name
        assert profile_from_dict(profile_to_dict(profile)) == profile


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_profile_says_where_its_facts_come_from(name: str) -> None:
    evidence = edgefleet_profiles.load(name).evidence
    assert {"runtime", "quant", "memory"} <= set(evidence)
    assert all(fact.note for fact in evidence.values())
    assert all(fact.date and fact.measured_on for fact in evidence.values() if fact.kind == "measured")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_name_ends_with_the_runtime_and_the_formats_fit_it(name: str) -> None:
    profile = edgefleet_profiles.load(name)
    assert f"-{profile.runtime.name}" in name
    assert profile.formats_allowed == (["onnx"] if profile.runtime.name == "ort" else ["tflite"])


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
        ("Raspberry Pi 5 Model B Rev 1.0", "generic-aarch64-ort"),
        ("", "generic-aarch64-ort"),
    ],
)
def test_the_name_that_firmware_gives_chooses_the_board(board: str, expected: str) -> None:
    facts = {"arch": "aarch64", "board": board, "ram_mb": 3_900, "runtimes": [{"name": "ort", "version": "1.32.0"}]}
    assert edgefleet_profiles.most_specific(facts) == expected
