"""Decoding of requests: every dtype both ways, and no bytes that do anything but be refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_agent.datatypes import DATATYPES
from edgefleet_agent.worker.http.codec import MAX_KEPT, InferCodec
from edgefleet_agent.worker.http.wire import BadRequestError, decode_request, encode_response
from edgefleet_protocol.manifest import TensorSpec

NUMBERS = [d for d in DATATYPES if d not in {"string", "bool"}]


def _spec(dtype: str) -> list[TensorSpec]:
    return [TensorSpec(name="x", dtype=dtype, shape=["n", 2])]


def _request(dtype: str, **changes: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [2, 2], "datatype": DATATYPES[dtype], **changes}]}).encode()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_number_type_in_json_and_binary(dtype: str) -> None:
    x = np.array([[0, 1], [2, 100]], dtype)
    plain = decode_request(_request(dtype, data=[0, 1, 2, 100]), None, _spec(dtype), ["y"])
    np.testing.assert_array_equal(plain.inputs["x"], x)
    head = _request(dtype, parameters={"binary_data_size": x.nbytes})
    binary = decode_request(head + x.tobytes(), len(head), _spec(dtype), ["y"])
    np.testing.assert_array_equal(binary.inputs["x"], x)
    assert plain.inputs["x"].dtype == binary.inputs["x"].dtype == np.dtype(dtype)
    body, length = encode_response({}, {"y": x}, decode_request(_request(dtype, data=[0] * 4), None, _spec(dtype), []))
    assert length is None
    assert json.loads(body)["outputs"][0] == {
        "name": "y",
        "datatype": DATATYPES[dtype],
        "shape": [2, 2],
        "data": [0, 1, 2, 100],
    }


def test_bool_and_strings() -> None:
    flags = decode_request(_request("bool", data=[True, False, True, True]), None, _spec("bool"), [])
    assert flags.inputs["x"].tolist() == [[True, False], [True, True]]
    words = ["a", "", "ü", "d"]
    plain = decode_request(_request("string", data=words), None, _spec("string"), [])
    raw = b"".join(len(w.encode()).to_bytes(4, "little") + w.encode() for w in words)
    head = _request("string", parameters={"binary_data_size": len(raw)})
    binary = decode_request(head + raw, len(head), _spec("string"), [])
    assert plain.inputs["x"].tolist() == binary.inputs["x"].tolist() == [["a", ""], ["ü", "d"]]
    with pytest.raises(BadRequestError, match="strings cannot be read"):
        decode_request(head + raw[:-1] + b"\xff", len(head), _spec("string"), [])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("int8", 128),
        ("int64", 2**63),
        ("uint64", -1),
        ("int32", 1.5),
        ("bool", 1),
        ("float32", 1e39),
        ("float16", 1e5),
        ("float64", 10**400),
    ],
)
def test_values_out_of_range_are_refused_not_wrapped(dtype: str, value: float) -> None:
    with pytest.raises(BadRequestError, match=DATATYPES[dtype]):
        decode_request(_request(dtype, data=[0 if dtype != "bool" else False] * 3 + [value]), None, _spec(dtype), [])


def test_binary_sizes_must_add_up() -> None:
    for size, extra, words in (
        (15, 0, "whole number"),
        (16, 4, "bytes of the body"),
        (12, 0, "3 values"),
        (99, 0, "99"),
    ):
        head = _request("float32", parameters={"binary_data_size": size})
        with pytest.raises(BadRequestError, match=words):
            decode_request(head + bytes(size if size < 99 else 16) + bytes(extra), len(head), _spec("float32"), [])


@settings(max_examples=100)
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300)))
def test_any_bytes_are_refused_in_words(body: bytes, header: int | None) -> None:
    with pytest.raises(BadRequestError):
        decode_request(body, header, _spec("float32"), ["y"])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(["a", "shape"]), children),
    max_leaves=8,
)


@settings(max_examples=100)
@given(_json, _json, _json, _json)
def test_any_json_in_the_fields_is_answered_or_refused(
    shape: object, datatype: object, data: object, par: object
) -> None:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data, "parameters": par}
    for changed in (
        tensor,
        {**tensor, "datatype": "FP32"},
        {**tensor, "datatype": "FP32", "shape": [1, 2], "parameters": {}},
    ):
        try:
            request = decode_request(json.dumps({"inputs": [changed]}).encode(), None, _spec("float32"), ["y"])
        except BadRequestError:
            continue
        assert request.inputs["x"].shape[1] == 2


def _head(names: list[str], size: int, **more: object) -> bytes:
    tensors = [
        {"name": n, "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}} for n in names
    ]
    return json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}, **more}).encode()


def test_what_is_remembered_of_a_head_reads_the_next_body_alike() -> None:
    specs = [TensorSpec(name=n, dtype="float32", shape=["n", 2]) for n in ("a", "b")]
    codec = InferCodec(specs, ["y", "z"], {"model_name": "m", "parameters": {"lane": "active"}})
    for pad in range(4):  # the tensors begin at any byte
        for more in ({}, {"id": "7"}, {"outputs": [{"name": "z"}]}, {"parameters": {"timeout": 5000}}):
            head = _head(["b", "a"], 16, **more) + b" " * pad
            for round_ in range(3):
                b, a = (np.random.default_rng(round_ + i).random((2, 2), dtype=np.float32) for i in (0, 9))
                body = head + b.tobytes() + a.tobytes()
                fresh = decode_request(body, len(head), specs, ["y", "z"])
                found = codec.decode(body, len(head))
                np.testing.assert_array_equal(found.inputs["a"], a)
                np.testing.assert_array_equal(found.inputs["b"], b)
                assert found.inputs["a"].flags.aligned
                assert (found.id, found.outputs, found.binary_all, found.timeout_s) == (
                    fresh.id,
                    fresh.outputs,
                    fresh.binary_all,
                    fresh.timeout_s,
                )
                outputs = {"y": a, "z": b}
                begun: dict[str, object] = {"model_name": "m"}
                if fresh.id:
                    begun["id"] = "7"
                begun["parameters"] = {"lane": "active"}
                assert codec.encode(found, outputs) == encode_response(begun, outputs, fresh)
    for broken in (body[:-1], body + b"x"):
        with pytest.raises(BadRequestError):
            codec.decode(broken, len(head))


def test_a_head_with_numbers_in_it_is_not_remembered() -> None:
    codec = InferCodec(_spec("float32"), ["y"], {})
    head = _request("float32", data=[0, 1, 2, 3])
    assert codec.decode(head, len(head)).inputs["x"].tolist() == [[0, 1], [2, 3]]
    with pytest.raises(BadRequestError, match="belong to no input"):
        codec.decode(head + bytes(16), len(head))


def test_kept_heads_are_bounded() -> None:
    codec = InferCodec(_spec("float32"), ["y"], {})
    for i in range(3 * MAX_KEPT):
        head = _request("float32", parameters={"binary_data_size": 16}) + b" " * i
        codec.decode(head + bytes(16), len(head))
        codec.encode(codec.decode(head + bytes(16), len(head)), {"y": np.zeros(i, np.float32)})
    assert len(codec._layouts) <= MAX_KEPT
    assert len(codec._documents) <= MAX_KEPT


@pytest.mark.parametrize("timeout", [-1, 1.5, "1", True, [1]])
def test_a_timeout_that_is_none_is_refused(timeout: object) -> None:
    body = json.loads(_request("float32", data=[0] * 4)) | {"parameters": {"timeout": timeout}}
    with pytest.raises(BadRequestError, match="microseconds"):
        decode_request(json.dumps(body).encode(), None, _spec("float32"), ["y"])


def test_no_values_at_all() -> None:
    for dtype in ("float32", "int32", "bool"):
        body = {"inputs": [{"name": "x", "shape": [0, 2], "datatype": DATATYPES[dtype], "data": []}]}
        assert decode_request(json.dumps(body).encode(), None, _spec(dtype), []).inputs["x"].shape == (0, 2)
