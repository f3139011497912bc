"""Samples as frames: what goes in comes out, in whatever pieces; what is kept is bounded and holds no raw input unless told."""

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.worker.shadow.disagreements import TOP, Worst, read_kept
from edgefleet_agent.worker.shadow.frames import BadFrameError, FrameReader, Hello, Sample, encode_hello, encode_sample
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.postprocess import ArgMax, OutputRecipe, Postprocess

SAMPLE = Sample(
    inputs={"x": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.array(["a", b"\xff"], dtype=object)},
    outputs={"y": np.array(7, dtype=np.int64), "h": np.ones((2, 2), np.float16), "none": np.zeros((0, 4), np.uint8)},
    run_s=0.25,
)
HELLO = Hello(
    digest="d",
    version="1",
    outputs=[TensorSpec(name="y", dtype="int64", shape=[])],
    declared=Postprocess(outputs=[OutputRecipe(name="y", steps=[ArgMax()])]),
    labels=["a"],
)
STREAM = b"".join([*encode_hello(HELLO), *encode_sample(SAMPLE), *encode_sample(SAMPLE)])


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_frames_come_out_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    reader, found = FrameReader(), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for begin, end in itertools.pairwise(edges):
        found += reader.feed(STREAM[begin:end])
    hello, *samples = found
    assert hello == HELLO
    assert len(samples) == 2
    for sample in samples:
        assert isinstance(sample, Sample)
        assert sample.run_s == 0.25
        for side in ("inputs", "outputs"):
            for name, array in getattr(SAMPLE, side).items():
                back = getattr(sample, side)[name]
                assert back.shape == array.shape
                assert back.dtype == array.dtype
                assert back.tolist() == array.tolist()


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_waited_for(data: bytes) -> None:
    try:
        FrameReader().feed(data)
    except BadFrameError:
        return


def test_a_frame_that_announces_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadFrameError, match="announces"):
        FrameReader().feed(struct.pack("<II", 8, 2**31))


def test_only_the_worst_are_kept_without_raw_inputs_and_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "shadow" / "m.msgpack"
    worst = Worst(path, "m", "new", keep_inputs=False)
    worst.against("old")
    for i in range(TOP + 10):
        worst("disagreement", SAMPLE.inputs, {"active": i, "candidate": "x" * 20_000}, difference=i / 10)
    worst("disagreement", SAMPLE.inputs, {}, difference=0.0)
    worst.save()
    kept = read_kept(path)
    assert kept is not None
    assert [one.difference for one in kept.kept] == [i / 10 for i in range(TOP + 9, 9, -1)]
    assert all(one.inputs == {} for one in kept.kept)
    assert kept.kept[0].answers["candidate"] == "20003 bytes, too large to keep"
    assert path.stat().st_mode & 0o777 == 0o600
    again = Worst(path, "m", "new", keep_inputs=False)
    again.against("old")
    assert len(again) == TOP
    assert not again.is_worth(0.9)
    again.against("another active version")
    assert len(again) == 0


def test_equal_inputs_have_one_hash_and_others_another() -> None:
    worst = Worst(None, "m", "new", keep_inputs=True)
    worst.against("old")
    other = {**SAMPLE.inputs, "x": np.zeros((2, 3), np.float32)}
    assert worst._hash(SAMPLE.inputs) == worst._hash(dict(SAMPLE.inputs)) != worst._hash(other)
    worst.save()  # nowhere to write to is no fault
