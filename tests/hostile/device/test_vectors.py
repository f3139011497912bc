"""F14: a device's verifier and install child accept no hostile vector. `./dev soak hostile-vectors` uses real processes."""

import os
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.install.verifier_protocol import Fetched
from tests.hostile.device.bundle_vectors import BUNDLES
from tests.hostile.device.document_vectors import DOCUMENTS
from tests.hostile.device.metadata_vectors import METADATA
from tests.hostile.device.vectors import TABLE, outcome
from tests.hostile.device.victim import ACCEPTED, HONEST, Victim


@pytest.fixture(name="device")
def _device(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "device")


def test_each_vector_has_a_name_of_its_own() -> None:
    assert len(TABLE) == len(DOCUMENTS) + len(METADATA) + len(BUNDLES) == 210
    assert ACCEPTED not in {vector.expected for vector in TABLE.values()}


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_vector_is_refused(name: str) -> None:
    result = outcome(TABLE[name])
    assert result["good"], result


def test_what_the_vectors_are_made_from_is_accepted(device: Victim) -> None:
    assert device.newer() == ACCEPTED
    assert device.install_refusal(HONEST) == ACCEPTED


@pytest.mark.parametrize("name", ["bundle.part", "bundle", "bundle.bits", ".bundle.bits.tmp", "slot.msgpack"])
@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hardlink"])
def test_nothing_is_written_through_a_link_in_a_slot(device: Victim, tmp_path: Path, name: str, plant: Any) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_bytes(b"precious")
    slot = device.state / "models" / "digits" / "A"
    slot.mkdir(parents=True)
    plant(treasure, slot / name)
    assert isinstance(device.install(device.wanted(HONEST)), Fetched)
    assert treasure.read_bytes() == b"precious"
