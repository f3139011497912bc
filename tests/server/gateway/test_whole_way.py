"""Enrol, sign, publish, answer: the gateway on real brokers with a real client."""

import os
import time
from collections.abc import Callable

from edgefleet_protocol.blocks import BlockError, BlockErrorCode, check_leaf
from edgefleet_protocol.desired import DESIRED_TYPE, decode_desired
from edgefleet_protocol.verify import verify_envelope
from tests.server.fleet.house import PROFILE
from tests.server.gateway.conftest import Site

WAIT_S = 20.0


def eventually(is_true: Callable[[], bool]) -> bool:
    """Wait until something holds."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def test_a_device_learns_of_a_deployment_and_pulls_the_bundle(site: Site) -> None:
    device = site.house.device()
    data = os.urandom(1_000_000)
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: data})
    there = site.connect(device)
    first = decode_desired(
        verify_envelope(there.desired.get(timeout=WAIT_S), DESIRED_TYPE, [site.house.signing.director_key()])
    )
    assert (first.device, first.gen, first.models) == (device.id, 1, {})

    done = site.house.fleet.deploy(ref, selector="")

    assert [one.device for one in done.set] == [device.id]
    raw = there.desired.get(timeout=WAIT_S)
    document = decode_desired(verify_envelope(raw, DESIRED_TYPE, [site.house.signing.director_key()]))
    assert document.gen == 2
    active = document.models["digits"].active
    assert active is not None
    bundle = site.house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    index = there.meta(f"leaves.{bundle.leaves}")
    assert isinstance(index, bytes)
    pulled = there.pull(active.sha256, active.length)
    assert pulled == data
    assert check_leaf(index, 0, pulled[:32768])
    assert there.meta("timestamp.json") == site.house.signing.metadata_file("timestamp.json")
    assert there.meta("1.root.json") == site.house.signing.root_chain()[0]
    assert there.meta("2.root.json") == "not_found"


def test_a_device_gets_no_blob_that_its_document_does_not_name(site: Site) -> None:
    mine, other = site.house.device(), site.house.device()
    ref = site.house.release("digits@1.0.0", bundles={PROFILE: b"secret" * 1000})
    site.house.fleet.deploy(ref, device=other.id)
    bundle = site.house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    there = site.connect(mine)
    assert there.desired.get(timeout=WAIT_S)
    there.ask(bundle.sha256, (0,))
    answer = there.blocks.get(timeout=WAIT_S)
    assert isinstance(answer, BlockError)
    assert answer.code is BlockErrorCode.DENIED
    assert there.meta(f"leaves.{bundle.leaves}") == "denied"
