"""Rows of plain numbers: what is a header, what is refused, and where the error says it stands."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from edgefleet_agent.worker.http.float_rows import (
    MAX_CELLS,
    MAX_SAMPLES,
    csv_matrix,
    float_matrix,
    matrix,
    read_csv,
    read_rows,
)
from edgefleet_agent.worker.http.wire import BadRequestError
from edgefleet_protocol.manifest import Quantization, TensorSpec
from edgefleet_runtime.preprocess import default_preprocess, parse_preprocess

SPEC = TensorSpec(name="x", dtype="float32", shape=["N", 3])


@pytest.mark.parametrize(
    ("body", "known", "names", "rows"),
    [
        (b"1,2,3\n4,5,6\n", (), (), 2),
        (b"\xef\xbb\xbf1;2\n", (), ("1;2",), None),
        (b"a,b,c\n4,5,6\n", (), ("a", "b", "c"), 1),
        (b"\r\na, b ,c\r\n\r\n4,5,6\r\n", (), ("a", "b", "c"), 1),
        (b"1,,3\n4,5,6\n", (), (), 2),
        (b"1,two,3\n", (), (), 1),
        (b",b,c\n1,2,3\n", (), ("", "b", "c"), 1),
        (b"2020,2021\n1,2\n", ("2021",), ("2020", "2021"), 1),
        (b"-1e3,nan,inf\n", (), (), 1),
    ],
)
def test_a_first_line_without_a_number_is_a_header(
    body: bytes, known: Any, names: tuple[str, ...], rows: int | None
) -> None:
    if rows is None:
        with pytest.raises(BadRequestError, match="only a line of column names"):
            read_csv(body, known)
        return
    table = read_csv(body, known)
    assert (table.names, len(table.rows)) == (names, rows)


def test_words_that_a_model_takes_are_no_header() -> None:
    assert read_csv(b"red,small\n", ("colour", "size"), words=True).names == ()
    assert read_csv(b"size,colour\nsmall,red\n", ("colour", "size"), words=True).names == ("size", "colour")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" , \n", "empty"),
        (b"\xff\xfe", "not CSV in UTF-8"),
        (b"a,b,c\n", "only a line of column names (a, b, c)"),
        (b"a,b,a\n1,2,3\n", "names a column twice"),
        (b"1,2,3\n\n1,2\n", "line 3 has 2 cells, the first line has 3"),
        (b"1,2\n", "line 1 has 2 columns; the model takes 3 numbers"),
        (b"a,b\n1,2\n", "line 2 has 2 columns (a, b); the model takes 3 numbers"),
        (b"a,b,c\n1,2,3\n1,,3\n", "line 3, column 2 (b) is empty"),
        (b"1,two,3\n", "line 1, column 2 must be a number, got 'two'"),
        (b'a,"b\nb",c\n1,2,x\n', "line 3, column 3 (c) must be a number"),
    ],
)
def test_what_does_not_fit_is_named_by_line_and_column(body: bytes, said: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        csv_matrix(body, SPEC)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 2, 3], [1, 2]], "row 2 has 2 columns"),
        ([[1, 2, None]], "row 1, column 3 is empty"),
        ([[1, 2, [3]]], "must be a number"),
        (
            [{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "d": 3}],
            "row 2 has the columns a, b, d; the first row has a, b, c",
        ),
        ([{"a": 1, "b": 2}], "row 1 has 2 columns (a, b)"),
        ([[1, 2, 3], {"a": 1}], "each row must be an object"),
        ([[1, 2, 10**400]], "must be a number"),
    ],
)
def test_json_rows_are_refused_by_row_and_column(rows: list[Any], said: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        matrix(read_rows(rows), SPEC)
    assert said in caught.value.message


def test_objects_stand_in_the_order_of_the_first_one() -> None:
    table = read_rows([{"b": 1, "a": 2, "c": "3"}, {"c": 6, "a": 5, "b": True}])
    assert matrix(table, SPEC).tolist() == [[1, 2, 3], [1, 5, 6]]


def test_only_one_input_of_real_numbers_is_a_matrix() -> None:
    int8 = TensorSpec(name="x", dtype="int8", shape=[1, 3], quantization=Quantization(scale=0.1, zero_point=0))
    line = TensorSpec(name="x", dtype="float64", shape=[3])
    for spec in (SPEC, int8, line):
        assert float_matrix(default_preprocess([spec]), [spec]) == spec
    image = TensorSpec(name="x", dtype="float32", shape=["N", 3, 8, 8])
    whole = TensorSpec(name="x", dtype="int64", shape=["N", 3])
    for specs in ([image], [whole], [SPEC, TensorSpec(name="z", dtype="float32", shape=["N", 1])]):
        assert float_matrix(default_preprocess(specs), specs) is None
    declared = parse_preprocess(b'{"inputs": [{"name": "x", "from": "columns", "columns": ["a", "b", "c"]}]}')
    assert float_matrix(declared, [SPEC]) is None


@pytest.mark.parametrize("body", [b"1\n" * 2_000_000, b"x\n" + b"1\n" * (MAX_SAMPLES + 1)])
def test_more_rows_than_one_request_may_have_are_refused_before_they_are_read(body: bytes) -> None:
    began_s = time.process_time()
    with pytest.raises(BadRequestError, match="more than the 10000 rows of one request"):
        read_csv(body)
    assert time.process_time() - began_s < 0.5
    assert len(read_csv(b"x\n" + b"1\n" * MAX_SAMPLES).rows) == MAX_SAMPLES
    with pytest.raises(BadRequestError, match="10001 rows are more than the 10000"):
        read_rows([[1.0]] * (MAX_SAMPLES + 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_csv_of_numbers_takes_little_more_memory_than_its_numbers(dtype: str) -> None:
    body = b"a" + b",a%d" * 999 % tuple(range(999)) + b"\n" + (b"1.5" + b",0.1" * 999 + b"\n") * 100
    spec = TensorSpec(name="x", dtype=dtype, shape=["N", 1000])
    tracemalloc.start()
    values = csv_matrix(body, spec)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (str(values.dtype), values.shape) == (dtype, (100, 1000))
    assert values[99, 0] == 1.5
    assert values[0, 999] == values.dtype.type(0.1)
    assert peak_bytes < 1.5 * values.nbytes + 300_000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"a,b\n" + b"1,2\n" * 6, "the CSV has more than 10 cells"),
        (b"1,2\n" + b"," * 10, "a line of the CSV has more than 10 cells"),
        (b"1,2\n" + b',,,"\n"' * 4, "a line of the CSV has more than 10 cells"),
    ],
)
def test_cells_that_are_held_as_texts_are_bounded(body: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CELLS == 1_000_000
    monkeypatch.setattr("edgefleet_agent.worker.http.float_rows.MAX_CELLS", 10)
    with pytest.raises(BadRequestError) as caught:
        read_csv(body, ("a", "b"))
    assert said in caught.value.message
    assert caught.value.next_step
